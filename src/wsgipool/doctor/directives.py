"""Findings in httpd's configuration: interpreters, corrected sizes, prefork, sockets and request timeouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wsgipool.config import Settings
from wsgipool.doctor.findings import Finding
from wsgipool.httpd import dump
from wsgipool.httpd.configuration import OPEN_GROUPS, Configuration, number
from wsgipool.httpd.dump import Directive, Dump
from wsgipool.httpd.placement import EMBEDDED
from wsgipool.wording import counted, rounded

_EMBEDDED_LANGUAGES = frozenset({"php", "php5", "php7", "perl", "python"})
"""Modules that need prefork, since the code that they run may not be thread-safe."""

_MUCH = 1.5
"""A request-timeout is much longer than the pool's timeout from this factor on."""


def examine(configuration: Dump, site: Configuration, settings: Settings | None) -> Iterator[Finding]:
    """Yield the findings in the configuration; `settings` is None if there are no usable settings."""
    yield from _interpreters(site)
    yield from _shared_interpreters(site)
    yield from _not_pooled(site)
    yield from _corrections(configuration)
    yield from _prefork(configuration, site)
    yield from _rotation(configuration, site)
    if settings is not None:
        yield from _sizes(site, settings)
        yield from _request_timeouts(configuration, site, settings)


def _interpreters(site: Configuration) -> Iterator[Finding]:
    names = {interpreter.application_group.split(" ")[0] for interpreter in site.interpreters}
    for name in sorted(names):
        if name.startswith(OPEN_GROUPS):
            yield Finding(
                "interpreters-multiply-pools",
                f"With the application group {name}, mod_wsgi makes a new interpreter with pools of its own for each "
                "host name, port and script that a request names; the visitor's Host header can add any number.",
                "Use WSGIApplicationGroup %{GLOBAL} or a fixed name; `wsgipool apache install` prints the lines.",
            )
        elif "|" in name:
            yield Finding(
                "interpreters-multiply-pools",
                f"The application group {name} looks like a name that mod_wsgi makes of a server, port and script: "
                "one interpreter for each of them, with pools of its own.",
                "Use WSGIApplicationGroup %{GLOBAL} or a plain name.",
            )


def _shared_interpreters(site: Configuration) -> Iterator[Finding]:
    for interpreter in site.interpreters:
        scripts = sorted({str(each.script) for each in site.sites if interpreter in each.interpreters})
        # Scripts of one folder belong together.
        if len({str(Path(script).parent) for script in scripts}) > 1:
            place = interpreter.group or "Apache's own children"
            yield Finding(
                "scripts-share-interpreter",
                f"{' and '.join(scripts)} run in one interpreter ({interpreter.application_group} of {place}): they "
                "share modules, sys.path, os.environ and one wsgipool.toml, so one site may get the other's modules.",
                "Give each site a WSGIDaemonProcess or a WSGIApplicationGroup of its own, unless they belong together.",
            )


def _not_pooled(site: Configuration) -> Iterator[Finding]:
    for each in site.sites:
        if not each.interpreters & site.preloaded:
            yield Finding(
                "site-not-pooled",
                f"{each.server}, {each.script} ({each.directive.origin}): no process loads wsgipool's pools for this "
                "site when it starts. If the site uses wsgipool, its settings are read at the first request.",
                "Print the site's lines with `wsgipool apache install`; a site without databases, and a site whose "
                "framework has the settings, needs none.",
            )


def _corrections(configuration: Dump) -> Iterator[Finding]:
    if configuration.warnings:
        yield Finding(
            "sizes-corrected",
            "httpd corrects the configured sizes: " + " ".join(configuration.warnings),
            "Set MaxRequestWorkers to processes x ThreadsPerChild, at most ServerLimit x ThreadsPerChild. "
            "`Define WSGIPOOL_SIZING` and the sizes in wsgipool.conf do so.",
        )


def _prefork(configuration: Dump, site: Configuration) -> Iterator[Finding]:
    children = [group for group in site.groups if group.name == EMBEDDED and group.mode == "prefork"]
    # All drivers that a URL can name are thread-safe: their PEP 249 threadsafety is at least 1.
    if children and not _EMBEDDED_LANGUAGES & configuration.modules.keys():
        yield Finding(
            "prefork-without-need",
            f"prefork needs a process, and so a connection, for each of {counted(children[0].processes, 'request')} at "
            "once, but nothing here seems to need prefork: the database drivers are thread-safe.",
            "If the site's own code is thread-safe too, run it under worker or event or in daemon mode "
            "(WSGIDaemonProcess), where requests share a few processes and their pools.",
        )


def _rotation(configuration: Dump, site: Configuration) -> Iterator[Finding]:
    keep_alive = _last(configuration, "KeepAlive", "On").lower() == "on"
    rotates = _last(configuration, "WSGISocketRotation", "On").lower() == "on"
    if keep_alive and rotates and any(group.mode == "daemon" for group in site.groups):
        # https://modwsgi.readthedocs.io/en/master/configuration-directives/WSGISocketRotation.html
        yield Finding(
            "socket-rotation",
            "After a graceful restart, such as logrotate's each night, Apache's old children still serve keep-alive "
            "connections, but the new daemon processes listen on another socket: these visitors get 503.",
            "Set WSGISocketRotation Off, unless old children must not reach daemons of the new configuration.",
        )


def _sizes(site: Configuration, settings: Settings) -> Iterator[Finding]:
    threads = max(group.threads for group in site.groups)
    for database in settings.databases.values():
        if isinstance(database.max_size, int) and database.max_size > threads:
            yield Finding(
                "max-size-above-threads",
                f"{database.origin}.max_size = {database.max_size} is more than the {counted(threads, 'thread')} of "
                "a process can use.",
                'Use max_size = "threads", the default, which follows the server.',
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
                    "process, with all its requests, while one of them still waits for its connection.",
                    f"Set timeout = {rounded(seconds / 2, 6)} for {database.name}, or request-timeout above {timeout}.",
                )
            elif 0 < _MUCH * database.timeout < seconds:
                yield Finding(
                    "request-timeout-above-timeout",
                    f"{daemon.origin}: with {given}, a request that hangs may keep its connection for longer than "
                    f"other requests wait for one: {database.origin}.timeout = {timeout}.",
                    f"Set a request-timeout a little above {timeout}, and a read_timeout in the database's URL.",
                )


def _request_timeout(daemon: Directive) -> int:
    return number(dump.options(daemon.text).get("request-timeout", ""))


def _last(configuration: Dump, name: str, default: str) -> str:
    found = configuration.named(name)
    return found[-1].arguments[0] if found else default
