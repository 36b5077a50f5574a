"""`wsgipool plan`: how many connections a site can ask for, how many its databases allow, and sizes that fit."""

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

from wsgipool import planning, records
from wsgipool.cli import plan_lines
from wsgipool.cli.plan_report import Report, Wait, as_json, as_text, title
from wsgipool.cli.running import MAX_PROCESSES, MAX_THREADS
from wsgipool.cli.site import (
    ASK_TIMEOUT,
    MOST,
    READ_TIMEOUT,
    SettingsFile,
    limits_of,
    restored,
    settings_file,
    site_options,
)
from wsgipool.config import DatabaseSettings, DatabaseURL, Settings
from wsgipool.doctor.advice import advice
from wsgipool.drivers import limits
from wsgipool.drivers.limits import ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration
from wsgipool.httpd.configuration import EMBEDDED, Configuration
from wsgipool.httpd.dump import ConfigurationError
from wsgipool.httpd.express import DROP_IN, MODES
from wsgipool.planning import Database, Fit, Situation
from wsgipool.privileged import read_text
from wsgipool.sizing import GRACEFUL_RESTARTS, THREADS, ProcessGroup, pool_size, processes_alive

_WIDTH = 200


@dataclass(frozen=True)
class _Known:
    """What the databases said, or why they did not."""

    answers: Mapping[str, Sequence[ServerLimit]]
    unlimited: frozenset[str]
    unknown: Sequence[str]
    silent: Sequence[str] = ()
    """Those that were asked and did not answer."""


class _Positive(click.FloatRange):
    """A number above 0, nan and inf not among them."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of requests or seconds.", param, ctx)
        return number


@click.command()
@site_options
@click.option("--mpm", "mode", type=click.Choice(MODES), help="By hand, without asking httpd: the mode.")
@click.option("--processes", type=click.IntRange(1, MAX_PROCESSES), help="With --mpm: processes at work.")
@click.option("--threads", type=click.IntRange(1, MAX_THREADS), help="With --mpm: threads in each.")
@click.option(
    "--max-connections",
    type=click.IntRange(1, MOST),
    help="What the database allows, without asking it.",
)
@click.option(
    "--graceful-restarts",
    type=click.IntRange(0, 1000),
    default=GRACEFUL_RESTARTS,
    show_default=True,
    help="Under worker: restarts whose last requests may still run when the next comes.",
)
@click.option("--rate", type=_Positive(), help="With --hold: requests a second, of all hosts.")
@click.option("--hold", type=_Positive(), help="With --rate: seconds that each keeps a connection.")
@click.option("--write", is_flag=True, help="Put the lines that fit in place; the files' former selves stay as .bak.")
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
    """Compare the connections that a site can ask for with those that its databases allow.

    Reads httpd's configuration as httpd resolves it, asks each database for its limits, and prints sizes that fit.
    Options after `--` are passed on to httpd: -f FILE, -d FOLDER, -D NAME. As root it reads the settings, and asks the
    databases, as the user of httpd's processes, and writes as the owner of the files. Exit status: 0 it fits; 1 the
    worst case is over a limit, a database could not be asked, or there is an error; 2 the command line is wrong.
    """
    if (rate is None) != (hold is None):
        raise ConfigError("--rate and --hold belong together: requests a second, and seconds that each keeps one")
    server: Configuration | None = None
    if mode is None:
        if processes or threads:
            raise ConfigError("--processes and --threads are by hand, so say the mode as well: --mpm prefork, ...")
        try:
            server = configuration.read(program, httpd_options, graceful_restarts)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; or say by hand: --mpm --processes --threads") from None
        groups = server.groups
    else:
        if program or httpd_options:
            raise ConfigError(
                f"--mpm is by hand, without httpd: leave out {' '.join(['--httpd'] if program else httpd_options)}"
            )
        groups = [_by_hand(mode, processes, threads, graceful_restarts)]
    # By hand, without --config, it is about a site that is not here yet.
    file = settings_file(config_path, server) if server or config_path else None
    settings = file.load() if file else None
    databases = list(settings.databases.values()) if settings else [_imagined()]
    known = _ask(databases, max_connections, file)
    allowed = limits_of(databases, known.answers, reserve, settings)
    situation = Situation(
        groups, [Database(each.name, each.max_size) for each in databases], allowed, hosts, graceful_restarts
    )
    fit = planning.fit(situation)
    report = Report(
        server=server,
        settings=settings.origin if settings else None,
        situation=situation,
        fit=fit,
        unlimited=known.unlimited,
        unknown=known.unknown,
        silent=known.silent,
        notes=[*_notes(server, situation), *_note_of_users(situation)],
        waits=_waits(situation, fit, rate, hold) if rate is not None and hold is not None else [],
        apache=plan_lines.apache(_changed(situation, fit) if server else fit.groups, server) if fit else [],
        toml=plan_lines.toml(fit.max_sizes) if fit else [],
    )
    if machine:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        as_text(report, _console())
    if write and fit is not None:
        if settings is None:
            raise ConfigError("--write has nothing to write to: name the wsgipool.toml by --config")
        left = _left_to_the_reader(situation, fit, server)
        for line in [*left, *_write(situation, fit, server, Path(settings.origin), program, httpd_options)]:
            click.echo(line, err=machine)
        has_failed = bool(left)
    else:
        has_failed = not planning.fits(situation)
    if known.silent:
        count = len(known.silent)
        click.echo(
            f"not all is known: {count} database{'s' if count != 1 else ''} could not be asked "
            f"({', '.join(known.silent)}), see the notes",
            err=machine,
        )
    if has_failed or known.silent:
        context.exit(1)


def _by_hand(mode: str, processes: int | None, threads: int | None, graceful_restarts: int) -> ProcessGroup:
    if mode == "prefork" and threads not in (None, 1):
        raise ConfigError("prefork has one thread a process; leave --threads out, or choose --mpm worker or event")
    missing = "--processes" if processes is None else "--threads" if threads is None and mode != "prefork" else None
    if missing or processes is None:
        raise ConfigError(f"--mpm {mode} by hand needs {missing} too")
    alive = processes_alive(mode, processes, graceful_restarts=graceful_restarts)
    return ProcessGroup("wsgipool" if mode == "daemon" else EMBEDDED, mode, processes, alive, threads or 1)


def _imagined() -> DatabaseSettings:
    return DatabaseSettings("NAME", DatabaseURL("mysql"), "", max_size=THREADS)


def _ask(databases: Sequence[DatabaseSettings], given: int | None, file: SettingsFile | None) -> _Known:
    """Ask each database, unless the answer is given."""
    unknown = [] if file or given else ["no --max-connections, so there is nothing to compare with"]
    silent: list[str] = []
    unlimited = frozenset(each.name for each in databases if not limits.has_limit(each.url))
    answers: dict[str, Sequence[ServerLimit]] = {}
    for database in databases:
        if database.name in unlimited:
            continue
        if given:
            answers[database.name] = [ServerLimit("server", "max_connections", given)]
        elif file is not None:
            try:
                question = partial(_limits_or_why, database.name)
                answer = file.ask(file.readers[0], question, READ_TIMEOUT + 2 * ASK_TIMEOUT)
            except ConfigError as error:
                answer = {"why": f"{database.name} cannot be asked: {error}"}
            if "why" in answer:
                silent.append(database.name)
                unknown.append(f"the limit of {database.name} is not known: {answer['why']}")
            else:
                answers[database.name] = [restored(ServerLimit, each) for each in answer["limits"]]
    return _Known(answers, unlimited, unknown, silent)


def _limits_or_why(name: str, load: Callable[[], Settings]) -> dict[str, Any]:
    database = load().databases[name]
    try:
        return {"limits": records.plain(limits.ask(database, ASK_TIMEOUT))}
    except Exception as error:  # whatever the driver raises says what is wrong
        return {"why": f"{database.url} does not answer: {error}. {advice(error, database.url)}"}


def _notes(server: Configuration | None, situation: Situation) -> list[str]:
    notes = list(server.notes) if server else []
    if server is not None and any(
        group.mode == "event" and group.alive > group.processes for group in situation.groups
    ):
        notes.append(
            f"with ServerLimit {server.mpm.processes} each of the fewer processes could have a larger pool, and at a "
            "graceful restart new ones would wait until old ones have ended"
        )
    return notes


def _note_of_users(situation: Situation) -> list[str]:
    users = sorted({group.user for group in situation.groups})
    if len(users) < 2 or not any(limit.budget and limit.each_user for limit in situation.limits):
        return []
    return [f"the processes of {' and '.join(users)} have a [budget] each, since its folder is one user's alone"]


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


def is_writable(group: ProcessGroup, server: Configuration | None) -> bool:
    """Tell whether the sizes of a group can be written into the site's wsgipool.conf."""
    # `wsgipool serve` includes the package's own drop-in, which is every site's.
    own = server is not None and server.drop_in is not None and server.drop_in.resolve() != DROP_IN.resolve()
    return own and plan_lines.is_of_drop_in(group, server)


