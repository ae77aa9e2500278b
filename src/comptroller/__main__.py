"""`python -m comptroller`: the command line."""

from .cli import main

main()
