"""`wsgipool apache`: install the drop-in into Apache's configuration, let sites join, or print the files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from wsgipool.cli.apache_reload import reload
from wsgipool.cli.apache_remove import is_enabled, remove
from wsgipool.cli.plan_lines import replace_files, with_defines
from wsgipool.cli.typed import typed
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration, joining
from wsgipool.httpd.dump import HttpdConfigError
from wsgipool.httpd.express import DROP_IN, DROP_IN_FOLDERS, PACKAGE, apache_user
from wsgipool.httpd.joining import Joining
from wsgipool.httpd.placement import Site
from wsgipool.httpd.users import group
from wsgipool.pools import CONFIG_NAME, SYSTEM_CONFIG
from wsgipool.privileged import create_text, read_text, replace_text
from wsgipool.wording import printable

_FILES = PACKAGE / "apache"
_SAMPLE = "wsgipool.toml"
_WRITTEN = ("WSGIPOOL_HOME", "WSGIPOOL_DROP_IN")
"""The Defines whose values are those of the installation."""
_OLD_DEFAULTS = {"WSGIPOOL_CONFIG": str(SYSTEM_CONFIG), "WSGIPOOL_PROCESS_GROUP": "%{GLOBAL}"}
"""Values of older drop-ins that nobody changed."""


@click.group()
def apache() -> None:
    """Install, print or remove the Apache files, and reload httpd."""


apache.add_command(reload)
apache.add_command(remove)


@apache.command()
@click.argument(
    "file", type=click.Choice(sorted(path.name for path in _FILES.iterdir())), default=DROP_IN.name, metavar="[FILE]"
)
def show(file: str) -> None:
    """Print FILE: an Apache file, the sample wsgipool.toml, the rules of Prometheus, or the dashboard of Grafana.

    Default: the drop-in wsgipool.conf, as `wsgipool apache install` would write it.
    """
    target = Path(DROP_IN_FOLDERS[0]) / DROP_IN.name
    click.echo(_drop_in(target, {}) if file == DROP_IN.name else (_FILES / file).read_text(encoding="utf-8"), nl=False)


@apache.command()
@click.option(
    "--site",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Write the lines that a site needs into its file; NAME is its ServerName or its script. May be given several "
    "times. The previous file is kept with the suffix .bak.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Apache's configuration files into which the drop-in is written. Default: the first existing one "
    f"of {', '.join(DROP_IN_FOLDERS)}.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    default=str(SYSTEM_CONFIG),
    show_default=True,
    help="Path of the settings. A sample is written there if no file exists, unless each site has a wsgipool.toml "
    "beside its script. Another path than the default is named in the drop-in, for all sites.",
)
@click.option("--httpd", "program", help="httpd or its control script. Default: Debian's apache2ctl, or httpd.")
@click.argument("httpd_options", nargs=-1, metavar="[-- OPTION...]")
def install(
    wanted: tuple[str, ...],
    directory: Path | None,
    config_path: Path,
    program: str | None,
    httpd_options: tuple[str, ...],
) -> None:
    """Write wsgipool.conf into Apache's configuration, and say what each site needs.

    The file alone changes nothing for any site. The command names the sites that it finds and the lines by which each
    joins; with --site it writes them. To upgrade, run it again: your Defines stay, and the previous file is kept with
    the suffix .bak. If there are no settings yet, a sample wsgipool.toml is written, too. Options after `--` are passed
    on to httpd: -f FILE, -d FOLDER, -D NAME.

    Exit status: 0 if everything was written; 1 if an error occurred; 2 if the command line is wrong.
    """
    target = (directory or _folder()) / DROP_IN.name
    if not config_path.parent.is_dir():
        raise ConfigError(f"{config_path.parent} is not a folder; name another path with --config")
    _write_drop_in(target, {} if config_path == SYSTEM_CONFIG else {"WSGIPOOL_CONFIG": _quoted(config_path.absolute())})
    known, remarks = _sites(program, httpd_options)
    needs_settings = config_path != SYSTEM_CONFIG or not _have_settings(known)
    steps = []
    if os.path.lexists(config_path):
        click.echo(f"kept {config_path}")
    elif needs_settings:
        _write_sample(config_path)
        steps.append(f"edit {config_path}")
    for remark in remarks:
        click.echo(printable(remark, keep="\n"))
    if wanted:
        _join(known, wanted, target, program, httpd_options)
    else:
        _report(known)
    if _has_effect(target) and target.parent.name == "conf-available" and not is_enabled(target):
        steps.append("`a2enconf wsgipool`")
    click.echo(typed(f"now {', then '.join([*steps, '`wsgipool apache reload`'])}"))


def _has_effect(drop_in: Path) -> bool:
    """Return whether a Define of the administrator changes something."""
    return bool(_defines_of(read_text(drop_in)))


def _folder() -> Path:
    for name in DROP_IN_FOLDERS:
        if Path(name).is_dir():
            return Path(name)
    raise ConfigError(f"none of {', '.join(DROP_IN_FOLDERS)} exists; name Apache's folder with --directory")


# --- the drop-in -----------------------------------------------------------------------------------------------------


def _write_drop_in(target: Path, defines: Mapping[str, str]) -> None:
    before = read_text(target) if os.path.lexists(target) else None
    kept = _defines_of(before or "")
    content = _drop_in(target, {**kept, **defines})
    if before is None:
        create_text(target, content, 0o644)
        click.echo(f"wrote {target}")
    elif before == content:
        click.echo(f"kept {target}")
    else:
        backup = replace_text(target, content)
        names = f", with your {', '.join(kept)}" if kept else ""
        click.echo(f"wrote {target}{names} (backup: {backup.name})")


def _defines_of(text: str) -> dict[str, str]:
    """Return the administrator's Defines in an installed drop-in."""
    found = dict(re.findall(r"^ *Define +(WSGIPOOL_\w+)(?: +(.+?))? *$", text, re.M))
    return {
        name: value
        for name, value in found.items()
        if name not in _WRITTEN and value.strip('"') != _OLD_DEFAULTS.get(name)
    }


