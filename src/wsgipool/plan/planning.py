"""A site's plan: its process groups, databases and their limits side by side, and sizes that fit.

The functions are pure: the caller reads httpd's configuration and asks the database servers. `sizing` has the formulae.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsgipool.plan import sizing
from wsgipool.plan.sizing import ProcessGroup, WaitEstimate, fitting_size, pool_size, shrunk, worst_case

_USER = "user "
"""The beginning of the owner of a budget that belongs to a user."""


@dataclass(frozen=True)
class Database:
    """The settings of one `[databases.NAME]` that a plan needs."""

    name: str
    max_size: int | str
    interpreters: Mapping[str, int] | None = None
    """The number of interpreters with its pool in a process, by process group; None for all of all groups."""
    budget: int | None = None
    """The connections of the [budget] of its settings, on one host."""
    folder: str = ""
    """The folder of the budget; "" for a folder of each user."""


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
    """Return a row for each database and each process group with a pool for it."""
    return [
        Row(
            group,
            database.name,
            pool_size(database.max_size, group.threads),
            worst_case([group], database.max_size, situation.hosts),
        )
        for database in situation.databases
        for group in _groups(database, situation.groups)
    ]


def _groups(database: Database, groups: Sequence[ProcessGroup]) -> list[ProcessGroup]:
    """Return the groups with a pool for a database, with the number of interpreters that have one."""
    if database.interpreters is None:
        return list(groups)
    counts = database.interpreters
    return [replace(group, interpreters=counts[group.name]) for group in groups if counts.get(group.name)]


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
    for limit in situation.limits:
        # A budget caps the sum whatever the sizes are: if it exceeds the limit, it is the budget that must shrink.
        free = _without_budget(limit, situation)
        if free and not _fitting_size(limit, replace(situation, groups=groups)):
            pools = [
                sum(each.interpreters for database in free for each in _groups(database, [group])) for group in groups
            ]
            room = _room(limit, situation)
            groups = shrunk(groups, pools, room, situation.hosts, situation.graceful_restarts)
    smaller = replace(situation, groups=groups)
    databases = [replace(database, max_size=_max_size(database, smaller)) for database in situation.databases]
    if not fits(replace(smaller, databases=databases)):
        return None
    return Fit(groups, {database.name: database.max_size for database in databases})


def wait_in(situation: Situation, row: Row, rate: float, hold: float, size: int) -> WaitEstimate:
    """Return how long requests wait for a pool of `size` in one process of a row.

    `rate` is in requests a second over all hosts and groups; the processes share it evenly. `hold` is in seconds.
    """
    processes = situation.hosts * sum(group.processes for group in situation.groups)
    return sizing.waiting(rate / processes / row.group.interpreters, hold, size)


def budgets(limit: ConnectionLimit, situation: Situation) -> Mapping[str, int]:
    """Return the connections of each budget of a host that limits a limit's databases, by its folder or user."""
    found: dict[str, int] = {}
    for database in _databases(limit, situation):
        if database.budget is not None:
            for group in _groups(database, situation.groups):
                owner = _owner(database, group)
                found[owner] = max(found.get(owner, 0), database.budget)
    return found


def budgets_in_words(shares: Mapping[str, int]) -> str:
    """Return what the budgets of a host allow: "the budget of 20 a host"."""
    sizes = sorted(set(shares.values()))
    if len(shares) == 1:
        return f"the budget of {sizes[0]} a host"
    users = all(owner.startswith(_USER) for owner in shares)
    if len(sizes) == 1:
        return f"the budget of {sizes[0]} a host for each of {len(shares)} {'users' if users else 'folders'}"
    return f"the budgets of {' and '.join(map(str, sorted(shares.values())))} a host"


def _owner(database: Database, group: ProcessGroup) -> str:
    return database.folder or f"{_USER}{group.user}"


def _worst_case(limit: ConnectionLimit, situation: Situation) -> int:
    return _budgeted(limit, situation) + sum(
        worst_case([group], database.max_size, situation.hosts)
        for database in _without_budget(limit, situation)
        for group in _groups(database, situation.groups)
    )


def _budgeted(limit: ConnectionLimit, situation: Situation) -> int:
    """Return the worst case of the databases with a budget."""
    possible: Counter[str] = Counter()
    for database in _databases(limit, situation):
        if database.budget is not None:
            for group in _groups(database, situation.groups):
                possible[_owner(database, group)] += worst_case([group], database.max_size, situation.hosts)
    allowed = budgets(limit, situation)
    return sum(min(wanted, situation.hosts * allowed[owner]) for owner, wanted in possible.items())


def _databases(limit: ConnectionLimit, situation: Situation) -> list[Database]:
    return [database for database in situation.databases if database.name in limit.databases]


def _without_budget(limit: ConnectionLimit, situation: Situation) -> list[Database]:
    return [database for database in _databases(limit, situation) if database.budget is None]


def _room(limit: ConnectionLimit, situation: Situation) -> int:
    """Return the connections that the databases without a budget may use."""
    return max(0, limit.usable - _budgeted(limit, situation))


def _fitting_size(limit: ConnectionLimit, situation: Situation) -> int:
    pools = [
        (group, database.max_size)
        for database in _without_budget(limit, situation)
        for group in _groups(database, situation.groups)
    ]
    return fitting_size(pools, _room(limit, situation), situation.hosts)


def _max_size(database: Database, situation: Situation) -> int | str:
    limits = [limit for limit in situation.limits if database.name in limit.databases and database.budget is None]
    sizes = [_fitting_size(limit, situation) for limit in limits]
    groups = _groups(database, situation.groups)
    largest = max((pool_size(database.max_size, group.threads) for group in groups), default=1)
    size = min(sizes, default=largest)
    return database.max_size if size >= largest else max(1, size)