def _left_to_the_reader(situation: Situation, fit: Fit, server: Configuration | None) -> list[str]:
    return [
        f"left to you, since no {DROP_IN.name} of the site decides it: the lines for {title(group)} above"
        for group in _changed(situation, fit)
        if not is_writable(group, server)
    ]


def _write(
    situation: Situation,
    fit: Fit,
    server: Configuration | None,
    settings: Path,
    program: str | None,
    httpd_options: Sequence[str],
) -> list[str]:
    """Put the changes in place, all or none, and return what was done."""
    contents: dict[Path, str] = {}
    lines: dict[Path, list[str]] = {}
    wanted: dict[str, str] = {}
    for group in _changed(situation, fit):
        if is_writable(group, server):
            wanted |= plan_lines.defines(group)
    if wanted and server is not None and server.drop_in is not None:
        contents[server.drop_in] = plan_lines.with_defines(read_text(server.drop_in), wanted)
        lines[server.drop_in] = [f"    Define {name} {value}".rstrip() for name, value in wanted.items()]
    changed = {each.name: size for each in situation.databases if (size := fit.max_sizes[each.name]) != each.max_size}
    if changed:
        contents[settings] = plan_lines.with_max_sizes(read_text(settings), changed)
        lines[settings] = [f"    [databases.{name}] max_size = {json.dumps(size)}" for name, size in changed.items()]
    if not contents:
        return ["nothing to write: it fits as it is"] if planning.fits(situation) else []

    def check() -> None:
        # httpd may refuse what was written.
        if wanted:
            configuration.read(program, httpd_options)

    said = []
    for path, backup in plan_lines.replace_files(contents, check).items():
        said += [f"wrote {path.resolve()} (before: {backup.name}):", *lines[path]]
    return [*said, "processes follow at Apache's next restart; a new ServerLimit needs one that is not graceful"]


def _console() -> Console:
    # As wide as the table wants where the output is a file: a wrapped number is no number.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH)
