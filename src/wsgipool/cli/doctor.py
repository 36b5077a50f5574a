"""`wsgipool doctor`: examine a live site and print the problems with their remedies, the most serious first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from wsgipool import records
from wsgipool.cli.site_settings import (
    ASK_TIMEOUT,
    READ_TIMEOUT,
    NoSettings,
    SettingsFile,
    limits_of,
    occupants_of,
    plain_settings,
    planned,
    restored,
    settings_files,
    site_databases,
    site_options,
)
from wsgipool.cli.typed import typed
from wsgipool.config import Settings
from wsgipool.doctor import databases, directives, host
from wsgipool.doctor.databases import Session
from wsgipool.doctor.findings import Finding, Severity, worst_first
from wsgipool.drivers.limits import Answer
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import Dump, HttpdConfigError
from wsgipool.httpd.users import account
from wsgipool.plan.planning import Situation
from wsgipool.wording import counted, printable

_CORRECT_FIRST = "Correct this first; checks that depend on it were left out."
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
    """Examine a site and print its problems with remedies.

    The command examines httpd's configuration, wsgipool.toml, this host and the databases, and changes nothing. Run it
    as root, so that it can check which files the Apache user may read. As root, it reads the settings and connects to
    the databases as the user of httpd's processes. Options after `--` are passed on to httpd: -f FILE, -d FOLDER, -D
    NAME.

    Exit status: 0 if no error was found, though there may be warnings and notes; 1 if an error was found; 2 if the
    command line is wrong.
    """
    report = examine(config_path, program, httpd_options, hosts, reserve)
    if machine:
        click.echo(json.dumps([_as_json(finding) for finding in report.findings], indent=2))
    else:
        report.print()
    if report.has_errors:
        context.exit(1)


@dataclass(frozen=True)
class Report:
    """The findings about a site."""

    looked_at: Sequence[str]
    findings: Sequence[Finding]
    """The most serious first."""

    @property
    def has_errors(self) -> bool:
        """Return whether an error was found."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def print(self) -> None:
        """Print the findings with their remedies."""
        for line in self.looked_at:
            click.echo(printable(line))
        for finding in self.findings:
            severity = click.style(finding.severity.name.lower(), fg=_COLOURS[finding.severity], bold=True)
            click.echo(f"\n{severity}: {finding.code}")
            # httpd's messages may have several lines.
            click.echo(f"    {printable(typed(finding.what), keep=chr(10))}")
            click.echo(f"    Do: {printable(typed(finding.remedy))}")
        counts = Counter(finding.severity for finding in self.findings)
        parts = [counted(counts[each], each.name.lower()) for each in Severity]
        click.echo(f"\n{', '.join(parts)}")


def examine(
    config_path: Path | None, program: str | None, httpd_options: Sequence[str], hosts: int, reserve: int
) -> Report:
    """Examine a site; the arguments are the options of the command."""
    examination = _Examination(config_path, hosts, reserve)
    findings = worst_first(examination.of(program, httpd_options))
    return Report(examination.looked_at, findings)


class _Examination:
    """Examines one side after the other; a side that cannot be examined is a finding, too."""

    def __init__(self, config_path: Path | None, hosts: int, reserve: int) -> None:
        self._config_path = config_path
        self._hosts = hosts
        self._reserve = reserve
        self.looked_at: list[str] = []

    def of(self, program: str | None, httpd_options: Sequence[str]) -> Iterator[Finding]:
        configured: Dump | None = None
        site: Configuration | None = None
        try:
            configured = configuration.as_it_runs(program, httpd_options)
            site = configuration.interpret(configured)
        except HttpdConfigError as error:
            yield Finding("configuration-refused", f"{error}.", _CORRECT_FIRST)
        files: Sequence[SettingsFile] = []
        try:
            files = settings_files(self._config_path, site)
        except NoSettings as error:
            yield Finding("settings-missing", f"{error}.", "Write a file, unless the site's program has the settings.")
        except ConfigError as error:
            yield host.refused(error, site)
        loaded = [_loaded(file) for file in files]
        for each in loaded:
            yield from each.findings
        if configured is not None and site is not None:
            self.looked_at.append(_title(site))
            for each in loaded or [_Loaded()]:
                of_file = _part(site, each.interpreters)
                yield from directives.examine(configured, of_file, each.settings)
                yield from host.examine(configured, of_file, each.settings)
        yield from self._databases(loaded, site)

    def _databases(self, loaded: Sequence[_Loaded], site: Configuration | None) -> Iterator[Finding]:
        readable = [(each.settings, each) for each in loaded if each.settings is not None]
        known = site_databases([(settings, each.interpreters) for settings, each in readable])
        told: dict[str, Answer] = {}
        for settings, each in readable:
            self.looked_at.append(f"settings: {settings.origin}")
            names = {database.settings.name: database.name for database in known if database.of is settings}
            sessions: dict[str, Session] = {}
            for name, answer in _answers(settings, each.file).items() if each.file is not None else ():
                if isinstance(answer, Finding):
                    yield answer
                else:
                    sessions[name] = answer
                    told[names[name]] = answer.answer
                    self.looked_at.append(f"database {names[name]}: {settings.databases[name].url}")
            yield from databases.examine(settings, sessions)
        occupants = occupants_of(known, told)
        self.looked_at += [found.in_words(server) for server, found in occupants.items()]
        yield from databases.examine_occupants(occupants, self._reserve)
        if site is not None and told:
            limits = limits_of(known, told, self._reserve)
            yield from databases.examine_limits(Situation(site.groups, planned(known, told), limits, self._hosts))


