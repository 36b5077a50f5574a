"""`wsgipool apache`: put the drop-in into Apache's configuration, or print it and its companions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from wsgipool.errors import ConfigError
from wsgipool.httpd.express import DROP_IN, PACKAGE, apache_user
from wsgipool.httpd.users import group
from wsgipool.privileged import create_text, read_text, replace_text
from wsgipool.process import SYSTEM_CONFIG

_FOLDERS = ("/etc/apache2/conf-available", "/etc/httpd/conf.d", "/etc/apache2/conf.d")
_FILES = PACKAGE / "apache"
_SAMPLE = "wsgipool.toml"


@click.group()
def apache() -> None:
    """Install or print the Apache files."""


@apache.command()
@click.argument(
    "file", type=click.Choice(sorted(path.name for path in _FILES.iterdir())), default=DROP_IN.name, metavar="[FILE]"
)
def show(file: str) -> None:
    """Print FILE: an Apache file or wsgipool.toml (default: the drop-in, as `install` would write it)."""
    click.echo(
        _drop_in(SYSTEM_CONFIG) if file == DROP_IN.name else (_FILES / file).read_text(encoding="utf-8"), nl=False
    )


@apache.command()
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"Where httpd looks for such files. Default: the first that exists of {', '.join(_FOLDERS)}.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    default=SYSTEM_CONFIG,
    show_default=True,
    help="Where the sample settings go, if nothing is there.",
)
@click.option("--force", is_flag=True, help="Replace a drop-in that was changed by hand.")
def install(directory: Path | None, config_path: Path, force: bool) -> None:
    """Write the drop-in into Apache's configuration, and sample settings to /etc/wsgipool.toml."""
    target = (directory or _folder()) / DROP_IN.name
    content = _drop_in(config_path)
    before = read_text(target) if os.path.lexists(target) else None
    if before not in (None, content) and not force:
        raise ConfigError(f"{target} exists and differs; compare it with `wsgipool apache show`, or give --force")
    if not config_path.parent.is_dir():
        raise ConfigError(f"{config_path.parent} is not a folder; name another place with --config")
    if before is None:
        create_text(target, content, 0o644)
    elif before != content:
        replace_text(target, content, backup=False)
    click.echo(f"wrote {target}")
    if os.path.lexists(config_path):
        click.echo(f"kept {config_path}")
    else:
        _write_sample(config_path)
    if target.parent.name == "conf-available":
        click.echo(f"now edit {config_path}, then: a2enconf wsgipool && apache2ctl configtest")
    else:
        click.echo(f"now edit {config_path}, then: apachectl configtest")


def _folder() -> Path:
    for name in _FOLDERS:
        if Path(name).is_dir():
            return Path(name)
    raise ConfigError(f"none of {', '.join(_FOLDERS)} is here; name Apache's folder with --directory")


def _drop_in(config_path: Path) -> str:
    """Return the drop-in with the places of this installation."""
    lines = []
    for line in DROP_IN.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("Define WSGIPOOL_HOME "):
            lines.append(f"    Define WSGIPOOL_HOME {_quoted(PACKAGE)}")
        elif line.startswith("#Define WSGIPOOL_PYTHON_HOME ") and sys.prefix != sys.base_prefix:
            lines.append(f"Define WSGIPOOL_PYTHON_HOME {_quoted(Path(sys.prefix))}")
        elif line.startswith("#Define WSGIPOOL_CONFIG "):
            lines += [
                "<IfDefine !WSGIPOOL_CONFIG>",
                f"    Define WSGIPOOL_CONFIG {_quoted(config_path.absolute())}",
                "</IfDefine>",
            ]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    """Return a path as httpd's configuration has it. Raises ConfigError for one that it cannot have."""
    # httpd takes neither the end of a line nor what looks like a variable, whatever is around it.
    if not str(path).isprintable() or any(each in str(path) for each in ('"', "\\", "${")):
        raise ConfigError(f"{path} has characters that httpd's configuration cannot have; choose another place")
    return f'"{path}"'


def _write_sample(path: Path) -> None:
    user = apache_user() if os.geteuid() == 0 else None
    content = (_FILES / _SAMPLE).read_text(encoding="utf-8")
    has_group = create_text(path, content, 0o640, user.pw_gid if user else None)
    click.echo(f"wrote {path}")
    if user is not None and not has_group:
        click.echo(f"it was written as the owner of its folder; let httpd read it: chgrp {group(user)} {path}")
