"""A module for each project. Its `SUITES` are what `python -m compat` runs."""
