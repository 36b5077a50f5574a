"""From processes, threads and a database's limit to the size of pools: pure functions, no I/O.

    worst case = hosts x processes alive x interpreters x pool size,  summed over process groups and databases
    worst case <= max_connections - reserve

A thread that serves one request at a time uses one connection at a time, so a pool larger than the number of
threads holds connections that nobody can use; a smaller one trades waiting for connections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

THREADS = "threads"
"""The `max_size` that follows the server: as many connections as the process has threads."""

THREADS_OUTSIDE_HTTPD = 10
"""The threads assumed where no server says (a command-line job, another WSGI server): an upper bound, since
connections are opened only as needed."""

GRACEFUL_RESTARTS = 1
"""Graceful restarts whose last requests may still run when the next comes, for worker: a deployment, or logrotate's."""

DEFAULT_RESERVE = 5
"""Connections of a database server left to others: a backup, a monitor, a cron job, a migration, a person. The
administrator's own is not among them: MySQL and MariaDB keep one beyond max_connections for it
(https://dev.mysql.com/doc/refman/en/too-many-connections.html), PostgreSQL its superuser_reserved_connections, which
are no part of the limit here."""


@dataclass(frozen=True)
class ProcessGroup:
    """Processes of one kind that run Python: Apache's own children, or a daemon process group."""

    name: str
    mode: str
    """"prefork", "worker" or "event" for Apache's children, else "daemon"."""
    processes: int
    """At work at once."""
    alive: int
    """The most that exist at once, each with the connections of its pools; see `processes_alive`."""
    threads: int
    """Requests that one process serves at once."""
    interpreters: int = 1
    """Application groups, each of which has pools of its own."""
    user: str = ""
    """Whom they run as."""


def pool_size(max_size: int | str, threads: int) -> int:
    """Return the largest number of connections for a pool in a process of `threads` threads.

    `max_size` is a number, "threads", or "threads/N" for one connection to N threads, rounded up. The answer lies
    between 1 and `threads`.
    """
    if isinstance(max_size, int):
        return min(max_size, threads)
    _, _, divisor = max_size.partition("/")
    return -(-threads // int(divisor or 1))


def processes_alive(
    mode: str, processes: int, *, server_limit: int | None = None, graceful_restarts: int = GRACEFUL_RESTARTS
) -> int:
    """Return how many processes can exist at once, those that end their last requests after a restart included.

        prefork   MaxRequestWorkers
        event     ServerLimit
        worker    MaxRequestWorkers / ThreadsPerChild x (1 + graceful restarts)
        daemon    processes=

    `processes` are those at work; `server_limit` counts for event only, and is `processes` where it is not given.

    ServerLimit is the number of slots in httpd's scoreboard (https://httpd.apache.org/docs/2.4/mod/mpm_common.html).
    prefork and event give a slot away when its process has ended, prefork no more of them than MaxRequestWorkers.
    worker gives the slot of a process that ends gracefully to a new one, so each graceful restart may leave its
    processes behind until their last request is done: with ServerLimit 1 there were 4 after three restarts, and only
    then was the scoreboard full (AH00288). mod_wsgi ends daemon processes before it starts new ones.
    tests/httpd/test_sizes.py counts processes in a real httpd.
    """
    if mode == "event":
        return max(processes, server_limit or 0)
    if mode == "worker":
        return processes * (1 + graceful_restarts)
    return processes


def worst_case(groups: Iterable[ProcessGroup], max_size: int | str, hosts: int = 1) -> int:
    """Return the most connections that all processes can have open to one database at once.

    hosts x the sum over `groups` of processes alive x interpreters x `pool_size(max_size, threads)`: every thread of
    every process has used a connection at the same time once, and the pools keep what they have opened.
    """
    return hosts * sum(group.alive * group.interpreters * pool_size(max_size, group.threads) for group in groups)


def fitting_size(
    groups: Sequence[ProcessGroup], max_sizes: Iterable[int | str], connections: int, hosts: int = 1
) -> int:
    """Return the largest number for the `max_size` of every pool with which they all fit into `connections`.

    `max_sizes` are the settings of the databases that share those connections; one that asks for less keeps that.
    0 means that not even pools of one connection fit: then it takes fewer processes, see `shrunk`.
    """
    settings = list(max_sizes)
    for size in range(max((group.threads for group in groups), default=1), 0, -1):
        capped = [
            worst_case([group], min(size, pool_size(setting, group.threads)), hosts)
            for setting in settings
            for group in groups
        ]
        if sum(capped) <= connections:
            return size
    return 0


def shrunk(
    groups: Sequence[ProcessGroup],
    databases: int,
    connections: int,
    hosts: int = 1,
    graceful_restarts: int = GRACEFUL_RESTARTS,
) -> list[ProcessGroup]:
    """Return the groups with so many fewer processes that pools of one connection fit into `connections`.

    Each group keeps the same share of its processes, rounded down, and one at least; what small groups have too much by
    that, the largest do without. Only where one process in each group is too much does the outcome not fit. What may
    exist after graceful restarts is part of the count: `alive` becomes what `processes_alive` says of the new number.
    """

    def with_processes(group: ProcessGroup, processes: int) -> ProcessGroup:
        alive = processes_alive(group.mode, processes, graceful_restarts=graceful_restarts)
        return replace(group, processes=processes, alive=alive)

    def needed() -> int:
        return databases * worst_case(smaller, 1, hosts)

    smaller = list(groups)
    whole = needed()
    if whole <= connections:
        return smaller
    for place, group in enumerate(groups):
        alive = group.alive * connections // whole
        share = alive // (1 + graceful_restarts) if group.mode == "worker" else min(alive, group.processes)
        smaller[place] = with_processes(group, max(1, share))
    while needed() > connections and (large := [place for place, group in enumerate(smaller) if group.processes > 1]):
        largest = max(large, key=lambda place: smaller[place].alive)
        smaller[largest] = with_processes(smaller[largest], smaller[largest].processes - 1)
    return smaller


@dataclass(frozen=True)
class Waiting:
    """What a pool costs its requests."""

    busy: float
    """Connections of the pool in use on average."""
    probability: float
    """Share of the requests that wait, 0 to 1."""
    seconds: float
    """The average wait over all requests; infinite where requests come faster than connections come back."""


def waiting(rate: float, hold: float, size: int) -> Waiting:
    """Return how long requests wait for one of `size` connections, at `rate` requests a second that hold one `hold` s.

    busy = rate x hold: Little's law (J. D. C. Little, "A Proof for the Queuing Formula L = λW", Operations Research 9,
    1961), whatever the distributions are. At `size` or above it no pool of that size suffices.

    The wait is Erlang's second formula (A. K. Erlang, 1917; L. Kleinrock, "Queueing Systems", volume 1, 1975, section
    3.5): C = the probability that all are busy, wait = C x hold / (size - busy). It takes arrivals as independent, hold
    times as exponential and the queue as unbounded; with a process's few threads the queue is shorter, so it is an
    upper estimate.
    """
    busy = rate * hold
    if busy >= size:
        return Waiting(busy, 1.0, math.inf)
    # Erlang B by its recursion, which neither overflows nor needs factorials, then C from B.
    blocked = 1.0
    for servers in range(1, size + 1):
        blocked = busy * blocked / (servers + busy * blocked)
    probability = size * blocked / (size - busy * (1 - blocked))
    return Waiting(busy, probability, probability * hold / (size - busy))
