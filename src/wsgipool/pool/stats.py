"""The statistics of a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsgipool.histogram import Histogram
from wsgipool.pool._slot import CloseReason
from wsgipool.pool.holds import Hold


@dataclass(frozen=True)
class Stats:
    """The numbers of a pool at one moment, and its counters since it was created.

    Questions that they answer:

    - Is the pool large enough? See ``waits``, ``wait_seconds``, ``timeouts``.
    - Is it too large? See ``closed.get("idle")``.
    - Does it reuse its connections? Compare ``opened`` with ``checkouts``.
    - Is the database available? See ``connect_failures`` and ``closed.get("broken")``.
    - Does the program return its connections? See ``closed.get("leaked")``.
    """

    name: str
    """Name of the pool."""
    min_size: int
    """Number of connections that the pool keeps open."""
    max_size: int
    """Maximum number of connections."""
    size: int
    """Number of connections that are open or being opened."""
    idle: int
    """Number of connections that are open and free."""
    in_use: int
    """Number of connections that are checked out, on their way out or in, or being closed."""
    connecting: int
    """Number of connections that are being opened."""
    waiting: int
    """Number of threads that wait for a connection."""
    checkouts: int
    """Number of checkouts so far."""
    waits: int
    """Number of served threads that had to wait."""
    wait_seconds: float
    """Seconds that these threads waited in total, until they got a connection or began to open one."""
    timeouts: int
    """Number of checkouts that raised PoolTimeout."""
    refused: int
    """Number of checkouts that raised TooManyRequests."""
    opened: int
    """Number of connections opened so far."""
    connect_failures: int
    """Number of failed connects. A checkout that fails without an attempt of its own is not counted."""
    reset_failures: int
    """Number of returned connections that could not be cleaned, and were closed."""
    max_in_use: int
    """Largest number of connections in use at the same time."""
    max_waiting: int
    """Largest number of threads that waited at the same time."""
    closed: Mapping[CloseReason, int]
    """Number of connections closed so far, by reason. A reason that has not occurred is missing.

    "idle": unused for max_idle. "lifetime": max_lifetime was over. "broken": not usable again. "leaked": not returned.
    "surplus": the pool was made smaller, drained or closed. "budget": another process needed the permit.
    """


@dataclass(frozen=True)
class Observation:
    """What the scoreboard shows of a pool; see `Stats` for the fields of the same name."""

    idle: int
    in_use: int
    connecting: int
    max_in_use: int
    max_waiting: int
    checkouts: int
    without_wait: int
    """Checkouts that did not wait."""
    waits: int
    timeouts: int
    refused: int
    opened: int
    connect_failures: int
    reset_failures: int
    closed: Mapping[CloseReason, int]
    wait_time: Histogram
    use_time: Histogram
    create_time: Histogram
    """The pool's own histograms, which go on changing."""
    holders: Sequence[Hold]
    waiters: Sequence[Hold]
    """Since when they wait; their place is not known."""
    address: str
    failure: str
    """Why no connection can be opened, as far as known; "" if all is well."""
