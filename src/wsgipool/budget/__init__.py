"""The budget: a maximum number of connections from one host to a database server, over all its processes."""
