"""HTTP. The only package that knows of it; asks the rules in `registry` and never rows or bytes."""
