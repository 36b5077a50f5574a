"""One look at the databases and the host, before `wsgipool serve` starts httpd.

The functions return what they find, a line each. Those that read the site's files or connect are called as the user of
httpd's processes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsgipool import config, drivers, records
from wsgipool.budget.file import path_of
from wsgipool.budget.others import other_budgets
from wsgipool.cli.running import Shape
from wsgipool.cli.site_settings import ASK_TIMEOUT, limits_of, planned, site_databases
from wsgipool.config import DatabaseSettings, Settings
from wsgipool.doctor.advice import advice
from wsgipool.doctor.databases import examine_limits
from wsgipool.drivers import limits
from wsgipool.drivers.limits import Answer
from wsgipool.httpd.placement import EMBEDDED
from wsgipool.plan import planning
from wsgipool.plan.planning import Situation
from wsgipool.plan.sizing import DEFAULT_RESERVE, ProcessGroup
from wsgipool.shared.folder import default_folder
from wsgipool.wording import counted, rounded

_PROCESS_MEMORY = 15 * 2**20
"""Bytes of memory that each process adds at least: Python, wsgipool and a driver, without the site's own modules."""
_HTTPD_THREADS = 2
"""Threads of a process beside those that serve requests."""

_TASK_LIMITS = (Path("/proc/sys/kernel/threads-max"), Path("/proc/sys/kernel/pid_max"))


def answer_or_why(settings_file: Path, name: str) -> dict[str, Any]:
    """Return what a database says of its limits and sessions, or why that failed. Called as httpd's user."""
    database = config.load(settings_file).databases[name]
    try:
        if limits.has_limit(database.url):
            return {"answer": records.plain(limits.ask(database, ASK_TIMEOUT))}
        _open_file(database)
    except Exception as error:  # drivers raise many types
        return {"why": f"{name}: {database.url} cannot be used: {error}. {advice(error, database.url)}"}
    return {"answer": records.plain(Answer([]))}


def _open_file(database: DatabaseSettings) -> None:
    file = Path(database.url.database)
    if file.exists() or not file.parent.is_dir():  # the check creates no file
        driver = drivers.for_database(database)
        driver.close(driver.connect(ASK_TIMEOUT))


def budget_files(settings_file: Path) -> dict[str, str]:
    """Return the path of the budget file of each server. Called as the user of httpd's processes."""
    settings = config.load(settings_file)
    if settings.budget is None:
        return {}
    servers = [drivers.server_of(database.url) for database in settings.databases.values()]
    return {
        server: str(path_of(settings.runtime_dir or default_folder(), server))
        for server in servers
        if server is not None
    }


def excess(shape: Shape, settings: Settings, answers: Mapping[str, Answer]) -> list[str]:
    """Return the limits of databases that the processes can exceed."""
    databases = site_databases([(settings, None)])
    situation = Situation(
        groups=[ProcessGroup(EMBEDDED, shape.mode, shape.processes, shape.processes, shape.threads)],
        databases=planned(databases, answers),
        limits=limits_of(databases, answers, DEFAULT_RESERVE),
        graceful_restarts=0,  # nothing restarts the httpd of `serve` gracefully
    )
    findings = list(examine_limits(situation))
    remedy = _remedy(situation)
    return [f"{each.what} {each.remedy if each.code == 'budget-over-limit' else remedy}" for each in findings]


def _remedy(situation: Situation) -> str:
    fit = planning.fit(situation)
    if fit is None:
        return "No smaller sizes fit: lower the [budget], or raise the server's limit."
    (group,) = fit.groups
    sizes = [f"max_size = {size} of {name}" for name, size in fit.max_sizes.items() if isinstance(size, int)]
    fitting = " and ".join([*_processes_option(group, situation), *sizes])
    return f"What fits: {fitting}; or set a [budget]."


def _processes_option(group: ProcessGroup, situation: Situation) -> list[str]:
    return [] if group.processes == situation.groups[0].processes else [f"--processes {group.processes}"]


def shortage(shape: Shape) -> list[str]:
    """Return the resources of this host that so many processes and threads exceed."""
    found = []
    memory, available = shape.processes * _PROCESS_MEMORY, _available_memory()
    if available is not None and memory > available:
        found.append(
            f"{counted(shape.processes, 'process')} need {_gigabytes(memory)} of memory or more, and this host has "
            f"{_gigabytes(available)} available. Choose fewer --processes, with more --threads each; --processes "
            f"{max(1, os.cpu_count() or 1)} uses all processors of this host."
        )
    tasks, allowed = shape.processes * (shape.threads + _HTTPD_THREADS), _allowed_tasks()
    if allowed is not None and tasks > allowed:
        found.append(
            f"{counted(shape.processes, 'process')} of {counted(shape.threads, 'thread')} need {tasks} threads in all, "
            f"and this host allows {allowed}. Choose fewer --processes or --threads."
        )
    return found


def _gigabytes(number: int) -> str:
    return f"{rounded(number / 2**30)} GB"


def _available_memory() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _allowed_tasks() -> int | None:
    allowed = []
    for path in _TASK_LIMITS:
        with suppress(OSError, ValueError):
            allowed.append(int(path.read_text(encoding="ascii")))
    own, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if own != resource.RLIM_INFINITY and os.geteuid() != 0:  # root is not limited
        allowed.append(own)
    return min(allowed, default=None)


def second_budgets(files: Mapping[str, str]) -> list[str]:
    """Return the servers for which other processes of this host have a budget of their own."""
    return [
        f"{server} has a second budget on this host: process {other.process} of {other.user} counts its connections in "
        f"{other.folder}, this site in {Path(file).parent}; the server gets the connections of both. Run both sites as "
        "one user with the same runtime_dir, or choose [budget] connections whose sum the server allows."
        for server, file in files.items()
        for other in other_budgets(Path(file))
    ]
