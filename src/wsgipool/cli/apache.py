"""`wsgipool apache`: install the drop-in into Apache's configuration, or print it and its companions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from wsgipool.errors import ConfigError
from wsgipool.httpd.express import DROP_IN, PACKAGE, apache_user
from wsgipool.httpd.users import group
from wsgipool.pools import SYSTEM_CONFIG
from wsgipool.privileged import create_text, read_text, replace_text

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
    """Print FILE, an Apache file or the sample wsgipool.toml.

    Default: the drop-in wsgipool.conf, as `wsgipool apache install` would write it.
    """
    click.echo(
        _drop_in(SYSTEM_CONFIG) if file == DROP_IN.name else (_FILES / file).read_text(encoding="utf-8"), nl=False
    )


@apache.command()
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Apache's configuration files into which the drop-in is written. Default: the first existing one "
    f"of {', '.join(_FOLDERS)}.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    default=str(SYSTEM_CONFIG),
    show_default=True,
    help="Path of the settings that the drop-in names. A sample is written there if no file exists.",
)
@click.option("--force", is_flag=True, help="Replace a drop-in that was changed by hand.")
def install(directory: Path | None, config_path: Path, force: bool) -> None:
    """Write wsgipool.conf into Apache's configuration.

    If there are no settings yet, a sample wsgipool.toml is written, too.
    """
    target = (directory or _folder()) / DROP_IN.name
    content = _drop_in(config_path)
    before = read_text(target) if os.path.lexists(target) else None
    if before not in (None, content) and not force:
        raise ConfigError(f"{target} exists and differs; compare it with `wsgipool apache show`, or give --force")
    if not config_path.parent.is_dir():
        raise ConfigError(f"{config_path.parent} is not a folder; name another path with --config")
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
    raise ConfigError(f"none of {', '.join(_FOLDERS)} exists; name Apache's folder with --directory")


def _drop_in(config_path: Path) -> str:
    """Return the drop-in with the paths of this installation."""
    lines = []
    for line in DROP_IN.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("Define WSGIPOOL_HOME "):
            lines.append(f"    Define WSGIPOOL_HOME {_quoted(PACKAGE)}")
        elif line.startswith("#Define WSGIPOOL_PYTHON_HOME ") and sys.prefix != sys.base_prefix:
            lines += _default("WSGIPOOL_PYTHON_HOME", Path(sys.prefix))
        elif line.startswith("#Define WSGIPOOL_CONFIG "):
            lines += _default("WSGIPOOL_CONFIG", config_path.absolute())
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _default(name: str, path: Path) -> list[str]:
    """Return the lines of a Define that an earlier Define replaces."""
    return [f"<IfDefine !{name}>", f"    Define {name} {_quoted(path)}", "</IfDefine>"]


def _quoted(path: Path) -> str:
    """Return a path in quotes for httpd's configuration. Raises ConfigError if that is impossible."""
    # httpd cannot quote line ends, quotes and variables in paths.
    if not str(path).isprintable() or any(each in str(path) for each in ('"', "\\", "${")):
        raise ConfigError(f"{path} has characters that httpd's configuration cannot contain; choose another path")
    return f'"{path}"'


def _write_sample(path: Path) -> None:
    user = apache_user() if os.geteuid() == 0 else None
    content = (_FILES / _SAMPLE).read_text(encoding="utf-8")
    has_group = create_text(path, content, 0o640, user.pw_gid if user else None)
    click.echo(f"wrote {path}")
    if user is not None and not has_group:
        click.echo(f"the owner of the folder owns the file; to let httpd read it: chgrp {group(user)} {path}")
