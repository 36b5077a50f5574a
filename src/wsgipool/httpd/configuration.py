"""What httpd's configuration says of the processes that will run Python: how many, with how many threads and pools.

This is the view from outside, before anything is started; `process` is the one from inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsgipool.httpd import dump, live, users
from wsgipool.httpd.defaults import DAEMON_PROCESSES, DAEMON_THREADS, SERVER_LIMIT, THREAD_LIMIT, THREADS_PER_CHILD
from wsgipool.httpd.dump import ConfigurationError, Directive, Dump, Section
from wsgipool.httpd.live import LiveServer
from wsgipool.sizing import GRACEFUL_RESTARTS, ProcessGroup, processes_alive

EMBEDDED = ""
"""The process group of Apache's own children, as mod_wsgi names it inside; %{GLOBAL} in the configuration."""

PRELOAD = "handlers/preload.py"
"""The drop-in's import script, by which its place is recognised."""


@dataclass(frozen=True)
class Mpm:
    """The MPM's sizes as httpd will use them, after its own corrections."""

    name: str
    processes: int
    """At work at once."""
    server_limit: int
    threads: int


@dataclass(frozen=True)
class Place:
    """Where the requests of a script run."""

    group: str
    interpreter: str
    """The application group as it is configured, and what tells two of that name apart."""


@dataclass(frozen=True)
class Configuration:
    """Where Python runs."""

    program: str
    live: LiveServer | None
    """The httpd that runs with it."""
    mpm: Mpm
    groups: Sequence[ProcessGroup]
    """The groups that scripts are sent to; those that no script names need no connection."""
    places: Sequence[Place]
    origins: dict[str, str]
    """Where the WSGIDaemonProcess of a group stands."""
    defines: dict[str, str]
    """The Defines of the drop-in, WSGIPOOL_*."""
    drop_in: Path | None
    """The wsgipool.conf that is part of it."""
    scripts: Sequence[Path]
    notes: Sequence[str]
    """What an administrator should know of it."""
    readers: Mapping[Path, frozenset[str]] = field(default_factory=dict)
    """By the folders of scripts: the users whose processes run those, where that can be known."""
    unix_groups: Mapping[str, str] = field(default_factory=dict)
    """By users: the group that httpd gives their processes, where that is not the user's own."""


def read(
    program: str | None = None, options: Sequence[str] = (), graceful_restarts: int = GRACEFUL_RESTARTS
) -> Configuration:
    """Return what the configuration of an httpd says; see `dump.read` for the arguments. Raises ConfigurationError."""
    return interpret(dump.read(program, options), graceful_restarts)


