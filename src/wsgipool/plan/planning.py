"""A site's plan: its process groups, databases and their limits side by side, and sizes that fit.

The functions are pure: the caller reads httpd's configuration and asks the database servers. `sizing` has the formulae.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wsgipool.plan import sizing
from wsgipool.plan.sizing import ProcessGroup, WaitEstimate, fitting_size, pool_size, shrunk, worst_case


@dataclass(frozen=True)
class Database:
    """The settings of one `[databases.NAME]` that a plan needs."""

    name: str
    max_size: int | str


@dataclass(frozen=True)
class ConnectionLimit:
    """A limit on connections that some databases share."""

    name: str
    """The limiting setting, in words: "max_connections of db:3306"."""
    connections: int
    reserve: int
    """Connections that are left to others."""
    databases: Sequence[str]
    refusal: str
    """The server's error for a connection beyond the limit."""
    budget: int | None = None
    """The [budget] of one host, if it has one."""
    each_user: bool = False
    """Whether each user of a host has a budget of its own."""
    others: int = 0
    """Connections that others have now."""

    @property
    def kept(self) -> int:
        """Connections that the site may not use: the reserve, or what others have now if that is more."""
        return max(self.reserve, self.others)

    @property
    def usable(self) -> int:
        """Connections that the site may use."""
        return max(0, self.connections - self.kept)

    @property
    def kept_in_words(self) -> str:
        """The end of a sentence about `connections`; "" if the site may use all."""
        if self.others > self.reserve:
            return f", {self.others} of them used by others now"
        return f", {self.reserve} of them reserved for others" if self.reserve else ""


@dataclass(frozen=True)
class Row:
    """A process group's pools for one database."""

    group: ProcessGroup
    database: str
    pool_size: int
    worst_case: int


@dataclass(frozen=True)
class Sum:
    """The total of a limit's rows."""

    limit: ConnectionLimit
    worst_case: int

    @property
    def headroom(self) -> int:
        """Usable connections that the worst case leaves free; negative if it exceeds the limit."""
        return self.limit.usable - self.worst_case

    @property
    def refused(self) -> int:
        """Connections that the server refuses in the worst case, with the others' share in use."""
        return max(0, -self.headroom)


@dataclass(frozen=True)
class Situation:
    """The site that a plan is made for."""

    groups: Sequence[ProcessGroup]
    databases: Sequence[Database]
    limits: Sequence[ConnectionLimit]
    hosts: int = 1
    graceful_restarts: int = sizing.GRACEFUL_RESTARTS


@dataclass(frozen=True)
class Fit:
    """Sizes that respect every limit."""

    groups: Sequence[ProcessGroup]
    max_sizes: Mapping[str, int | str]
    """`max_size` of each database."""


def rows(situation: Situation) -> list[Row]:
    """Return a row for each database and process group."""
    return [
        Row(
            group,
            database.name,
            pool_size(database.max_size, group.threads),
            worst_case([group], database.max_size, situation.hosts),
        )
        for database in situation.databases
        for group in situation.groups
    ]


def sums(situation: Situation) -> list[Sum]:
    """Return the total for each limit."""
    return [Sum(limit, _worst_case(limit, situation)) for limit in situation.limits]


def fits(situation: Situation) -> bool:
    """Return whether every limit holds in the worst case."""
    return all(total.headroom >= 0 for total in sums(situation))


def fit(situation: Situation) -> Fit | None:
    """Return sizes that fit, the current ones if possible; None if even one process a group with pools of one do not.

    Pools shrink before processes become fewer: a smaller pool delays only requests that need the database at the same
    moment.
    """
    groups = situation.groups
    # A budget caps the sum whatever the sizes are: if it exceeds the limit, it is the budget that must shrink.
    sized = [limit for limit in situation.limits if limit.budget is None]
    for limit in sized:
        if not fitting_size(groups, _settings(situation, limit.databases), limit.usable, situation.hosts):
            groups = shrunk(groups, len(limit.databases), limit.usable, situation.hosts, situation.graceful_restarts)
    smaller = replace(situation, groups=groups)
    databases = [replace(database, max_size=_max_size(database, smaller, sized)) for database in situation.databases]
    if not fits(replace(smaller, databases=databases)):
        return None
    return Fit(groups, {database.name: database.max_size for database in databases})


def wait_in(situation: Situation, row: Row, rate: float, hold: float, size: int) -> WaitEstimate:
    """Return how long requests wait for a pool of `size` in one process of a row.

    `rate` is in requests a second over all hosts and groups; the processes share it evenly. `hold` is in seconds.
    """
    processes = situation.hosts * sum(group.processes for group in situation.groups)
    return sizing.waiting(rate / processes / row.group.interpreters, hold, size)


def budgets(limit: ConnectionLimit, situation: Situation) -> int:
    """Return how many budgets a host has for one limit."""
    return len({group.user for group in situation.groups}) if limit.each_user else 1


def _worst_case(limit: ConnectionLimit, situation: Situation) -> int:
    possible: Counter[str] = Counter()
    for row in rows(situation):
        if row.database in limit.databases:
            possible[row.group.user if limit.each_user else ""] += row.worst_case
    if limit.budget is None:
        return possible.total()
    return sum(min(wanted, situation.hosts * limit.budget) for wanted in possible.values())


def _max_size(database: Database, situation: Situation, limits: Iterable[ConnectionLimit]) -> int | str:
    sizes = [
        fitting_size(situation.groups, _settings(situation, limit.databases), limit.usable, situation.hosts)
        for limit in limits
        if database.name in limit.databases
    ]
    largest = max((pool_size(database.max_size, group.threads) for group in situation.groups), default=1)
    size = min(sizes, default=largest)
    return database.max_size if size >= largest else max(1, size)


def _settings(situation: Situation, names: Iterable[str]) -> list[int | str]:
    return [database.max_size for database in situation.databases if database.name in names]
