"""The lines of Apache and of wsgipool.toml that a plan comes to, as text to paste and as changes to files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from wsgipool import privileged
from wsgipool.errors import ConfigError
from wsgipool.httpd.configuration import EMBEDDED, Configuration
from wsgipool.sizing import ProcessGroup

_GROUP = "WSGIPOOL_PROCESS_GROUP"


def defines(group: ProcessGroup) -> dict[str, str]:
    """Return the Defines of the drop-in that give a process group its sizes."""
    sizes = {"WSGIPOOL_PROCESSES": str(group.processes)}
    if group.mode != "prefork":
        sizes["WSGIPOOL_THREADS"] = str(group.threads)
    if group.mode == "daemon":
        return {"WSGIPOOL_DAEMON": "", **sizes}
    if group.mode != "prefork":
        # httpd cannot multiply.
        sizes["WSGIPOOL_REQUEST_WORKERS"] = str(group.processes * group.threads)
    return {"WSGIPOOL_SIZING": "", **sizes}


def directives(group: ProcessGroup) -> list[str]:
    """Return httpd's own directives that do the same, for a configuration without the drop-in."""
    if group.mode == "daemon":
        return [f"WSGIDaemonProcess {group.name} processes={group.processes} threads={group.threads}"]
    if group.mode == "prefork":
        return [f"ServerLimit {group.processes}", f"MaxRequestWorkers {group.processes}"]
    return [
        f"ServerLimit {group.processes}",
        f"ThreadsPerChild {group.threads}",
        f"MaxRequestWorkers {group.processes * group.threads}",
    ]


def is_of_drop_in(group: ProcessGroup, configuration: Configuration | None) -> bool:
    """Tell whether the drop-in's Defines decide, or can decide, the sizes of a group."""
    if configuration is None:
        return True
    if configuration.drop_in is None:
        return False
    daemon = "WSGIPOOL_DAEMON" in configuration.defines
    # In daemon mode the same Defines are of the daemon processes, and cannot be of Apache's children as well.
    return group.name == configuration.defines.get(_GROUP) if daemon else group.name == EMBEDDED


def apache(groups: Sequence[ProcessGroup], configuration: Configuration | None) -> list[str]:
    """Return the lines for Apache."""
    lines = []
    for group in groups:
        if is_of_drop_in(group, configuration):
            lines += [f"Define {name} {value}".rstrip() for name, value in defines(group).items()]
        else:
            origin = configuration.origins.get(group.name) if configuration else None
            lines += [f"# {origin}, its other options as they are:"] if origin else []
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
    """Return the drop-in's text with these Defines: the commented lines become real, others follow their section."""
    lines = drop_in.splitlines()
    for name, value in wanted.items():
        line = f"Define {name} {value}".rstrip()
        places = [number for number, text in enumerate(lines) if re.match(rf"#?Define {name}(\s|$)", text)]
        if not places:
            raise ConfigError(f"the drop-in has no line for {name}; write it anew: wsgipool apache install --force")
        # A real one after a commented one is the one that counts.
        lines[places[-1]] = line
    return "\n".join(lines) + "\n"


def with_max_sizes(settings: str, wanted: Mapping[str, int | str]) -> str:
    """Return the text of a wsgipool.toml with these sizes, its comments and order as they were."""
    try:
        document = tomlkit.parse(settings)
        databases: dict[str, dict[str, object]] = document["databases"]
        for name, max_size in wanted.items():
            databases[name]["max_size"] = max_size
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError, TypeError, RecursionError) as error:
        # It was valid when it was loaded, by another parser.
        raise ConfigError(f"the lines of wsgipool.toml cannot be changed: {type(error).__name__}: {error}") from None


def replace_files(contents: Mapping[Path, str], check: Callable[[], object]) -> dict[Path, Path]:
    """Write files that exist anew, and return where the former self of each is kept. Owner and mode stay.

    All are written and `check` lets them be, or all are as they were. Raises ConfigError, or what `check` does.
    """
    before = {path: privileged.read_text(path) for path in contents}
    try:
        backups = {path: privileged.replace_text(path, content) for path, content in contents.items()}
        check()
    except BaseException:
        _put_back(before)
        raise
    return backups


def _put_back(before: Mapping[Path, str]) -> None:
    lost = []
    for path, content in before.items():
        try:
            if privileged.read_text(path) != content:
                privileged.replace_text(path, content, backup=False)
        except ConfigError as error:
            lost.append(f"{path} cannot be put back: {error}; its former self is {path.resolve()}.bak")
    if lost:
        raise ConfigError("; ".join(lost))
