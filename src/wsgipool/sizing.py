"""From the threads of a process to the size of its pools: pure functions, no I/O.

A thread that serves one request at a time uses one connection at a time, so a pool larger than the number of
threads holds connections that nobody can use; a smaller one trades waiting for connections.
"""

from __future__ import annotations

THREADS = "threads"
"""The `max_size` that follows the server: as many connections as the process has threads."""

THREADS_OUTSIDE_HTTPD = 10
"""The threads assumed where no server says (a command-line job, another WSGI server): an upper bound, since
connections are opened only as needed."""


def pool_size(max_size: int | str, threads: int) -> int:
    """Return the largest number of connections for a pool in a process of `threads` threads.

    `max_size` is a number, "threads", or "threads/N" for one connection to N threads, rounded up. The answer lies
    between 1 and `threads`.
    """
    if isinstance(max_size, int):
        return min(max_size, threads)
    _, _, divisor = max_size.partition("/")
    return -(-threads // int(divisor or 1))
