"""A pool, other threads around it, and the operations that the tests interrupt."""