def _drop_in(target: Path, defines: Mapping[str, str]) -> str:
    """Return the drop-in with the paths of this installation and with these Defines. Raises ConfigError."""
    template = DROP_IN.read_text(encoding="utf-8")
    home = f"    Define WSGIPOOL_HOME {_quoted(PACKAGE)}"
    text = re.sub(r"^    Define WSGIPOOL_HOME .*$", lambda _: home, template, flags=re.M)
    unknown = [name for name in defines if not re.search(rf"^#Define {name}\b", template, re.M)]
    if unknown:
        raise ConfigError(
            f"{target}: {', '.join(unknown)} is not known to this version; see docs/how-to/upgrade.md, and remove it"
        )
    return with_defines(text, {"WSGIPOOL_DROP_IN": _quoted(target.absolute()), **defines})


def _quoted(path: Path) -> str:
    """Return a path in quotes for httpd's configuration. Raises ConfigError if that is impossible."""
    try:
        joining.quoted(path)
    except ValueError:
        raise ConfigError(
            f"{path} has characters that httpd's configuration cannot contain; choose another path"
        ) from None
    return f'"{path}"'


def _write_sample(path: Path) -> None:
    user = apache_user() if os.geteuid() == 0 else None
    content = (_FILES / _SAMPLE).read_text(encoding="utf-8")
    has_group = create_text(path, content, 0o640, user.pw_gid if user else None)
    click.echo(f"wrote {path}")
    if user is not None and not has_group:
        click.echo(f"the owner of the folder owns the file; to let httpd read it: chgrp {group(user)} {path}")


# --- the sites -------------------------------------------------------------------------------------------------------


def _sites(program: str | None, httpd_options: Sequence[str]) -> tuple[list[Joining], list[str]]:
    """Return what each site needs, and remarks for the administrator."""
    try:
        known, notes = _read(program, httpd_options)
    except HttpdConfigError as error:
        return [], [f"no site was found: {error}"]
    # The lines give each site a fixed application group.
    return known, [f"note: {note}" for note in notes if not note.startswith("WSGIApplicationGroup %{")]


