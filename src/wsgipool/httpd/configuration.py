"""httpd seen from outside: the processes that its configuration gives to Python, with their threads and interpreters.

The configuration is enough, no server needs to run. `process` has the view from inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsgipool.httpd import dump, live, placement, users
from wsgipool.httpd.defaults import (
    DAEMON_PROCESSES,
    DAEMON_THREADS,
    MAX_SERVER_LIMIT,
    MAX_THREAD_LIMIT,
    SERVER_LIMIT,
    THREAD_LIMIT,
    THREADS_PER_CHILD,
)
from wsgipool.httpd.dump import Directive, Dump, HttpdConfigError
from wsgipool.httpd.live import LiveServer
from wsgipool.httpd.placement import EMBEDDED, Interpreter, Placement, Site
from wsgipool.plan.sizing import GRACEFUL_RESTARTS, ProcessGroup, processes_alive

OPEN_GROUPS = ("%{RESOURCE}", "%{SERVER}", "%{HOST}", "%{ENV:")
"""Beginnings of application groups whose names depend on the request, such as on its Host header."""

PRELOAD = "handlers/preload.py"
"""The path by which the drop-in's import script is recognised."""


@dataclass(frozen=True)
class Mpm:
    """The MPM's sizes, after httpd's own corrections."""

    name: str
    processes: int
    """Processes that accept requests at once."""
    server_limit: int
    threads: int


@dataclass(frozen=True)
class Configuration:
    """The part of httpd's configuration that concerns Python."""

    program: str
    live: LiveServer | None
    """The running httpd of this configuration."""
    mpm: Mpm
    groups: Sequence[ProcessGroup]
    """The process groups that run scripts; other groups need no connection."""
    interpreters: Sequence[Interpreter]
    daemons: Mapping[str, Directive]
    """The WSGIDaemonProcess of each group."""
    defines: dict[str, str]
    """The Defines named WSGIPOOL_*."""
    drop_in: Path | None
    """The installed wsgipool.conf."""
    sites: Sequence[Site]
    """The scripts of the servers."""
    notes: Sequence[str]
    """Remarks for the administrator."""
    preloaded: frozenset[Interpreter] = frozenset()
    """The interpreters that load wsgipool's pools when their process starts."""
    unix_groups: Mapping[str, str] = field(default_factory=dict)
    """The Unix group that httpd gives to the processes of each user, if it is not the user's own."""


def read(
    program: str | None = None, options: Sequence[str] = (), graceful_restarts: int = GRACEFUL_RESTARTS
) -> Configuration:
    """Read and interpret httpd's configuration; see `as_it_runs` for the arguments. Raises HttpdConfigError."""
    return interpret(as_it_runs(program, options), graceful_restarts)


def as_it_runs(program: str | None = None, options: Sequence[str] = ()) -> Dump:
    """Return a configuration; without options, with those and the environment of the httpd that runs, if one does.

    See `dump.read` for the arguments. Raises HttpdConfigError.
    """
    if options:
        return dump.read(program, options)
    try:
        configuration = dump.read(program)
    except HttpdConfigError:
        # A variable of the running server's environment may be missing here.
        running = live.find_usual(dump.find_program(program))
        if running is None or not running.environment:
            raise
    else:
        running = live.find(configuration)
        if running is None or not (running.options or running.environment):
            return configuration
    return dump.read(program, running.options, {**os.environ, **running.environment})


def interpret(configuration: Dump, graceful_restarts: int = GRACEFUL_RESTARTS) -> Configuration:
    """Interpret a configuration. Raises HttpdConfigError if it runs no Python."""
    if "wsgi" not in configuration.modules:
        raise HttpdConfigError(
            f"the configuration of {configuration.program} does not load mod_wsgi, so nothing in it needs a pool "
            "(Debian: a2enmod wsgi)"
        )
    mpm = _mpm(configuration)
    daemons = {directive.arguments[0]: directive for directive in configuration.named("WSGIDaemonProcess")}
    placed = _placement(configuration, daemons)
    interpreters = _known(placed, configuration, daemons)
    running = live.find(configuration)
    groups = []
    for name in sorted({interpreter.group for interpreter in interpreters}):
        count = len({interpreter.application_group for interpreter in interpreters if interpreter.group == name})
        user = _user(configuration, daemons.get(name), running)
        groups.append(_group(name, mpm, daemons, count, user, graceful_restarts))
    return Configuration(
        program=configuration.program,
        live=running,
        mpm=mpm,
        groups=groups,
        interpreters=_sorted(interpreters),
        daemons=daemons,
        defines={name: value for name, value in configuration.defines.items() if name.startswith("WSGIPOOL_")},
        drop_in=_drop_in(configuration),
        sites=placed.sites,
        notes=placed.notes,
        preloaded=_preloaded(configuration),
        unix_groups=_unix_groups(configuration, daemons, running),
    )


