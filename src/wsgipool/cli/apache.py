"""`wsgipool apache`: put the drop-in into Apache's configuration, or print it and its companions."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from wsgipool.errors import ConfigError
from wsgipool.httpd.express import DROP_IN, PACKAGE, apache_user
from wsgipool.process import SYSTEM_CONFIG

_FOLDERS = ("/etc/apache2/conf-available", "/etc/httpd/conf.d", "/etc/apache2/conf.d")
_FILES = PACKAGE / "apache"
_SAMPLE = "wsgipool.toml"


@click.group()
def apache() -> None:
    """Install or print the Apache files."""


@apache.command()
@click.argument("file", type=click.Choice(sorted(path.name for path in _FILES.iterdir())), default=DROP_IN.name)
def show(file: str) -> None:
    """Print FILE (default: the drop-in, as `install` would write it)."""
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
    if target.exists() and target.read_bytes() != content.encode() and not force:
        raise ConfigError(f"{target} exists and differs; compare it with `wsgipool apache show`, or give --force")
    if not config_path.parent.is_dir():
        raise ConfigError(f"{config_path.parent} is not a folder; name another place with --config")
    _write(target, content, 0o644)
    if config_path.exists():
        click.echo(f"kept {config_path}")
    else:
        _write(config_path, (_FILES / _SAMPLE).read_text(encoding="utf-8"), 0o640)
        if os.geteuid() == 0:
            shutil.chown(config_path, group=apache_user().pw_gid)
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
            lines.append(f'    Define WSGIPOOL_HOME "{PACKAGE}"')
        elif line.startswith("#Define WSGIPOOL_PYTHON_HOME ") and sys.prefix != sys.base_prefix:
            lines.append(f'Define WSGIPOOL_PYTHON_HOME "{sys.prefix}"')
        elif line.startswith("#Define WSGIPOOL_CONFIG "):
            lines += [
                "<IfDefine !WSGIPOOL_CONFIG>",
                f'    Define WSGIPOOL_CONFIG "{config_path.absolute()}"',
                "</IfDefine>",
            ]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _write(path: Path, content: str, mode: int) -> None:
    try:
        path.touch(mode=mode)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {path}")