def interpret(configuration: Dump, graceful_restarts: int = GRACEFUL_RESTARTS) -> Configuration:
    """Return what a dump says of Python's processes. Raises ConfigurationError where it runs no Python."""
    if "wsgi" not in configuration.modules:
        raise ConfigurationError(
            f"the configuration of {configuration.program} does not load mod_wsgi, so nothing in it needs a pool "
            "(Debian: a2enmod wsgi)"
        )
    mpm = _mpm(configuration)
    daemons = {directive.arguments[0]: directive for directive in configuration.named("WSGIDaemonProcess")}
    notes: list[str] = []
    places = _places(configuration, daemons, notes)
    running = live.find(configuration)
    groups = []
    for name in sorted({place.group for place in places}):
        interpreters = len({place.interpreter for place in places if place.group == name})
        user = _user(configuration, daemons.get(name), running)
        groups.append(_group(name, mpm, daemons, interpreters, user, graceful_restarts))
    return Configuration(
        program=configuration.program,
        live=running,
        mpm=mpm,
        groups=groups,
        places=sorted(places, key=lambda place: (place.group, place.interpreter)),
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
        raise ConfigurationError(f"{configuration.program} runs none of the MPMs {', '.join(SERVER_LIMIT)}")
    (name,) = names

    def number(default: int, *directives: str) -> int:
        # The last of repeated ones wins. MaxClients is MaxRequestWorkers' name of before 2.3.13.
        found = configuration.named(*directives)
        return int(found[-1].arguments[0]) if found else default

    server_limit = max(1, number(SERVER_LIMIT[name], "ServerLimit"))
    if name == "prefork":
        workers = number(SERVER_LIMIT[name], "MaxRequestWorkers", "MaxClients")
        return Mpm(name, min(max(1, workers), server_limit), server_limit, 1)
    threads = min(number(THREADS_PER_CHILD, "ThreadsPerChild"), number(THREAD_LIMIT, "ThreadLimit"))
    workers = number(SERVER_LIMIT[name] * THREADS_PER_CHILD, "MaxRequestWorkers", "MaxClients")
    # httpd rounds down to whole processes (AH00513, AH00317) and up to one.
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
    # Only root's httpd can let its processes be others.
    if running is not None and running.user != "#0":
        return users.name(running.user)
    given = dump.options(daemon.text) if daemon else {}
    return users.name(given.get("user", configuration.user))


def _readers(
    configuration: Dump, daemons: dict[str, Directive], running: LiveServer | None
) -> dict[Path, frozenset[str]]:
    readers: dict[Path, frozenset[str]] = {}
    for alias in configuration.named("WSGIScriptAlias"):
        groups = {place.group for place in _places_of(alias, configuration)}
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


def _places(configuration: Dump, daemons: dict[str, Directive], notes: list[str]) -> set[Place]:
    places: set[Place] = set()
    for alias in configuration.named("WSGIScriptAlias", "WSGIScriptAliasMatch"):
        places |= _places_of(alias, configuration)
    for handler in configuration.named("AddHandler", "SetHandler"):
        if "wsgi-script" in handler.arguments[:1]:
            places |= _places_of(handler, configuration)
    for script in configuration.named("WSGIHandlerScript", "WSGIImportScript"):
        if not script.arguments[1 if script.name == "WSGIHandlerScript" else 0].endswith(PRELOAD):
            places |= _places_of(script, configuration)
    if configuration.named("WSGIAuthUserScript", "WSGIAuthGroupScript", "WSGIAccessScript"):
        # mod_wsgi runs these in Apache's children, whatever the process group.
        places.add(Place(EMBEDDED, "%{GLOBAL}"))
        notes.append("scripts for authentication and access always run in Apache's own children")
    if not places:
        notes.append("no WSGIScriptAlias yet: counted is where the drop-in makes its pools")
        for script in configuration.named("WSGIImportScript"):
            places |= _places_of(script, configuration)
    if not places:
        raise ConfigurationError(
            f"the configuration of {configuration.program} has no WSGIScriptAlias and no wsgipool.conf, so nothing in "
            "it needs a pool; `wsgipool apache install` adds the one"
        )
    return _known(places, configuration, daemons, notes)


def _known(places: set[Place], configuration: Dump, daemons: dict[str, Directive], notes: list[str]) -> set[Place]:
    """Return the places with groups that exist, and say what cannot be known."""
    known: set[Place] = set()
    for place in sorted(places, key=lambda place: (place.group, place.interpreter)):
        if place.group.startswith("%{"):
            notes.append(f"WSGIProcessGroup {place.group} is decided at each request: every group is counted")
            known |= {Place(name, place.interpreter) for name in [EMBEDDED, *daemons]}
        elif place.group != EMBEDDED and place.group not in daemons:
            notes.append(f"no WSGIDaemonProcess {place.group}: requests to it fail")
        else:
            known.add(place)
        if place.interpreter.startswith(("%{RESOURCE}", "%{SERVER}", "%{HOST}", "%{ENV:")):
            notes.append(
                f"WSGIApplicationGroup {place.interpreter.split(' ')[0]}: the visitor's Host header can make more "
                "interpreters, with more pools, than are counted; `WSGIApplicationGroup %{GLOBAL}` makes it one"
            )
    restricted = configuration.named("WSGIRestrictEmbedded")
    if restricted and restricted[-1].arguments[0].lower() == "on":
        known = {place for place in known if place.group != EMBEDDED}
    notes[:] = list(dict.fromkeys(notes))
    if not known:
        raise ConfigurationError(
            "no process may run the configured scripts: " + "; ".join(notes or ["embedded is off"])
        )
    return known


def _places_of(script: Directive, configuration: Dump) -> set[Place]:
    """Return where a script runs: as its own options say, or as the directives around and below it do."""
    given = dump.options(script.text)
    groups = _values(given.get("process-group"), "WSGIProcessGroup", script, configuration, "%{GLOBAL}")
    interpreters = _values(given.get("application-group"), "WSGIApplicationGroup", script, configuration, "%{RESOURCE}")
    return {
        Place(EMBEDDED if group == "%{GLOBAL}" else group, _interpreter(interpreter, script))
        for group in groups
        for interpreter in interpreters
    }


def _interpreter(value: str, script: Directive) -> str:
    # The default is one for each server and mount point; %{SERVER} is one for each server.
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
    # https://httpd.apache.org/docs/2.4/sections.html#merging: <Directory>, the shortest first, <Files>, <Location>,
    # <If>; what a virtual host says comes after what the main server says.
    order = ["directory", "directorymatch", "files", "filesmatch", "location", "locationmatch", "if"]
    if not inner:
        return (0, len(around))
    kind = inner[-1].name.lower()
    length = len(inner[0].arguments[0]) if kind == "directory" and inner[0].arguments else 0
    return (1 + order.index(kind) if kind in order else len(order), length)


def _match(inner: Sequence[Section], script: Directive) -> str:
    """Tell whether sections apply to all requests of a script ("around"), to some ("below") or to none ("")."""
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
    # Regular expressions over addresses, <If> and the like: some requests may match.
    return "below"


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _drop_in(configuration: Dump) -> Path | None:
    for directive in configuration.named("WSGIImportScript"):
        if directive.arguments[0].endswith(PRELOAD):
            return Path(directive.file)
    return None
