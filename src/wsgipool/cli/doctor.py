"""`wsgipool doctor`: look at a live site as an expert would; print what is wrong and what to do, the worst first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from wsgipool.cli.site import ASK_TIMEOUT, limits_of, load_settings, site_options
from wsgipool.config import Settings
from wsgipool.doctor import apache, databases, host
from wsgipool.doctor.databases import Session
from wsgipool.doctor.findings import Finding, Severity, worst_first
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration, dump
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import ConfigurationError, Dump
from wsgipool.planning import Database, Situation

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


@click.command()
@site_options
@click.option("--json", "machine", is_flag=True, help="Print JSON.")
@click.argument("httpd_options", nargs=-1, metavar="[-- OPTION...]")
@click.pass_context
def doctor(
    context: click.Context,
    config_path: Path | None,
    program: str | None,
    hosts: int,
    reserve: int,
    machine: bool,
    httpd_options: tuple[str, ...],
) -> None:
    """Examine a site: httpd's configuration, wsgipool.toml, this host and the databases.

    Changes nothing. Run it as root, so that it can find out what the Apache user may read. Options after `--` are
    passed on to httpd: -f FILE, -d FOLDER, -D NAME. Exit status 1: an error was found.
    """
    examination = _Examination(config_path, hosts, reserve)
    findings = worst_first(examination.of(program, httpd_options))
    if machine:
        click.echo(json.dumps([_as_json(finding) for finding in findings], indent=2))
    else:
        _print(examination.looked_at, findings)
    if any(finding.severity is Severity.ERROR for finding in findings):
        context.exit(1)


class _Examination:
    """Looks at one side after the other; what cannot be looked at is a finding too, and the rest goes on."""

    def __init__(self, config_path: Path | None, hosts: int, reserve: int) -> None:
        self._config_path = config_path
        self._hosts = hosts
        self._reserve = reserve
        self.looked_at: list[str] = []

    def of(self, program: str | None, httpd_options: Sequence[str]) -> Iterator[Finding]:
        configured: Dump | None = None
        site: Configuration | None = None
        try:
            configured = dump.read(program, httpd_options)
            site = configuration.interpret(configured)
        except ConfigurationError as error:
            yield Finding("configuration-refused", f"{error}.", "Mend it first; what depends on it was not looked at.")
        settings: Settings | None = None
        try:
            settings = load_settings(self._config_path, site)
        except ConfigError as error:
            yield host.refused(error, site)
        if configured is not None and site is not None:
            self.looked_at.append(_title(site))
            yield from apache.examine(configured, site, settings)
            yield from host.examine(configured, site, settings)
        if settings is not None:
            self.looked_at.append(f"settings: {settings.origin}")
            yield from self._databases(settings, site)

    def _databases(self, settings: Settings, site: Configuration | None) -> Iterator[Finding]:
        answers = databases.answers(settings, ASK_TIMEOUT, site)
        sessions: dict[str, Session] = {}
        for name, answer in answers.items():
            if isinstance(answer, Finding):
                yield answer
            else:
                sessions[name] = answer
                self.looked_at.append(f"database {name}: {settings.databases[name].url}")
        yield from databases.examine(settings, sessions)
        if site is not None:
            known = list(settings.databases.values())
            limits = limits_of(known, {name: each.limits for name, each in sessions.items()}, self._reserve, settings)
            sizes = [Database(each.name, each.max_size) for each in known]
            yield from databases.examine_limits(Situation(site.groups, sizes, limits, self._hosts))


def _title(site: Configuration) -> str:
    running = f"running as process {site.live.pid}" if site.live else "not running"
    return f"{site.program}: {site.mpm.name} MPM, {running}"


def _print(looked_at: Sequence[str], findings: Sequence[Finding]) -> None:
    for line in looked_at:
        click.echo(line)
    for finding in findings:
        severity = click.style(finding.severity.name.lower(), fg=_COLOURS[finding.severity], bold=True)
        click.echo(f"\n{severity}: {finding.code}")
        click.echo(f"    {finding.what}")
        click.echo(f"    Do: {finding.remedy}")
    counts = Counter(finding.severity for finding in findings)
    parts = [f"{counts[each]} {each.name.lower()}{'s' if counts[each] != 1 else ''}" for each in Severity]
    click.echo(f"\n{', '.join(parts)}")


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "what": finding.what,
        "remedy": finding.remedy,
    }
