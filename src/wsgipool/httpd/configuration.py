"""httpd seen from outside: the processes that its configuration gives to Python, with their threads and interpreters.

The configuration is enough, no server needs to run. `process` has the view from inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsgipool.httpd import dump, live, users
from wsgipool.httpd.defaults import DAEMON_PROCESSES, DAEMON_THREADS, SERVER_LIMIT, THREAD_LIMIT, THREADS_PER_CHILD
from wsgipool.httpd.dump import Directive, Dump, HttpdConfigError, Section
from wsgipool.httpd.live import LiveServer
from wsgipool.plan.sizing import GRACEFUL_RESTARTS, ProcessGroup, processes_alive

EMBEDDED = ""
"""Process group of Apache's own children, as mod_wsgi names it; %{GLOBAL} in the configuration."""

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
class Interpreter:
    """An interpreter that runs requests: an application group in a process group."""

    group: str
    """The process group; EMBEDDED for Apache's own children."""
    application_group: str
    """Its configured name, followed by the virtual host and path where one name means several interpreters."""


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
    origins: dict[str, str]
    """File and line of the WSGIDaemonProcess of each group."""
    defines: dict[str, str]
    """The Defines named WSGIPOOL_*."""
    drop_in: Path | None
    """The included wsgipool.conf."""
    scripts: Sequence[Path]
    notes: Sequence[str]
    """Remarks for the administrator."""
    readers: Mapping[Path, frozenset[str]] = field(default_factory=dict)
    """The users whose processes run the scripts in each folder, as far as known."""
    unix_groups: Mapping[str, str] = field(default_factory=dict)
    """The Unix group that httpd gives to the processes of each user, if it is not the user's own."""


def read(
    program: str | None = None, options: Sequence[str] = (), graceful_restarts: int = GRACEFUL_RESTARTS
) -> Configuration:
    """Read and interpret httpd's configuration; see `dump.read` for the arguments. Raises HttpdConfigError."""
    return interpret(dump.read(program, options), graceful_restarts)


def interpret(configuration: Dump, graceful_restarts: int = GRACEFUL_RESTARTS) -> Configuration:
    """Interpret a configuration. Raises HttpdConfigError if it runs no Python."""
    if "wsgi" not in configuration.modules:
        raise HttpdConfigError(
            f"the configuration of {configuration.program} does not load mod_wsgi, so nothing in it needs a pool "
            "(Debian: a2enmod wsgi)"
        )
    mpm = _mpm(configuration)
    daemons = {directive.arguments[0]: directive for directive in configuration.named("WSGIDaemonProcess")}
    notes: list[str] = []
    interpreters = _interpreters(configuration, daemons, notes)
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
        interpreters=sorted(interpreters, key=lambda interpreter: (interpreter.group, interpreter.application_group)),
        origins={name: directive.origin for name, directive in daemons.items()},
        defines={name: value for name, value in configuration.defines.items() if name.startswith("WSGIPOOL_")},
        drop_in=_drop_in(configuration),
        scripts=[Path(directive.arguments[1]) for directive in configuration.named("WSGIScriptAlias")],
        notes=notes,
        readers=_readers(configuration, daemons, running),
        unix_groups=_unix_groups(configuration, daemons, running),
    )


