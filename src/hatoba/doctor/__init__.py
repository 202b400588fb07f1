"""A registry seen from outside: a client that pushes, pulls and deletes, and names what is in the way."""
