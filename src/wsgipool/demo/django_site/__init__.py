"""The bookshop as a Django site."""
