"""The syntax of a MySQL option file, such as /etc/mysql/my.cnf: groups, entries and includes.

The manual's page is 'Using Option Files'. All drivers use this reader, so a file means the same for each. The mysql
program skips some faults: a missing file, a file that everybody may write, an !include that cannot be read. Here they
are a ConfigError that names the file and the line. `my_cnf_options` knows what the options mean.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from wsgipool import showing
from wsgipool.drivers import url_files
from wsgipool.errors import ConfigError
from wsgipool.showing import shown

CLIENT_GROUPS = ("client", "client-server", "client-mariadb")
"""The groups for every client program. All but [client] are MariaDB's."""

_MAX_DEPTH = 10
"""Maximum depth of includes, as the mysql program counts it."""
_MAX_FILES = 200
"""Maximum number of files. More mean a wrong folder, or files that include each other."""

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
_BLANKS = " \t\r\n\v\f"


@dataclass(frozen=True)
class Entry:
    """One line of the file: an option, with underscores for its dashes, and its value if it has one."""

    group: str
    name: str
    value: str | None
    where: str
    """The file and the line."""


def read(path: str, group: str | None, where: str) -> Mapping[str, Entry]:
    """Return the entries of the client groups and of `group` by name.

    An entry of `group` takes precedence, then the later of two. Raise ConfigError, beginning with `where`, the place
    that names the file.
    """
    entries: list[Entry] = []
    groups: list[str] = []
    _read_file(path, f"{where}: read_default_file", _Found(entries, groups, [], []))
    if group is not None and group not in groups:
        raise ConfigError(
            f"{where}: read_default_group: {shown(path)} has no group [{showing.name(group)}]; "
            f"its groups are: {_listed(groups)}"
        )
    if group is None and not set(groups) & set(CLIENT_GROUPS):
        raise ConfigError(
            f"{where}: read_default_file: {shown(path)} has no group [client]; its groups are: "
            f"{_listed(groups)}; read_default_group=NAME reads another"
        )
    common = {entry.name: entry for entry in entries if entry.group in CLIENT_GROUPS}
    return common | {entry.name: entry for entry in entries if entry.group == group}


@dataclass(frozen=True)
class _Found:
    """The entries and groups of the files read so far."""

    entries: list[Entry]
    groups: list[str]
    files: list[str]
    """All files, in their order."""
    open_files: list[str]
    """The chain of files in which each includes the next."""


def _read_file(path: str, where: str, found: _Found) -> None:
    if path in found.open_files or len(found.open_files) >= _MAX_DEPTH:
        raise ConfigError(f"{where}: {shown(path)} is included by itself, or more than {_MAX_DEPTH} deep")
    if len(found.files) >= _MAX_FILES:
        raise ConfigError(f"{where}: more than {_MAX_FILES} files are included; leave some out")
    found.files.append(path)
    content, status = url_files.read_with_status(path, where)
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{where}: {shown(path)} may be written by everybody; chmod o-w (mysql would ignore it)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{number}: the line is not UTF-8; save the file in UTF-8") from None
    found.open_files.append(path)
    group: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        here = f"{path}:{number}"
        stripped = line.strip(_BLANKS)
        if "\0" in stripped:
            raise ConfigError(f"{here}: the line has a NUL character; is this a text file?")
        if "\r" in stripped:
            raise ConfigError(f"{here}: a carriage return in the middle of the line; end lines with a line feed")
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "!":
            for included in _included(stripped, here):
                _read_file(included, here, found)
        elif stripped[0] == "[":
            name, bracket, _ = stripped[1:].partition("]")
            if not bracket or not name.strip(_BLANKS):
                raise ConfigError(f"{here}: a group is written [NAME]")
            group = name.strip(_BLANKS)
            found.groups.append(group)
        elif group is None:
            raise ConfigError(f"{here}: an option before the first group; write [client] above it")
        else:
            found.entries.append(_entry(stripped, group, here))
    found.open_files.pop()


def _included(line: str, here: str) -> Iterator[str]:
    match = re.fullmatch(r"!(include|includedir)[ \t]+(.+)", line)
    if not match:
        raise ConfigError(f"{here}: after '!' comes 'include' and a file, or 'includedir' and a folder")
    keyword, path = match[1], match[2].strip(_BLANKS)
    if keyword == "include":
        yield path
        return
    for name in url_files.names_in(path, f"{here}: !includedir"):
        if name.endswith(".cnf"):
            yield str(PurePath(path, name))


def _entry(line: str, group: str, here: str) -> Entry:
    name, equals, value = line[: _comment(line)].partition("=")
    name = name.strip(_BLANKS).replace("-", "_")
    if not name:
        raise ConfigError(f"{here}: a value without the name of an option")
    return Entry(group, name, _value(value.strip(_BLANKS)) if equals else None, here)


def _comment(line: str) -> int:
    """Return the index of a comment, a '#' outside quotes, or the line's length."""
    quote, escaped = "", False
    for place, character in enumerate(line):
        if character in "'\"" and not escaped:
            if not quote:
                quote = character
            elif quote == character:
                quote = ""
        if character == "#" and not quote:
            return place
        escaped = bool(quote) and character == "\\" and not escaped
    return len(line)


def _value(text: str) -> str:
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        text = text[1:-1]
    # A backslash before any other character is kept.
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text)


def _listed(groups: list[str]) -> str:
    return ", ".join(f"[{group}]" for group in sorted(set(groups))[:10]) or "none"
