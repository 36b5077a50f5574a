"""A plan's lines for Apache's configuration and wsgipool.toml, as text to paste and as changes to files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from wsgipool import privileged
from wsgipool.errors import ConfigError
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import Directive
from wsgipool.httpd.placement import EMBEDDED
from wsgipool.plan.sizing import ProcessGroup


def defines(group: ProcessGroup) -> dict[str, str]:
    """Return the Defines of the drop-in that give Apache's own children their sizes."""
    sizes = {"WSGIPOOL_SIZING": "", "WSGIPOOL_PROCESSES": str(group.processes)}
    if group.mode != "prefork":
        sizes["WSGIPOOL_THREADS"] = str(group.threads)
        # httpd cannot multiply.
        sizes["WSGIPOOL_REQUEST_WORKERS"] = str(group.processes * group.threads)
    return sizes


def directives(group: ProcessGroup) -> list[str]:
    """Return the equivalent directives of httpd, for a configuration without the drop-in."""
    if group.mode == "daemon":
        return [f"WSGIDaemonProcess {_word(group.name)} processes={group.processes} threads={group.threads}"]
    if group.mode == "prefork":
        return [f"ServerLimit {group.processes}", f"MaxRequestWorkers {group.processes}"]
    return [
        f"ServerLimit {group.processes}",
        f"ThreadsPerChild {group.threads}",
        f"MaxRequestWorkers {group.processes * group.threads}",
    ]


def is_of_drop_in(group: ProcessGroup, configuration: Configuration | None) -> bool:
    """Return whether the drop-in's Defines set, or can set, the sizes of a group."""
    return group.name == EMBEDDED and (configuration is None or configuration.drop_in is not None)


def apache(groups: Sequence[ProcessGroup], configuration: Configuration | None) -> list[str]:
    """Return the lines for Apache."""
    lines = []
    for group in groups:
        if is_of_drop_in(group, configuration):
            lines += [f"Define {name} {value}".rstrip() for name, value in defines(group).items()]
        else:
            daemon = configuration.daemons.get(group.name) if configuration else None
            lines += [f"# {daemon.origin}, keep its other options:"] if daemon else []
            lines += directives(group)
    return lines


def toml(max_sizes: Mapping[str, int | str]) -> list[str]:
    """Return the lines for wsgipool.toml."""
    document = tomlkit.document()
    databases = tomlkit.table(is_super_table=True)
    for name, max_size in max_sizes.items():
        databases.append(name, tomlkit.item({"max_size": max_size}))
    document.append("databases", databases)
    return tomlkit.dumps(document).strip().splitlines()


def with_defines(drop_in: str, wanted: Mapping[str, str]) -> str:
    """Return the drop-in's text with these Defines in place of its own lines, commented or not."""
    lines = drop_in.split("\n")
    for name, value in wanted.items():
        line = f"Define {name} {value}".rstrip()
        places = [number for number, text in enumerate(lines) if re.match(rf"#?Define {name}(\s|$)", text)]
        if not places:
            raise ConfigError(f"the drop-in has no line for {name}; replace it by `wsgipool apache install`")
        # If there is a commented and an active line, the active one comes last.
        lines[places[-1]] = line
    return "\n".join(lines)


def with_daemon_sizes(text: str, daemon: Directive, group: ProcessGroup) -> str | None:
    """Return the text of daemon's file with the sizes of a group in its line; None if the line cannot be changed."""
    lines = text.split("\n")
    whole = lines[daemon.line - 1] if 0 < daemon.line <= len(lines) else ""
    line = whole.rstrip()
    # Variables and continued lines are left to the administrator.
    if not re.match(r"\s*WSGIDaemonProcess\s", line, re.I) or line.endswith("\\") or "${" in line:
        return None
    for name, value in (("processes", group.processes), ("threads", group.threads)):
        option = f" {name}={value}"
        line, count = re.subn(rf"""\s{name}=("[^"]*"|'[^']*'|\S*)""", option, line)
        line = line if count else line + option
    lines[daemon.line - 1] = line + ("\r" if whole.endswith("\r") else "")
    return "\n".join(lines)


def with_max_sizes(settings: str, wanted: Mapping[str, int | str]) -> str:
    """Return the text of a wsgipool.toml with these sizes; its comments and order stay."""
    try:
        document = tomlkit.parse(settings)
        databases: dict[str, dict[str, object]] = document["databases"]
        for name, max_size in wanted.items():
            databases[name]["max_size"] = max_size
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError, TypeError, RecursionError) as error:
        # Another parser, which loaded the file, found it valid.
        raise ConfigError(f"the lines of wsgipool.toml cannot be changed: {type(error).__name__}: {error}") from None


def replace_files(contents: Mapping[Path, str], check: Callable[[], object]) -> dict[Path, Path]:
    """Overwrite existing files and call `check`; return the backup of each file. Owners and modes stay.

    If anything fails, all files are restored. Raises ConfigError, or the error of `check`.
    """
    before = {path: privileged.read_text(path) for path in contents}
    try:
        backups = {path: privileged.replace_text(path, content) for path, content in contents.items()}
        check()
    except BaseException:
        _restore(before)
        raise
    return backups


def _restore(before: Mapping[Path, str]) -> None:
    failures = []
    for path, content in before.items():
        try:
            if privileged.read_text(path) != content:
                privileged.replace_text(path, content, backup=False)
        except ConfigError as error:
            failures.append(f"{path} cannot be restored: {error}; its backup is {path.resolve()}.bak")
    if failures:
        raise ConfigError("; ".join(failures))


def _word(text: str) -> str:
    return f'"{text}"' if " " in text else text
