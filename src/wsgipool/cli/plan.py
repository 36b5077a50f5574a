"""`wsgipool plan`: the connections that a site can ask for, those that its databases allow, and sizes that fit."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from wsgipool import records
from wsgipool.cli import plan_lines
from wsgipool.cli.plan_report import PlanReport, Wait, as_json, as_text, title
from wsgipool.cli.running import MAX_PROCESSES, MAX_THREADS
from wsgipool.cli.site_settings import (
    ASK_TIMEOUT,
    MAX_NUMBER,
    READ_TIMEOUT,
    SettingsFile,
    SiteDatabase,
    limits_of,
    occupants_of,
    planned,
    restored,
    settings_files,
    site_databases,
    site_options,
)
from wsgipool.config import DatabaseSettings, DatabaseURL, Settings
from wsgipool.doctor.advice import advice
from wsgipool.drivers import limits
from wsgipool.drivers.limits import Answer, ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import HttpdConfigError
from wsgipool.httpd.express import DROP_IN, MODES
from wsgipool.httpd.placement import EMBEDDED
from wsgipool.plan import planning
from wsgipool.plan.planning import Fit, Situation
from wsgipool.plan.sizing import GRACEFUL_RESTARTS, THREADS, ProcessGroup, pool_size, processes_alive
from wsgipool.privileged import read_text
from wsgipool.wording import counted

_WIDTH = 200


@dataclass(frozen=True)
class _Known:
    """The databases' answers, and the reasons for missing ones."""

    answers: Mapping[str, Answer]
    unlimited: frozenset[str]
    unknown: Sequence[str]
    silent: Sequence[str] = ()
    """Databases that did not answer."""