def _part(site: Configuration, interpreters: Mapping[str, int] | None) -> Configuration:
    """Return a configuration with those of its process groups that read a settings file."""
    if interpreters is None:
        return site
    return replace(site, groups=[group for group in site.groups if group.name in interpreters])


@dataclass(frozen=True)
class _Loaded:
    """The settings that the processes of a site read."""

    settings: Settings | None = None
    findings: Sequence[Finding] = ()
    """The problems of the users who cannot read them."""
    file: SettingsFile | None = None
    """Set if all users can read them, so that the databases may be examined."""
    interpreters: Mapping[str, int] | None = None
    """Those of the settings file."""


def _loaded(file: SettingsFile) -> _Loaded:
    settings: Settings | None = None
    findings: list[Finding] = []
    for reader in file.readers:
        if account(reader) is None:
            continue  # `host` reports unknown users
        answer = file.ask(reader, partial(_settings_or_finding, file.server))
        if "finding" in answer:
            findings.append(restored(Finding, answer["finding"]))
        else:
            settings = restored(Settings, answer.get("settings"))
    return _Loaded(settings, findings, None if findings else file, file.interpreters)


def _settings_or_finding(site: Configuration | None, load: Callable[[], Settings]) -> dict[str, Any]:
    try:
        return {"settings": plain_settings(load())}
    except ConfigError as error:
        return {"finding": records.plain(host.refused(error, site))}


def _answers(settings: Settings, file: SettingsFile) -> dict[str, Session | Finding]:
    """Connect to each database as a user of the processes, if all their users can read its settings."""
    found: dict[str, Session | Finding] = {}
    for name in settings.databases:
        for reader in reversed(file.readers):
            # The others only check; the first user connects.
            answer = _answer_of(name, file, reader, only_check=reader != file.readers[0])
            if answer is not None:
                found[name] = answer
            if isinstance(answer, Finding):
                break
    return found


def _answer_of(name: str, file: SettingsFile, reader: str, *, only_check: bool) -> Session | Finding | None:
    def question(load: Callable[[], Settings]) -> dict[str, Any]:
        settings = load()
        answer: Session | Finding | None
        if only_check:
            answer = databases.refusal(settings.databases[name], file.server)
        else:
            only = replace(settings, databases={name: settings.databases[name]})
            answer = databases.answers(only, ASK_TIMEOUT, file.server).get(name)
        return {"finding" if isinstance(answer, Finding) else "session": records.plain(answer)}

    try:
        answer = file.ask(reader, question, READ_TIMEOUT + 2 * ASK_TIMEOUT)
    except ConfigError as error:
        return Finding("database-unreachable", f"{name}: {error}.", "Check the server. It was not examined.")
    if "finding" in answer:
        return restored(Finding, answer["finding"])
    return None if answer.get("session") is None else restored(Session, answer["session"])


def _title(site: Configuration) -> str:
    running = f"running as process {site.live.pid}" if site.live else "not running"
    return f"{site.program}: {site.mpm.name} MPM, {running}"


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "what": typed(finding.what),
        "remedy": typed(finding.remedy),
    }
