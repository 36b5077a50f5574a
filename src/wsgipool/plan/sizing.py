"""Formulae for the size of pools, from processes, threads and a database's limit: pure functions, no I/O.

    worst case = hosts x processes alive x interpreters x pool size,  summed over process groups and databases
    worst case <= max_connections - reserve

A thread serves one request at a time and uses one connection at a time. So a pool larger than the number of threads
has connections that no thread can use. A smaller pool saves connections and makes some requests wait.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

THREADS = "threads"
"""The `max_size` that follows the server: one connection for each thread of the process."""

THREADS_OUTSIDE_HTTPD = 10
"""Number of threads assumed outside httpd, where it is not known; connections are opened only as needed."""

GRACEFUL_RESTARTS = 1
"""Graceful restarts whose last requests may still run at the next restart, for the worker MPM."""

DEFAULT_RESERVE = 5
"""Connections of a database server that are left to others: a backup, a monitor, a cron job, a migration, a person.
The administrator's own connection is extra: MySQL and MariaDB keep one beyond max_connections for it
(https://dev.mysql.com/doc/refman/en/too-many-connections.html), PostgreSQL its superuser_reserved_connections."""


@dataclass(frozen=True)
class ProcessGroup:
    """Processes of one kind that run Python: Apache's own children, or a daemon process group."""

    name: str
    mode: str
    """"prefork", "worker" or "event" for Apache's children, else "daemon"."""
    processes: int
    """Processes that accept requests at once."""
    alive: int
    """Maximum number of processes that exist at once, each with its connections; see `processes_alive`."""
    threads: int
    """Requests that one process serves at once."""
    interpreters: int = 1
    """Application groups, each with pools of its own."""
    user: str = ""
    """The user that the processes run as."""


def pool_size(max_size: int | str, threads: int) -> int:
    """Return the maximum size of a pool in a process with `threads` threads: 1 to `threads`.

    `max_size` is a number, "threads", or "threads/N" for one connection for N threads, rounded up.
    """
    if isinstance(max_size, int):
        return min(max_size, threads)
    _, _, divisor = max_size.partition("/")
    return -(-threads // int(divisor or 1))


def processes_alive(
    mode: str, processes: int, *, server_limit: int | None = None, graceful_restarts: int = GRACEFUL_RESTARTS
) -> int:
    """Return how many processes can exist at once, including those that finish their requests after a restart.

        prefork   MaxRequestWorkers
        event     ServerLimit
        worker    MaxRequestWorkers / ThreadsPerChild x (1 + graceful restarts)
        daemon    processes=

    `processes` is the number of processes that accept requests. `server_limit` matters for event only; its default is
    `processes`.

    ServerLimit is the number of slots in httpd's scoreboard (https://httpd.apache.org/docs/2.4/mod/mpm_common.html).
    prefork and event reuse a slot only after its process has ended, prefork at most MaxRequestWorkers of them. worker
    gives the slot of a process that ends gracefully to a new process. So each graceful restart may leave processes
    behind until their last request is done. With ServerLimit 1, three restarts left 4 processes alive; only then was
    the scoreboard full (AH00288). mod_wsgi ends daemon processes before it starts new ones. tests/httpd/test_sizes.py
    counts the processes of a real httpd.
    """
    if mode == "event":
        return max(processes, server_limit or 0)
    if mode == "worker":
        return processes * (1 + graceful_restarts)
    return processes


def worst_case(groups: Iterable[ProcessGroup], max_size: int | str, hosts: int = 1) -> int:
    """Return the maximum number of connections that all processes can have open to one database at once.

    That is hosts x the sum over `groups` of processes alive x interpreters x `pool_size(max_size, threads)`. It is
    reached once every thread of every process has used a connection at the same time: pools keep their connections.
    """
    return hosts * sum(group.alive * group.interpreters * pool_size(max_size, group.threads) for group in groups)


def fitting_size(pools: Sequence[tuple[ProcessGroup, int | str]], connections: int, hosts: int = 1) -> int:
    """Return the largest `max_size`, the same for every pool, with which all pools fit into `connections`.

    `pools` are the process groups with the `max_size` of their pools; a smaller setting stays. The result 0 means that
    not even pools of one connection fit, so fewer processes are needed; see `shrunk`.
    """

    def exceeds(size: int) -> bool:
        capped = (worst_case([group], min(size, pool_size(setting, group.threads)), hosts) for group, setting in pools)
        return sum(capped) > connections

    largest = max((group.threads for group, _ in pools), default=1)
    return bisect_left(range(1, largest + 1), x=True, key=exceeds)


def shrunk(
    groups: Sequence[ProcessGroup],
    pools: Sequence[int],
    connections: int,
    hosts: int = 1,
    graceful_restarts: int = GRACEFUL_RESTARTS,
) -> list[ProcessGroup]:
    """Return the groups with fewer processes, so that pools of one connection fit into `connections`.

    `pools` is the number of pools in a process of each group; groups without pools stay. Each other group keeps the
    same share of its processes, rounded down, but at least one. If these minimums exceed the limit, the largest groups
    shrink further. The result does not fit only if one process in each group is too much. `alive` is calculated again,
    so processes that linger after graceful restarts are counted.
    """

    def with_processes(group: ProcessGroup, processes: int) -> ProcessGroup:
        alive = processes_alive(group.mode, processes, graceful_restarts=graceful_restarts)
        return replace(group, processes=processes, alive=alive)

    def needed() -> int:
        return hosts * sum(group.alive * count for group, count in zip(smaller, pools, strict=True))

    smaller = list(groups)
    whole = needed()
    if whole <= connections:
        return smaller
    for place, group in enumerate(groups):
        if pools[place]:
            alive = group.alive * connections // whole
            share = alive // (1 + graceful_restarts) if group.mode == "worker" else min(alive, group.processes)
            smaller[place] = with_processes(group, max(1, share))
    while needed() > connections and (
        large := [place for place, group in enumerate(smaller) if group.processes > 1 and pools[place]]
    ):
        largest = max(large, key=lambda place: smaller[place].alive)
        smaller[largest] = with_processes(smaller[largest], smaller[largest].processes - 1)
    return smaller


@dataclass(frozen=True)
class WaitEstimate:
    """How long requests wait for a connection."""

    busy: float
    """Average number of connections in use."""
    probability: float
    """Share of the requests that wait, 0 to 1."""
    seconds: float
    """Average wait over all requests; infinite if requests come faster than connections are returned."""


def waiting(rate: float, hold: float, size: int) -> WaitEstimate:
    """Return how long requests wait for one of `size` connections, at `rate` requests/s that hold one for `hold` s.

    busy = rate x hold is Little's law (J. D. C. Little, "A Proof for the Queuing Formula L = λW", Operations Research
    9, 1961), true for all distributions. A pool of `size` is too small if busy reaches it.

    The wait is Erlang's second formula (A. K. Erlang, 1917; L. Kleinrock, "Queueing Systems", volume 1, 1975, section
    3.5): C = the probability that all connections are busy, wait = C x hold / (size - busy). The formula assumes
    independent arrivals, exponential hold times and an unbounded queue. The few threads of a process keep the queue
    shorter, so the result is an upper estimate.
    """
    busy = rate * hold
    if busy >= size:
        return WaitEstimate(busy, 1.0, math.inf)
    # Erlang B by its recursion, which does not overflow, then C from B.
    blocked = 1.0
    for servers in range(1, size + 1):
        blocked = busy * blocked / (servers + busy * blocked)
    probability = size * blocked / (size - busy * (1 - blocked))
    return WaitEstimate(busy, probability, probability * hold / (size - busy))