class _Positive(click.FloatRange):
    """A finite number above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@click.command()
@site_options
@click.option(
    "--mpm",
    "mode",
    type=click.Choice(MODES),
    help="Calculate for this MPM or daemon mode instead of httpd's configuration; needs --processes.",
)
@click.option(
    "--processes", type=click.IntRange(1, MAX_PROCESSES), help="With --mpm: number of processes that accept requests."
)
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="With --mpm: number of threads in each process; prefork always has 1.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, MAX_NUMBER),
    help="Number of connections that the database allows. Default: the database is asked.",
)
@click.option(
    "--graceful-restarts",
    type=click.IntRange(0, 1000),
    default=GRACEFUL_RESTARTS,
    show_default=True,
    help="For worker: number of graceful restarts whose last requests may still run at the same time.",
)
@click.option("--rate", type=_Positive(), help="With --hold: requests per second of all hosts, to estimate waits.")
@click.option("--hold", type=_Positive(), help="With --rate: seconds for which a request keeps a connection.")
@click.option("--write", is_flag=True, help="Write sizes that fit into the files; backups end in .bak.")
@click.option("--json", "machine", is_flag=True, help="Print JSON.")
@click.argument("httpd_options", nargs=-1, metavar="[-- OPTION...]")
@click.pass_context
def plan(
    context: click.Context,
    config_path: Path | None,
    program: str | None,
    mode: str | None,
    processes: int | None,
    threads: int | None,
    max_connections: int | None,
    hosts: int,
    reserve: int,
    graceful_restarts: int,
    rate: float | None,
    hold: float | None,
    write: bool,
    machine: bool,
    httpd_options: tuple[str, ...],
) -> None:
    """Compare a site's connections with what its databases allow.

    The command reads httpd's configuration, asks each database for its limits and sessions, and prints sizes that fit.
    Others keep the reserve, or the sessions that they have now if those are more. As root, the command reads the
    settings and connects to the databases as the user of httpd's processes, and writes as the owner of the files.
    Options after `--` are passed on to httpd: -f FILE, -d FOLDER, -D NAME.

    Exit status: 0 if the sizes fit; 1 if the worst case exceeds a limit, a database did not answer, or an error
    occurred; 2 if the command line is wrong.
    """
    if (rate is None) != (hold is None):
        raise ConfigError("--rate and --hold need each other: requests per second, and seconds per request")
    server: Configuration | None = None
    if mode is None:
        if processes or threads:
            raise ConfigError("--processes and --threads need --mpm")
        try:
            server = configuration.read(program, httpd_options, graceful_restarts)
        except HttpdConfigError as error:
            raise HttpdConfigError(f"{error}; or give --mpm, --processes and --threads") from None
        groups = server.groups
    else:
        if program or httpd_options:
            raise ConfigError(
                f"--mpm replaces httpd's configuration: leave out {' '.join(['--httpd'] if program else httpd_options)}"
            )
        groups = [_given_group(mode, processes, threads, graceful_restarts)]
    # With --mpm and without --config, the site need not exist. A framework's command gives its databases.
    given: SettingsFile | None = None if config_path else context.obj
    files = [given] if given else settings_files(config_path, server) if server or config_path else []
    loaded = [(file, file.load()) for file in files]
    databases = site_databases([(settings, file.interpreters) for file, settings in loaded])
    if loaded and not databases:
        raise ConfigError(
            f"{' and '.join(settings.origin for _, settings in loaded)} has no databases: the program gives them, and "
            "a plan needs to know them; Django's are planned by `manage.py wsgipool plan`"
        )
    databases = databases or [SiteDatabase("NAME", _imagined())]
    known = _ask(databases, max_connections, {settings.origin: file for file, settings in loaded})
    allowed = limits_of(databases, known.answers, reserve)
    situation = Situation(groups, planned(databases, known.answers), allowed, hosts, graceful_restarts)
    fit = planning.fit(situation)
    report = PlanReport(
        server=server,
        settings=[settings.origin for _, settings in loaded],
        situation=situation,
        fit=fit,
        occupants=occupants_of(databases, known.answers),
        unlimited=known.unlimited,
        unknown=known.unknown,
        silent=known.silent,
        notes=[*_notes(server, situation), *_note_of_users(situation)],
        waits=_waits(situation, fit, rate, hold) if rate is not None and hold is not None else [],
        apache=plan_lines.apache(_changed(situation, fit) if server else fit.groups, server) if fit else [],
        toml={origin: plan_lines.toml(sizes) for origin, sizes in _max_sizes(databases, fit).items()} if fit else {},
    )
    if machine:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        as_text(report, _console())
    if write and fit is not None:
        if given is not None:
            raise ConfigError(f"--write cannot change {given.path}; write the sizes there yourself")
        if not loaded:
            raise ConfigError("--write needs a file to write to: name the wsgipool.toml with --config")
        changes = _of_httpd(situation, fit, server)
        report_lines = _write(databases, situation, fit, changes, program, httpd_options)
        for line in [*changes.by_hand, *report_lines]:
            click.echo(line, err=machine)
        has_failed = bool(changes.by_hand)
    else:
        has_failed = not planning.fits(situation)
    if known.silent:
        click.echo(
            f"incomplete: {counted(len(known.silent), 'database')} did not answer "
            f"({', '.join(known.silent)}), see the notes",
            err=machine,
        )
    if has_failed or known.silent:
        context.exit(1)


def _given_group(mode: str, processes: int | None, threads: int | None, graceful_restarts: int) -> ProcessGroup:
    if mode == "prefork" and threads not in (None, 1):
        raise ConfigError("prefork has one thread a process; leave --threads out, or choose --mpm worker or event")
    missing = "--processes" if processes is None else "--threads" if threads is None and mode != "prefork" else None
    if missing or processes is None:
        raise ConfigError(f"--mpm {mode} needs {missing}")
    alive = processes_alive(mode, processes, graceful_restarts=graceful_restarts)
    return ProcessGroup("wsgipool" if mode == "daemon" else EMBEDDED, mode, processes, alive, threads or 1)


def _imagined() -> DatabaseSettings:
    return DatabaseSettings("NAME", DatabaseURL("mysql"), "", max_size=THREADS)


def _ask(databases: Sequence[SiteDatabase], given: int | None, files: Mapping[str, SettingsFile]) -> _Known:
    """Ask each database for its limits and sessions, unless the limit is given. `files` are those of the settings."""
    unknown = [] if files or given else ["without --max-connections there is no limit to compare with"]
    silent: list[str] = []
    unlimited = frozenset(each.name for each in databases if not limits.has_limit(each.settings.url))
    answers: dict[str, Answer] = {}
    for database in databases:
        if database.name in unlimited:
            continue
        if given:
            answers[database.name] = Answer([ServerLimit("server", "max_connections", given)])
        elif database.of is not None:
            file = files[database.of.origin]
            try:
                question = partial(_answer_or_why, database.settings.name)
                answer = file.ask(file.readers[0], question, READ_TIMEOUT + 2 * ASK_TIMEOUT)
            except ConfigError as error:
                answer = {"why": f"{database.name} cannot be asked: {error}"}
            if "why" in answer:
                silent.append(database.name)
                unknown.append(f"the limit of {database.name} is not known: {answer['why']}")
            else:
                answers[database.name] = restored(Answer, answer["answer"])
    return _Known(answers, unlimited, unknown, silent)


def _answer_or_why(name: str, load: Callable[[], Settings]) -> dict[str, Any]:
    database = load().databases[name]
    try:
        return {"answer": records.plain(limits.ask(database, ASK_TIMEOUT))}
    except Exception as error:  # drivers raise many types
        return {"why": f"{database.url} does not answer: {error}. {advice(error, database.url)}"}


def _notes(server: Configuration | None, situation: Situation) -> list[str]:
    notes = list(server.notes) if server else []
    if server is not None and any(
        group.mode == "event" and group.alive > group.processes for group in situation.groups
    ):
        notes.append(
            f"with ServerLimit {server.mpm.processes}, the processes could have larger pools, but at a graceful "
            "restart new processes would wait until old ones have ended"
        )
    return notes


def _note_of_users(situation: Situation) -> list[str]:
    users = sorted({group.user for group in situation.groups})
    if len(users) < 2 or not any(each.budget is not None and not each.folder for each in situation.databases):
        return []
    return [f"the processes of {' and '.join(users)} have a [budget] each, since its folder belongs to one user"]


def _waits(situation: Situation, fit: Fit | None, rate: float, hold: float) -> list[Wait]:
    waits = []
    for row in planning.rows(situation):
        sizes = {row.pool_size}
        if fit is not None:
            sizes.add(min(row.pool_size, pool_size(fit.max_sizes[row.database], row.group.threads)))
        waits += [Wait(row, size, planning.wait_in(situation, row, rate, hold, size)) for size in sorted(sizes)]
    return waits


def _changed(situation: Situation, fit: Fit) -> list[ProcessGroup]:
    return [after for before, after in zip(situation.groups, fit.groups, strict=True) if after != before]


def is_writable(server: Configuration | None) -> bool:
    """Return whether the site has a wsgipool.conf of its own, into which sizes of Apache's children can be written."""
    # `wsgipool serve` includes the package's own drop-in, which all sites share.
    return server is not None and server.drop_in is not None and server.drop_in.resolve() != DROP_IN.resolve()


