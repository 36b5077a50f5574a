"""`python -m wsgipool` is the command `wsgipool`."""

from wsgipool.cli import main

main()
