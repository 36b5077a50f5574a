"""The test suites of others, on their stock backend and on wsgipool's: `make compat`."""
