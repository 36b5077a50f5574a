"""What httpd's configuration says of a site's pools: where Python runs, how long a request may, what httpd corrects."""

from __future__ import annotations

from collections.abc import Iterator

from wsgipool.config import Settings
from wsgipool.doctor.findings import Finding
from wsgipool.httpd import dump
from wsgipool.httpd.configuration import EMBEDDED, Configuration
from wsgipool.httpd.dump import Directive, Dump
from wsgipool.wording import counted, rounded

_OPEN_GROUPS = ("%{RESOURCE}", "%{SERVER}", "%{HOST}", "%{ENV:")
"""Application groups whose names are made of the visitor's Host header, or of anything else that a request brings."""

_EMBEDDED_LANGUAGES = frozenset({"php", "php5", "php7", "perl", "python"})
"""Modules that want prefork: what they run need not be thread-safe."""

_MUCH = 1.5
"""A request-timeout of more than this times the pool's timeout is well above it."""


def examine(configuration: Dump, site: Configuration, settings: Settings | None) -> Iterator[Finding]:
    """Yield what can be seen in the configuration; `settings` is None where there are none to compare with."""
    yield from _interpreters(site)
    yield from _corrections(configuration)
    yield from _prefork(configuration, site)
    yield from _rotation(configuration, site)
    if settings is not None:
        yield from _sizes(site, settings)
        yield from _request_timeouts(configuration, site, settings)


def _interpreters(site: Configuration) -> Iterator[Finding]:
    names = {place.interpreter.split(" ")[0] for place in site.places}
    for name in sorted(names):
        if name.startswith(_OPEN_GROUPS):
            yield Finding(
                "interpreters-multiply-pools",
                f"The application group {name} is a new interpreter, with pools of its own, for each host name, port "
                "and script that a request names; the visitor's Host header can make more of them than were counted.",
                "WSGIApplicationGroup %{GLOBAL}, as wsgipool.conf has it, or a fixed name.",
            )
        elif "|" in name:
            yield Finding(
                "interpreters-multiply-pools",
                f"The application group {name} has a name like those that mod_wsgi makes of a server, port and script: "
                "one for each of them, with pools of its own.",
                "WSGIApplicationGroup %{GLOBAL}, as wsgipool.conf has it, or a plain name for all of them.",
            )


def _corrections(configuration: Dump) -> Iterator[Finding]:
    if configuration.warnings:
        yield Finding(
            "sizes-corrected",
            "httpd does not take the sizes that are configured: " + " ".join(configuration.warnings),
            "Write what shall be: MaxRequestWorkers = processes x ThreadsPerChild, not above ServerLimit x "
            "ThreadsPerChild. `Define WSGIPOOL_SIZING` and the sizes in wsgipool.conf do it.",
        )


def _prefork(configuration: Dump, site: Configuration) -> Iterator[Finding]:
    children = [group for group in site.groups if group.name == EMBEDDED and group.mode == "prefork"]
    # No driver that a URL can name wants a process to itself: PEP 249's threadsafety is 1 or more for all of them.
    if children and not _EMBEDDED_LANGUAGES & configuration.modules.keys():
        yield Finding(
            "prefork-without-need",
            f"prefork needs a process, and so a connection, for each of {counted(children[0].processes, 'request')} at "
            "once, and "
            "nothing here seems to need it: the database drivers are thread-safe.",
            "If the site's own code is thread-safe as well, let it run under worker or event or in daemon mode "
            "(`Define WSGIPOOL_DAEMON`), where requests share a few processes and their pools.",
        )


def _rotation(configuration: Dump, site: Configuration) -> Iterator[Finding]:
    keep_alive = _last(configuration, "KeepAlive", "On").lower() == "on"
    rotates = _last(configuration, "WSGISocketRotation", "On").lower() == "on"
    if keep_alive and rotates and any(group.mode == "daemon" for group in site.groups):
        # https://modwsgi.readthedocs.io/en/master/configuration-directives/WSGISocketRotation.html
        yield Finding(
            "socket-rotation",
            "After a graceful restart, which is what logrotate does each night, Apache's old children still serve "
            "visitors with an open keep-alive connection, but the daemon processes listen on a new socket: these "
            "visitors get 503.",
            "WSGISocketRotation Off, unless a restart is to part old configuration and new for good.",
        )


def _sizes(site: Configuration, settings: Settings) -> Iterator[Finding]:
    most = max(group.threads for group in site.groups)
    for database in settings.databases.values():
        if isinstance(database.max_size, int) and database.max_size > most:
            yield Finding(
                "max-size-above-threads",
                f"{database.origin}.max_size = {database.max_size} is more than the {counted(most, 'thread')} of "
                "a process can use.",
                'max_size = "threads", the default, follows the server.',
            )


def _request_timeouts(configuration: Dump, site: Configuration, settings: Settings) -> Iterator[Finding]:
    used = {group.name for group in site.groups}
    for daemon in configuration.named("WSGIDaemonProcess"):
        seconds = _request_timeout(daemon)
        given = f"request-timeout={rounded(seconds, 6)}"
        if daemon.arguments[0] not in used or not seconds:
            continue
        for database in settings.databases.values():
            timeout = rounded(database.timeout, 6)
            if seconds <= database.timeout:
                yield Finding(
                    "request-timeout-below-timeout",
                    f"{daemon.origin}: {given} is not above {database.origin}.timeout = {timeout}: mod_wsgi ends the "
                    "process while a request still waits for its connection, and the others in it with it.",
                    f"timeout = {rounded(seconds / 2, 6)} for {database.name}, or a request-timeout above {timeout}.",
                )
            elif 0 < _MUCH * database.timeout < seconds:
                yield Finding(
                    "request-timeout-above-timeout",
                    f"{daemon.origin}: with {given} a request that hangs may keep its connection for longer than "
                    f"others wait for one: {database.origin}.timeout = {timeout}.",
                    f"A request-timeout a little above {timeout}, and a read_timeout in the database's URL.",
                )


def _request_timeout(daemon: Directive) -> float:
    return float(dump.options(daemon.text).get("request-timeout") or 0)


def _last(configuration: Dump, name: str, default: str) -> str:
    found = configuration.named(name)
    return found[-1].arguments[0] if found else default