def _mpm(configuration: Dump) -> Mpm:
    names = [name for name in SERVER_LIMIT if f"mpm_{name}" in configuration.modules]
    if not names:
        raise HttpdConfigError(f"{configuration.program} runs none of the MPMs {', '.join(SERVER_LIMIT)}")
    (name,) = names

    def number(default: int, *directives: str) -> int:
        # The last directive wins. MaxClients is the name of MaxRequestWorkers before httpd 2.3.13.
        found = configuration.named(*directives)
        return int(found[-1].arguments[0]) if found else default

    server_limit = max(1, number(SERVER_LIMIT[name], "ServerLimit"))
    if name == "prefork":
        workers = number(SERVER_LIMIT[name], "MaxRequestWorkers", "MaxClients")
        return Mpm(name, min(max(1, workers), server_limit), server_limit, 1)
    threads = min(number(THREADS_PER_CHILD, "ThreadsPerChild"), number(THREAD_LIMIT, "ThreadLimit"))
    workers = number(SERVER_LIMIT[name] * THREADS_PER_CHILD, "MaxRequestWorkers", "MaxClients")
    # httpd rounds down to whole processes (AH00513, AH00317), but to at least one.
    return Mpm(name, min(max(1, workers // threads), server_limit), server_limit, threads)


def _group(
    name: str, mpm: Mpm, daemons: dict[str, Directive], interpreters: int, user: str, graceful_restarts: int
) -> ProcessGroup:
    if name == EMBEDDED:
        alive = processes_alive(
            mpm.name, mpm.processes, server_limit=mpm.server_limit, graceful_restarts=graceful_restarts
        )
        return ProcessGroup(EMBEDDED, mpm.name, mpm.processes, alive, mpm.threads, interpreters, user)
    given = dump.options(daemons[name].text)
    processes = int(given.get("processes", DAEMON_PROCESSES))
    threads = int(given.get("threads", DAEMON_THREADS))
    return ProcessGroup(name, "daemon", processes, processes_alive("daemon", processes), threads, interpreters, user)


def _user(configuration: Dump, daemon: Directive | None, running: LiveServer | None) -> str:
    # Only root's httpd can run processes as other users.
    if running is not None and running.user != "#0":
        return users.name(running.user)
    given = dump.options(daemon.text) if daemon else {}
    return users.name(given.get("user", configuration.user))


def _readers(
    configuration: Dump, daemons: dict[str, Directive], running: LiveServer | None
) -> dict[Path, frozenset[str]]:
    readers: dict[Path, frozenset[str]] = {}
    for alias in configuration.named("WSGIScriptAlias"):
        groups = {interpreter.group for interpreter in _interpreters_of(alias, configuration)}
        names = [*daemons, EMBEDDED] if any(group.startswith("%{") for group in groups) else groups
        users_here = {_user(configuration, daemons.get(name), running) for name in names}
        folder = Path(alias.arguments[1]).parent
        readers[folder] = readers.get(folder, frozenset()) | users_here
    return readers


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


def _interpreters(configuration: Dump, daemons: dict[str, Directive], notes: list[str]) -> set[Interpreter]:
    interpreters: set[Interpreter] = set()
    for alias in configuration.named("WSGIScriptAlias", "WSGIScriptAliasMatch"):
        interpreters |= _interpreters_of(alias, configuration)
    for handler in configuration.named("AddHandler", "SetHandler"):
        if "wsgi-script" in handler.arguments[:1]:
            interpreters |= _interpreters_of(handler, configuration)
    for script in configuration.named("WSGIHandlerScript", "WSGIImportScript"):
        if not script.arguments[1 if script.name == "WSGIHandlerScript" else 0].endswith(PRELOAD):
            interpreters |= _interpreters_of(script, configuration)
    if configuration.named("WSGIAuthUserScript", "WSGIAuthGroupScript", "WSGIAccessScript"):
        # mod_wsgi runs these in Apache's children, regardless of the process group.
        interpreters.add(Interpreter(EMBEDDED, "%{GLOBAL}"))
        notes.append("scripts for authentication and access always run in Apache's own children")
    if not interpreters:
        notes.append("there is no WSGIScriptAlias yet, so the processes in which the drop-in makes pools are counted")
        for script in configuration.named("WSGIImportScript"):
            interpreters |= _interpreters_of(script, configuration)
    if not interpreters:
        raise HttpdConfigError(
            f"the configuration of {configuration.program} has no WSGIScriptAlias and no wsgipool.conf, so nothing in "
            "it needs a pool; `wsgipool apache install` adds wsgipool.conf"
        )
    return _known(interpreters, configuration, daemons, notes)


def _known(
    interpreters: set[Interpreter], configuration: Dump, daemons: dict[str, Directive], notes: list[str]
) -> set[Interpreter]:
    """Return the interpreters whose groups exist, and add notes about what cannot be known."""
    known: set[Interpreter] = set()
    for interpreter in sorted(interpreters, key=lambda interpreter: (interpreter.group, interpreter.application_group)):
        if interpreter.group.startswith("%{"):
            notes.append(f"WSGIProcessGroup {interpreter.group} is decided at each request, so every group is counted")
            known |= {Interpreter(name, interpreter.application_group) for name in [EMBEDDED, *daemons]}
        elif interpreter.group != EMBEDDED and interpreter.group not in daemons:
            notes.append(f"no WSGIDaemonProcess {interpreter.group}: requests to it fail")
        else:
            known.add(interpreter)
        if interpreter.application_group.startswith(("%{RESOURCE}", "%{SERVER}", "%{HOST}", "%{ENV:")):
            notes.append(
                f"WSGIApplicationGroup {interpreter.application_group.split(' ')[0]}: the visitor's Host header can "
                "make more interpreters, with more pools, than are counted; `WSGIApplicationGroup %{GLOBAL}` makes one"
            )
    restricted = configuration.named("WSGIRestrictEmbedded")
    if restricted and restricted[-1].arguments[0].lower() == "on":
        known = {interpreter for interpreter in known if interpreter.group != EMBEDDED}
    notes[:] = list(dict.fromkeys(notes))
    if not known:
        raise HttpdConfigError("no process may run the configured scripts: " + "; ".join(notes or ["embedded is off"]))
    return known


def _interpreters_of(script: Directive, configuration: Dump) -> set[Interpreter]:
    """Return the interpreters that run a script, by its own options or by the directives that apply to it."""
    given = dump.options(script.text)
    groups = _values(given.get("process-group"), "WSGIProcessGroup", script, configuration, "%{GLOBAL}")
    names = _values(given.get("application-group"), "WSGIApplicationGroup", script, configuration, "%{RESOURCE}")
    return {
        Interpreter(EMBEDDED if group == "%{GLOBAL}" else group, _application_group(name, script))
        for group in groups
        for name in names
    }


def _application_group(value: str, script: Directive) -> str:
    # %{RESOURCE}, the default, is an interpreter for each server and mount point; %{SERVER} is one for each server.
    host = next((str(section.number) for section in script.sections if section.name == "VirtualHost"), "main")
    if value == "%{RESOURCE}":
        return f"{value} {host} {script.arguments[0]}"
    return f"{value} {host}" if value == "%{SERVER}" else value


def _values(given: str | None, name: str, script: Directive, configuration: Dump, default: str) -> set[str]:
    if given is not None:
        return {given}
    host = [section for section in script.sections if section.name == "VirtualHost"]
    base, rank, below = default, (-1, 0), set()
    for directive in configuration.named(name):
        around = [section for section in directive.sections if section.name == "VirtualHost"]
        if around and around != host:
            continue
        inner = directive.sections[len(around) :]
        value = directive.arguments[0]
        match = _match(inner, script)
        if match == "below":
            below.add(value)
        elif match == "around" and (own := _rank(around, inner)) >= rank:
            base, rank = value, own
    return {base} | below


def _rank(around: Sequence[Section], inner: Sequence[Section]) -> tuple[int, int]:
    # The order of https://httpd.apache.org/docs/2.4/sections.html#merging: <Directory>, the shortest first, <Files>,
    # <Location>, <If>; virtual hosts after the main server.
    order = ["directory", "directorymatch", "files", "filesmatch", "location", "locationmatch", "if"]
    if not inner:
        return (0, len(around))
    kind = inner[-1].name.lower()
    length = len(inner[0].arguments[0]) if kind == "directory" and inner[0].arguments else 0
    return (1 + order.index(kind) if kind in order else len(order), length)


def _match(inner: Sequence[Section], script: Directive) -> str:
    """Return "around" if sections apply to all requests of a script, "below" for some of them, "" for none."""
    if not inner:
        return "around"
    kind, arguments = inner[0].name.lower(), inner[0].arguments
    if script.name not in ("WSGIScriptAlias", "WSGIScriptAliasMatch") or not arguments:
        own = [section for section in script.sections if section.name != "VirtualHost"]
        return "around" if own[: len(inner)] == list(inner) else "below"
    mount, file = script.arguments[0], script.arguments[1]
    pattern = arguments[-1]
    if kind == "directory" and len(arguments) == 1:
        return "around" if _is_below(file, pattern) else ""
    if kind == "directorymatch":
        return "around" if re.search(pattern, file) else ""
    if kind == "files" and len(arguments) == 1:
        return "around" if Path(file).name == pattern else ""
    if kind == "location" and len(arguments) == 1 and script.name == "WSGIScriptAlias":
        if _is_below(mount, pattern):
            return "around"
        return "below" if _is_below(pattern, mount) else ""
    # Regular expressions over URLs, <If> and the like may match some requests.
    return "below"


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _drop_in(configuration: Dump) -> Path | None:
    for directive in configuration.named("WSGIImportScript"):
        if directive.arguments[0].endswith(PRELOAD):
            return Path(directive.file)
    return None
