"""A site's plan: its process groups, its databases and their limits put side by side, and sizes that fit.

Pure: what httpd's configuration and the database servers say comes in, nothing is read here. The formulae are those of
`sizing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wsgipool import sizing
from wsgipool.sizing import ProcessGroup, Waiting, fitting_size, pool_size, shrunk, worst_case


@dataclass(frozen=True)
class Database:
    """One `[databases.NAME]`, as far as a plan needs it."""

    name: str
    max_size: int | str


@dataclass(frozen=True)
class Limit:
    """Connections that some databases share."""

    name: str
    """What limits, in words: "max_connections of db:3306"."""
    connections: int
    reserve: int
    """How many of them are left to others."""
    databases: Sequence[str]
    refusal: str
    """What the server says to who comes too late."""
    budget: int | None = None
    """The most that one host's [budget] lets its processes have, where it has one."""
    each_user: bool = False
    """Whether each user of a host has such a budget, and not all of them one."""

    @property
    def usable(self) -> int:
        return max(0, self.connections - self.reserve)


@dataclass(frozen=True)
class Row:
    """A process group's pools for one database."""

    group: ProcessGroup
    database: str
    pool_size: int
    worst_case: int


@dataclass(frozen=True)
class Sum:
    """What the rows of a limit come to."""

    limit: Limit
    worst_case: int

    @property
    def headroom(self) -> int:
        return self.limit.usable - self.worst_case

    @property
    def refused(self) -> int:
        """Connections, at worst, beyond what the server allows once the reserve is in use."""
        return max(0, -self.headroom)


@dataclass(frozen=True)
class Situation:
    """What a plan is made for."""

    groups: Sequence[ProcessGroup]
    databases: Sequence[Database]
    limits: Sequence[Limit]
    hosts: int = 1
    graceful_restarts: int = sizing.GRACEFUL_RESTARTS


@dataclass(frozen=True)
class Fit:
    """Sizes with which every limit holds."""

    groups: Sequence[ProcessGroup]
    max_sizes: Mapping[str, int | str]
    """`max_size` for each database."""


def rows(situation: Situation) -> list[Row]:
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
    return [Sum(limit, _worst_case(limit, situation)) for limit in situation.limits]


def fits(situation: Situation) -> bool:
    return all(total.headroom >= 0 for total in sums(situation))


def fit(situation: Situation) -> Fit | None:
    """Return sizes that fit, those of now where they do; None where one process a group, one connection a pool do not.

    Pools become smaller before processes become fewer: a smaller pool costs only those requests that would have been
    in the database at the same moment.
    """
    groups = situation.groups
    # What a budget does not hold, no sizes do: the budget is too large.
    sized = [limit for limit in situation.limits if limit.budget is None]
    for limit in sized:
        if not fitting_size(groups, _settings(situation, limit.databases), limit.usable, situation.hosts):
            groups = shrunk(groups, len(limit.databases), limit.usable, situation.hosts, situation.graceful_restarts)
    smaller = replace(situation, groups=groups)
    databases = [replace(database, max_size=_max_size(database, smaller, sized)) for database in situation.databases]
    if not fits(replace(smaller, databases=databases)):
        return None
    return Fit(groups, {database.name: database.max_size for database in databases})


def wait_in(situation: Situation, row: Row, rate: float, hold: float, size: int) -> Waiting:
    """Return what a pool of `size` costs in one process of a row.

    `rate` is in requests a second, over all hosts and groups, spread evenly over their processes.
    """
    processes = situation.hosts * sum(group.processes for group in situation.groups)
    return sizing.waiting(rate / processes / row.group.interpreters, hold, size)


def budgets(limit: Limit, situation: Situation) -> int:
    """Return how many budgets a host has for what a limit is about."""
    return len({group.user for group in situation.groups}) if limit.each_user else 1


def _worst_case(limit: Limit, situation: Situation) -> int:
    possible: Counter[str] = Counter()
    for row in rows(situation):
        if row.database in limit.databases:
            possible[row.group.user if limit.each_user else ""] += row.worst_case
    if limit.budget is None:
        return possible.total()
    return sum(min(wanted, situation.hosts * limit.budget) for wanted in possible.values())


def _max_size(database: Database, situation: Situation, limits: Iterable[Limit]) -> int | str:
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
