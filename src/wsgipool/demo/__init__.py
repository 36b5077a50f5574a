"""A small bookshop that shows the pool at work: pages, transactions, and transactions that fail."""

POOL_SIZE = "threads/2"
"""Size of the pool of each process: so small that visitors wait for each other, which the pool's page shows."""
