"""A small bookshop that shows the pool at work: pages, transactions, and transactions that fail."""
