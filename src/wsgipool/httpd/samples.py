"""The requests by which a private httpd is asked: each server of a configuration, and paths below its scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from wsgipool.httpd.dump import Directive, Dump, Section
from wsgipool.httpd.private import MAIN

MAX_FILES = 200
"""Maximum number of files of one folder for which httpd is asked."""
_MAX_SCANNED = 20_000

SCRIPT_HANDLERS = ("wsgi-script", "application/x-httpd-wsgi")
"""Handlers that run the requested file itself."""
_OWN_FILES = ("wsgipool", "apache")
"""The folder of the files that add this package's own pages."""

_BELOW = "wsgipool-sample"
_DEFAULT_PORTS = ("80", "443")


@dataclass(frozen=True)
class Server:
    """The main server or a virtual host."""

    number: int
    name: str
    """Its ServerName, or that of the main server."""
    ports: Sequence[str]
    """The ports of its visitors."""

    @property
    def host(self) -> str:
        """The Host header of a visitor."""
        return f"{self.name}:{self.ports[0]}" if self.ports else self.name

    @property
    def group(self) -> str:
        """The name that mod_wsgi makes of host and port, for %{SERVER} and %{RESOURCE}.

        The port is that of the Host header, so another port makes another name.
        """
        return self.name if not self.ports or self.ports[0] in _DEFAULT_PORTS else self.host


def is_in_scope(directive: Directive, server: Server) -> bool:
    """Return whether a directive of the main server or of a virtual host concerns a server."""
    return scope(directive.sections) in (MAIN, server.number)


def scope(sections: Sequence[Section]) -> int:
    """Return the number of the server that some sections belong to."""
    return sections[0].number if sections and sections[0].kind == "virtualhost" else MAIN


def inner(directive: Directive) -> list[Section]:
    """Return the sections around a directive without its virtual host."""
    return [section for section in directive.sections if section.kind != "virtualhost"]


# --- servers ---------------------------------------------------------------------------------------------------------


def servers(configuration: Dump) -> list[Server]:
    """Return the servers that visitors can reach."""
    listening = [_address(each.arguments[0]) for each in configuration.named("Listen")]
    names = {scope(each.sections): _host(each.arguments[0]) for each in reversed(configuration.named("ServerName"))}
    default = names.get(MAIN, "localhost")
    hosts = {
        each.sections[0].number: [_address(argument) for argument in each.sections[0].arguments]
        for each in configuration.directives
        if scope(each.sections) != MAIN
    }
    everywhere = [address for addresses in hosts.values() for address in addresses]
    own = [at for at in listening if not any(_receives_all(address, at) for address in everywhere)]
    found = [Server(MAIN, default, [port for _, port in own])] if own or not listening else []
    for number, addresses in hosts.items():
        ports = [at[1] for at in listening if any(_matches(address, at) for address in addresses)]
        if not listening:
            ports = [port for _, port in addresses if port != "*"]
        if ports or not listening:
            found.append(Server(number, names.get(number, default), list(dict.fromkeys(ports))))
    return found


def _address(text: str) -> tuple[str, str]:
    """Return the host and the port of `Listen` or `<VirtualHost>`; "*" for all."""
    if text.isdecimal():
        return "*", text
    match = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d+|\*))?", text)
    host, port = (match[1], match[2] or "*") if match else (text, "*")
    return ("*" if host in ("", "_default_", "0.0.0.0", "[::]") else host), port  # noqa: S104 - compared, not bound


def _host(name: str) -> str:
    return re.sub(r"^\w+://|:\d+$", "", name)


def _matches(address: tuple[str, str], listening: tuple[str, str]) -> bool:
    # A name or another address may be one of this host's.
    return address[1] in ("*", listening[1])


def _receives_all(address: tuple[str, str], listening: tuple[str, str]) -> bool:
    return _matches(address, listening) and address[0] in ("*", listening[0])


# --- paths -----------------------------------------------------------------------------------------------------------


