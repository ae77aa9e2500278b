"""`python -m comptroller`: the command line."""

from comptroller.cli import main

main()