def _mpm(configuration: Dump) -> Mpm:
    names = [name for name in SERVER_LIMIT if f"mpm_{name}" in configuration.modules]
    if not names:
        raise HttpdConfigError(f"{configuration.program} runs none of the MPMs {', '.join(SERVER_LIMIT)}")
    (name,) = names

    def last(default: int, *directives: str) -> int:
        # The last directive wins. MaxClients is the name of MaxRequestWorkers before httpd 2.3.13.
        found = configuration.named(*directives)
        return number(found[-1].arguments[0]) if found else default

    server_limit = min(max(1, last(SERVER_LIMIT[name], "ServerLimit")), MAX_SERVER_LIMIT[name])
    if name == "prefork":
        workers = last(SERVER_LIMIT[name], "MaxRequestWorkers", "MaxClients")
        return Mpm(name, min(max(1, workers), server_limit), server_limit, 1)
    thread_limit = min(max(1, last(THREAD_LIMIT, "ThreadLimit")), MAX_THREAD_LIMIT)
    threads = min(max(1, last(THREADS_PER_CHILD, "ThreadsPerChild")), thread_limit)
    workers = last(SERVER_LIMIT[name] * THREADS_PER_CHILD, "MaxRequestWorkers", "MaxClients")
    # httpd rounds down to whole processes (AH00513, AH00317), but to at least one.
    return Mpm(name, min(max(1, workers // threads), server_limit), server_limit, threads)


def number(text: str) -> int:
    """Return the number at the beginning of a text, as glibc's atoi reads it: 32 bits of it, and 0 if there is none."""
    digits = re.match(r"\s*[+-]?\d{1,40}", text, re.ASCII)
    whole = min(max(int(digits[0]), -(2**63)), 2**63 - 1) if digits else 0
    return (whole + 2**31) % 2**32 - 2**31


def _group(
    name: str, mpm: Mpm, daemons: dict[str, Directive], interpreters: int, user: str, graceful_restarts: int
) -> ProcessGroup:
    if name == EMBEDDED:
        alive = processes_alive(
            mpm.name, mpm.processes, server_limit=mpm.server_limit, graceful_restarts=graceful_restarts
        )
        return ProcessGroup(EMBEDDED, mpm.name, mpm.processes, alive, mpm.threads, interpreters, user)
    given = dump.options(daemons[name].text)
    processes = number(given.get("processes", f"{DAEMON_PROCESSES}"))
    # A group without threads serves no request; only the scripts that it imports can use a pool.
    threads = max(1, number(given.get("threads", f"{DAEMON_THREADS}")))
    return ProcessGroup(name, "daemon", processes, processes_alive("daemon", processes), threads, interpreters, user)


def _user(configuration: Dump, daemon: Directive | None, running: LiveServer | None) -> str:
    # Only root's httpd can run processes as other users.
    if running is not None and running.user != "#0":
        return users.name(running.user)
    given = dump.options(daemon.text) if daemon else {}
    return users.name(given.get("user", configuration.user))


def _unix_groups(configuration: Dump, daemons: dict[str, Directive], running: LiveServer | None) -> dict[str, str]:
    if running is not None and running.user != "#0":
        return {}
    found: dict[str, str] = {}
    for daemon in [None, *daemons.values()]:
        given = dump.options(daemon.text) if daemon else {}
        group = given.get("group", configuration.group)
        if group is not None:
            found.setdefault(_user(configuration, daemon, running), group)
    return found


def _preloaded(configuration: Dump) -> frozenset[Interpreter]:
    scripts = configuration.named("WSGIImportScript")
    return frozenset(placement.of_options(each) for each in scripts if each.arguments[0].endswith(PRELOAD))


def _placement(configuration: Dump, daemons: Mapping[str, Directive]) -> Placement:
    """Return the sites with the interpreters that run their scripts, and those of other scripts."""
    placed = placement.place(configuration, daemons)
    for script in configuration.named("WSGIImportScript"):
        if not script.arguments[0].endswith(PRELOAD):
            placed.interpreters.add(placement.of_options(script))
    if scripts := configuration.named("WSGIAuthUserScript", "WSGIAuthGroupScript", "WSGIAccessScript"):
        # mod_wsgi runs these in Apache's children, regardless of the process group.
        placed.interpreters |= {replace(placement.of_options(script), group=EMBEDDED) for script in scripts}
        placed.notes.append("scripts for authentication and access always run in Apache's own children")
    if not placed.interpreters:
        placed.notes.append("there is no WSGIScriptAlias yet, so the processes that load wsgipool's pools are counted")
        for script in configuration.named("WSGIImportScript"):
            placed.interpreters.add(placement.of_options(script))
    if not placed.interpreters:
        raise HttpdConfigError(
            f"the configuration of {configuration.program} has no WSGIScriptAlias, so nothing in it needs a pool"
        )
    return placed


def _known(placed: Placement, configuration: Dump, daemons: Mapping[str, Directive]) -> set[Interpreter]:
    """Return the interpreters whose groups exist, and add notes about what cannot be known."""
    known: set[Interpreter] = set()
    for interpreter in _sorted(placed.interpreters):
        if interpreter.group != EMBEDDED and interpreter.group not in daemons:
            placed.notes.append(f"no WSGIDaemonProcess {interpreter.group}: requests to it fail")
        else:
            known.add(interpreter)
        if interpreter.application_group.startswith(OPEN_GROUPS):
            placed.notes.append(
                f"WSGIApplicationGroup {interpreter.application_group.split(' ')[0]}: the visitor's Host header can "
                "make more interpreters, with more pools, than are counted; `WSGIApplicationGroup %{GLOBAL}` makes one"
            )
    restricted = configuration.named("WSGIRestrictEmbedded")
    if restricted and restricted[-1].arguments[0].lower() == "on":
        known = {interpreter for interpreter in known if interpreter.group != EMBEDDED}
    placed.notes[:] = list(dict.fromkeys(placed.notes))
    if not known:
        raise HttpdConfigError(
            "no process may run the configured scripts: " + "; ".join(placed.notes or ["embedded is off"])
        )
    return known


def _sorted(interpreters: Iterable[Interpreter]) -> list[Interpreter]:
    return sorted(interpreters, key=lambda interpreter: (interpreter.group, interpreter.application_group))


def _drop_in(configuration: Dump) -> Path | None:
    # The file has no directive of its own until something in it is enabled, but `wsgipool apache install` names it.
    path = configuration.defines.get("WSGIPOOL_DROP_IN")
    return Path(path) if path and os.path.lexists(path) else None
