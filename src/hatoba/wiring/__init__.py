"""Settings -> running parts. The only package that names concrete drivers and engines; opens and closes in order."""
