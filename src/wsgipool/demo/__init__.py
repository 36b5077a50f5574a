"""A small bookshop that shows the pool at work: real pages, real transactions, and some that go wrong."""
