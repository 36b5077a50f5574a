"""Run the command `wsgipool` by `python -m wsgipool`."""

from wsgipool.cli import main

main()