def _read(program: str | None, httpd_options: Sequence[str]) -> tuple[list[Joining], Sequence[str]]:
    """Return what each site needs, and notes. Raises HttpdConfigError."""
    home = sys.prefix if sys.prefix != sys.base_prefix else ""
    configured = configuration.as_it_runs(program, httpd_options)
    known = configuration.interpret(configured)
    return joining.joinings(configured, known, PACKAGE, home), known.notes


def _confirm(joined: Sequence[Site], program: str | None, httpd_options: Sequence[str]) -> None:
    """Raise HttpdConfigError if httpd refuses the files, ConfigError if the lines in them have no effect."""
    names = {(site.server, site.script) for site in joined}
    for each in _read(program, httpd_options)[0]:
        if (each.site.server, each.site.script) in names and (each.by_hand or each.lines):
            raise ConfigError(
                f"{_title(each)}: another directive decides where the script runs, so the site did not join: "
                f"{each.by_hand or '; '.join(each.lines)}; nothing was changed"
            )


def _have_settings(known: Sequence[Joining]) -> bool:
    """Return whether there are sites, and each has settings beside its script."""
    return bool(known) and all(os.path.lexists(each.site.script.with_name(CONFIG_NAME)) for each in known)


def _report(known: Sequence[Joining]) -> None:
    for each in known:
        click.echo(printable(f"site {_title(each)}: {_needs(each)}"))
        for line in each.lines:
            click.echo(printable(f"    {line}"))
    if missing := [each for each in known if each.lines]:
        click.echo(typed(f"to write these lines: `wsgipool apache install --site {missing[0].site.server}`"))


def _title(each: Joining) -> str:
    return f"{each.site.server} ({each.site.directive.origin}, {each.site.script})"


def _needs(each: Joining) -> str:
    if each.by_hand:
        return each.by_hand
    return f"needs these lines below its {each.after.name}:" if each.lines else "joined"


def _join(
    known: Sequence[Joining],
    wanted: Sequence[str],
    drop_in: Path,
    program: str | None,
    httpd_options: Sequence[str],
) -> None:
    """Write the lines of the wanted sites, all or none. Raises ConfigError."""
    chosen = [each for each in known if {each.site.server, str(each.site.script)} & set(wanted)]
    found = {name for each in chosen for name in (each.site.server, str(each.site.script))}
    if unknown := [name for name in wanted if name not in found]:
        names = ", ".join(sorted({each.site.server for each in known})) or "none"
        raise ConfigError(f"--site: httpd's configuration has no site {unknown[0]}; the sites with Python are: {names}")
    contents: dict[Path, str] = {}
    # From the end, so that line numbers stay right.
    for each in sorted(chosen, key=lambda each: -each.after.line):
        if each.by_hand:
            raise ConfigError(f"{_title(each)}: {each.by_hand}")
        if not each.lines:
            click.echo(f"site {_title(each)}: joined already")
            continue
        path = each.after.path
        text = joining.inserted(contents.get(path) or read_text(path), each.after, each.lines) if path else None
        if path is None or text is None:
            raise ConfigError(
                f"{each.after.origin}: this is not a plain line of a file; write these lines below its "
                f"{each.after.name}: {'; '.join(each.lines)}"
            )
        contents[path] = text
    if any(each.needs_python_home for each in chosen):
        contents[drop_in] = with_defines(read_text(drop_in), {"WSGIPOOL_PYTHON_HOME": _quoted(Path(sys.prefix))})
    backups = replace_files(contents, lambda: _confirm([each.site for each in chosen], program, httpd_options))
    for path, backup in backups.items():
        click.echo(f"wrote {path.resolve()} (backup: {backup.name})")
        for each in chosen:
            if each.after.path == path:
                for line in each.lines:
                    click.echo(f"    {line}")
