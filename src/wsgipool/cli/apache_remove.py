"""`wsgipool apache remove`: take the drop-in out of Apache's configuration, unless other lines still need it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration, dump
from wsgipool.httpd.dump import Directive, Dump, HttpdConfigError
from wsgipool.httpd.express import DROP_IN, DROP_IN_FOLDERS, PACKAGE
from wsgipool.pools import SYSTEM_CONFIG
from wsgipool.privileged import read_text, rename
from wsgipool.wording import printable

_MAX_LINES = 10
"""Lines that an error shows."""


@click.command()
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Apache's configuration files that has the drop-in. Default: the first that has it of "
    f"{', '.join(DROP_IN_FOLDERS)}.",
)
@click.option("--httpd", "program", help="httpd or its control script. Default: Debian's apache2ctl, or httpd.")
@click.argument("httpd_options", nargs=-1, metavar="[-- OPTION...]")
def remove(directory: Path | None, program: str | None, httpd_options: tuple[str, ...]) -> None:
    """Take wsgipool.conf out of Apache's configuration.

    On Debian the file is disabled, too. It is kept as wsgipool.conf.bak; wsgipool.toml stays. If httpd does not accept
    its configuration without the file, or if other lines use a Define of the file, nothing is changed. Lines of sites
    that load wsgipool go on working; the command names them.

    Options after `--` are passed on to httpd: -f FILE, -d FOLDER, -D NAME. Exit status: 1 if nothing was removed.
    """
    httpd = dump.find_program(program)
    drop_in = _installed(directory).resolve()
    settings = _named_settings(read_text(drop_in))
    backup = drop_in.with_name(f"{drop_in.name}.bak")
    with ExitStack() as undo:
        if is_enabled(drop_in):
            _run_debians("a2disconf", drop_in)
            undo.callback(_run_debians, "a2enconf", drop_in)
        # An earlier backup stays until nothing can fail any more.
        aside = drop_in.with_name(f"{drop_in.name}.removed")
        rename(drop_in, aside.name)
        undo.callback(rename, aside, drop_in.name)
        configured = _without_drop_in(httpd, httpd_options)
        _refuse_users(configured)
        rename(aside, backup.name)
        undo.pop_all()
    click.echo(printable(f"removed {drop_in}, which is kept as {backup.name}"))
    if os.path.lexists(settings):
        click.echo(printable(f"kept {settings}"))
    for directive in configured.directives:
        if _has(directive, str(PACKAGE)):
            click.echo(printable(f"still used, remove it before the package: {_line(directive)}"))
    click.echo(printable(f"now restart httpd: {shlex.join([httpd, *httpd_options])} -k graceful"))


def _installed(directory: Path | None) -> Path:
    folders = [directory] if directory else [Path(name) for name in DROP_IN_FOLDERS]
    for folder in folders:
        if os.path.lexists(folder / DROP_IN.name):
            return folder / DROP_IN.name
    raise ConfigError(
        f"there is no {DROP_IN.name} in {' or '.join(map(str, folders))}; name its folder with --directory"
    )


def _named_settings(text: str) -> Path:
    named = re.findall(r'^ *Define WSGIPOOL_CONFIG "?(.+?)"?$', text, re.MULTILINE)
    return Path(named[-1]) if named else SYSTEM_CONFIG


def is_enabled(drop_in: Path) -> bool:
    """Return whether Debian's a2enconf has enabled the file."""
    folder = drop_in.parent
    return folder.name == "conf-available" and os.path.lexists(folder.with_name("conf-enabled") / drop_in.name)


def _run_debians(script: str, drop_in: Path) -> None:
    """Run a2enconf or a2disconf."""
    path = shutil.which(script, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        raise ConfigError(f"{script} was not found; nothing was changed")
    outcome = subprocess.run(  # noqa: S603 - Debian's own script
        [path, "--quiet", drop_in.stem],
        env={**os.environ, "APACHE_CONFDIR": str(drop_in.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        raise ConfigError(f"{script} {drop_in.stem} failed: {' '.join((outcome.stdout + outcome.stderr).split())}")


def _without_drop_in(httpd: str, httpd_options: Sequence[str]) -> Dump:
    try:
        return configuration.as_it_runs(httpd, httpd_options)
    except HttpdConfigError as error:
        raise HttpdConfigError(
            f"{error}\n  without {DROP_IN.name}, so nothing was removed; correct this first"
        ) from None


def _refuse_users(configured: Dump) -> None:
    """Raise ConfigError if the configuration, which lacks the drop-in, has lines that do not work without it."""
    lines = [_line(directive) for directive in configured.directives if _has(directive, "${WSGIPOOL_")]
    if lines:
        # Variables that no Define sets any more stay in the text. httpd only warns of them.
        raise ConfigError(
            f"these lines do not work without {DROP_IN.name}; change them first, nothing was removed: "
            + "; ".join(lines[:_MAX_LINES])
        )


def _line(directive: Directive) -> str:
    return f"{directive.origin}: {directive.name} {directive.text}"


def _has(directive: Directive, text: str) -> bool:
    return any(text in each for each in [directive.text, *(section.text for section in directive.sections)])
