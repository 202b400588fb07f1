"""`python -m hatoba`: the same as the command `hatoba`."""

from hatoba.cli import main

main()