class Paths:
    """The paths of requests to one server, which reach its scripts in different ways."""

    def __init__(self, configuration: Dump, server: Server) -> None:
        self._directives = [each for each in configuration.directives if is_in_scope(each, server)]
        self.is_complete = True
        """Whether all files were found that a handler may run."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._all()))

    def _all(self) -> Iterator[str]:
        for directive in self._directives:
            name = directive.kind
            if name == "wsgiscriptalias":
                mount, target = directive.arguments[:2]
                yield from paths_around(mount)
                if Path(target).is_dir():
                    yield from self._files_below(mount, Path(target), Path(target), [])
            elif name == "wsgiscriptaliasmatch":
                yield from _of_pattern(*directive.arguments[:2])
            elif name == "rewriterule" and not inner(directive):
                yield from paths_around(literal_start(directive.arguments[0]))
        for section in dict.fromkeys(section for each in self._directives for section in each.sections):
            if section.kind in ("location", "locationmatch"):
                yield from _of_location(section)
        yield from self._files()

    def _files(self) -> Iterator[str]:
        roots = self._roots()
        for directive in self._directives:
            extensions = handled_extensions(directive)
            if extensions is None:
                continue
            folders = [
                Path(each.arguments[-1])
                for each in directive.sections
                if each.kind == "directory" and len(each.arguments) == 1 and "*" not in each.text
            ]
            for prefix, root in roots.items():
                top = _narrower(root, folders[-1]) if folders else root
                if top is not None:
                    yield from self._files_below(prefix, root, top, extensions)

    def _files_below(self, prefix: str, root: Path, top: Path, extensions: Sequence[str]) -> Iterator[str]:
        """Yield the paths of files below `top`, where `prefix` is the path of `root`."""
        scanned: Iterable[Path] = [top] if top.is_file() else _walk(top)
        found = 0
        for number, file in enumerate(scanned):
            if found == MAX_FILES or number == _MAX_SCANNED:
                self.is_complete = False
                return
            if extensions and not set(extensions) & set(file.name.lower().split(".")[1:]):
                continue
            found += 1
            yield prefix if file == root else f"{prefix.rstrip('/')}/{file.relative_to(root).as_posix()}"

    def _roots(self) -> Mapping[str, Path]:
        """Return the folders and files by their prefix of paths."""
        roots = {}
        for directive in self._directives:
            if directive.kind == "documentroot":
                roots["/"] = Path(directive.arguments[0])
            elif directive.kind in ("alias", "scriptalias") and len(directive.arguments) == 2:
                roots[directive.arguments[0]] = Path(directive.arguments[1])
        return roots


def handled_extensions(directive: Directive) -> Sequence[str] | None:
    """Return the extensions of files that a directive gives to mod_wsgi; [] for all files, None if it gives none."""
    name, arguments = directive.kind, directive.arguments
    if not arguments or arguments[0].lower() not in SCRIPT_HANDLERS:
        return None
    if Path(directive.file).parts[-3:-1] == _OWN_FILES:
        return None  # such as the status page, which runs beside the site's script
    if name in ("addhandler", "addtype"):
        return [extension.lstrip(".").lower() for extension in arguments[1:]]
    return [] if name in ("sethandler", "forcetype") else None


def literal_start(pattern: str) -> str:
    """Return the text with which all matches of a regular expression begin; "" if there is none."""
    if not pattern.startswith("^") or "|" in pattern:
        return ""
    found = re.match(r"(?:[^\\^$.\[\]|()?*+{}]|\\[^\w])*", pattern[1:])
    start = found[0] if found else ""
    if pattern[1 + len(start) : 2 + len(start)] in ("?", "*", "{"):
        start = re.sub(r"\\?.\Z", "", start)
    return re.sub(r"\\(.)", r"\1", start)


def is_below_folder(directive: Directive, file: str) -> bool:
    """Return whether a file is in a <Directory> around a directive, as far as that is a plain path."""
    folders = [each.arguments[-1] for each in directive.sections if each.kind == "directory" and each.arguments]
    return bool(folders) and Path(file).is_relative_to(folders[-1])


def paths_around(path: str) -> list[str]:
    """Return a path, and paths below it."""
    if not path.startswith("/"):
        return []
    return [path, path.rstrip("/") + "/", f"{path.rstrip('/')}/{_BELOW}"]


def _of_pattern(pattern: str, target: str) -> Iterator[str]:
    """Yield paths that match a WSGIScriptAliasMatch, one for each file that its target may mean."""
    yield from paths_around(literal_start(pattern))
    if not re.search(r"\$\d", target):
        yield from paths_around(path_that_matches(pattern, {}))
        return
    wanted = "".join(f"(?P<g{part[1]}>[^/]+)" if part[:1] == "$" else re.escape(part) for part in _first_uses(target))
    for file in _files_that_match(target):
        if match := re.fullmatch(wanted, file):
            values = {int(name[1:]): value for name, value in match.groupdict().items()}
            yield from paths_around(path_that_matches(pattern, values))


def _files_that_match(target: str) -> list[str]:
    """Return files that the target of a pattern may mean."""
    start = Path(target.partition("$")[0]).parent
    if start == Path("/"):
        return []  # a search of the whole host would take too long
    pattern = re.sub(r"(?:\$\d)+", "*", target)[len(str(start)) + 1 :]
    try:
        return [str(file) for file in islice(start.glob(pattern), MAX_FILES)]
    except (OSError, ValueError):
        return []


def _first_uses(target: str) -> Iterator[str]:
    """Yield the parts of a target; a place that occurs again is any text."""
    seen = set()
    for part in re.split(r"(\$\d)", target):
        if part in seen and part[:1] == "$":
            continue
        seen.add(part)
        yield part


def path_that_matches(pattern: str, values: Mapping[int, str]) -> str:
    """Return a path that a simple pattern matches, with these values in its groups."""
    numbers = iter(range(1, 10))
    path = re.sub(r"\((?!\?)[^()]*\)[?*+]?", lambda _: values.get(next(numbers), _BELOW), pattern)
    path = re.sub(r"\(\?[^()]*\)[?*+]?|[\^$]|/\?$", "", path)
    path = re.sub(r"(?:\\w|\\d|\[[^\]]*\]|\.)[*+]", _BELOW, path)
    return re.sub(r"\\(.)", r"\1", path)


def _of_location(section: Section) -> Iterator[str]:
    path = section.arguments[-1] if section.arguments else ""
    if section.kind == "locationmatch" or len(section.arguments) > 1:
        yield from paths_around(literal_start(path))
        yield from paths_around(path_that_matches(path, {}))
    else:
        path = path.replace("*", _BELOW).replace("?", "x")
        yield from paths_around(re.sub(r"\[(.)[^\]]*\]", r"\1", path))


def _narrower(root: Path, folder: Path) -> Path | None:
    """Return the common part of two folders."""
    if folder.is_relative_to(root):
        return folder
    return root if root.is_relative_to(folder) else None


def _walk(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        yield from (Path(folder, name) for name in sorted(names))