class _Changes:
    """The new contents of files, with a report of each, and the changes that are left to the administrator."""

    def __init__(self) -> None:
        self.contents: dict[Path, str] = {}
        self.lines: dict[Path, list[str]] = {}
        self.by_hand: list[str] = []

    def text(self, path: Path) -> str:
        """Return the content of a file, with the changes so far."""
        return self.contents[path] if path in self.contents else read_text(path)

    def add(self, path: Path, content: str, lines: Sequence[str]) -> None:
        """Replace the content of a file."""
        self.contents[path] = content
        self.lines.setdefault(path, []).extend(f"    {line}" for line in lines)


def _of_httpd(situation: Situation, fit: Fit, server: Configuration | None) -> _Changes:
    """Return the changes of httpd's files."""
    changes = _Changes()
    for group in _changed(situation, fit):
        daemon = server.daemons.get(group.name) if server else None
        if group.name == EMBEDDED and is_writable(server) and server is not None and server.drop_in is not None:
            wanted = plan_lines.defines(group)
            content = plan_lines.with_defines(changes.text(server.drop_in), wanted)
            changes.add(server.drop_in, content, [f"Define {name} {value}".rstrip() for name, value in wanted.items()])
        elif (
            daemon and daemon.path and (text := plan_lines.with_daemon_sizes(changes.text(daemon.path), daemon, group))
        ):
            changes.add(daemon.path, text, plan_lines.directives(group))
        else:
            changes.by_hand.append(f"to write by hand, for {title(group)}: {'; '.join(plan_lines.directives(group))}")
    return changes


def _max_sizes(databases: Sequence[SiteDatabase], fit: Fit) -> dict[str, dict[str, int | str]]:
    """Return the sizes that fit by settings file; "" for imagined settings."""
    found: dict[str, dict[str, int | str]] = {}
    for each in databases:
        found.setdefault(each.of.origin if each.of else "", {})[each.settings.name] = fit.max_sizes[each.name]
    return found


def _write(
    databases: Sequence[SiteDatabase],
    situation: Situation,
    fit: Fit,
    changes: _Changes,
    program: str | None,
    httpd_options: Sequence[str],
) -> list[str]:
    """Write all changes or none, and return a report."""
    of_httpd = bool(changes.contents)
    changed = [each for each in databases if fit.max_sizes[each.name] != each.settings.max_size]
    for origin, sizes in _max_sizes(changed, fit).items():
        settings = Path(origin)
        lines = [f"[databases.{name}] max_size = {json.dumps(size)}" for name, size in sizes.items()]
        changes.add(settings, plan_lines.with_max_sizes(changes.text(settings), sizes), lines)
    if not changes.contents:
        return ["nothing to write: the current sizes fit"] if planning.fits(situation) else []

    def check() -> None:
        # httpd may refuse the new configuration.
        if of_httpd:
            configuration.read(program, httpd_options)

    report = []
    for path, backup in plan_lines.replace_files(changes.contents, check).items():
        report += [f"wrote {path.resolve()} (backup: {backup.name}):", *changes.lines[path]]
    return [*report, "restart Apache to apply the sizes; a new ServerLimit needs a restart that is not graceful"]


def _console() -> Console:
    # In a file, wide enough that no number is wrapped.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH)
