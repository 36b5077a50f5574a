"""A private httpd that says where requests would run, so that no rule of httpd needs to be known here.

It gets the part of a configuration that maps requests to scripts: aliases, sections, handlers, rewriting. It runs no
script, since mod_wsgi has neither daemon processes nor embedded mode there. Instead of mod_wsgi's process and
application groups, `Header` directives stand in the same sections, which httpd merges in the same order. So the headers
of an answer name the directives that apply to the request.

The names of these headers are new in each run. So neither a .htaccess file nor another program on the same port can
give an answer. Each virtual host has an address of its own below 127.0.0.0/8. Requests without the key in a header are
denied, unless a .htaccess file allows them.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from wsgipool.httpd.child import end_with_parent
from wsgipool.httpd.dump import Directive, Dump, HttpdConfigError, Section, module_file

MAIN = 0
"""The number of the main server; a virtual host has the number of its section."""

MAX_SERVERS = 500
"""Maximum number of servers, each of which needs a socket."""

_START_TIMEOUT = 10.0
_PORT_ATTEMPTS = 10
_EMPTY = "(null)"
"""The value of a header whose expression has none."""
_KEY_HEADER = "X-Wsgipool-Key"
_PLACED = ("wsgiprocessgroup", "wsgiapplicationgroup", "wsgidispatchscript")
"""The directives that become headers."""
_ASKED = {
    "handler": "%{HANDLER}",
    "file": "%{REQUEST_FILENAME}",
    "pathinfo": "%{PATH_INFO}",
    "alias": "%{note:mod_wsgi.application_group}",
}
"""Expressions whose values are headers, too."""
_ALIASES = ("wsgiscriptalias", "wsgiscriptaliasmatch")

_BY_TYPE = {"addtype": "AddHandler", "forcetype": "SetHandler"}

_OWN_MODULES = ("authz_core", "headers")
_OTHER_MODULES = ("unixd",)
_DIRECTIVES = {
    "core": (
        "serverroot", "servername", "serveralias", "serverpath", "documentroot", "accessfilename", "allowoverride",
        "allowoverridelist", "options", "acceptpathinfo", "allowencodedslashes", "mergeslashes", "usecanonicalname",
        "usecanonicalphysicalport", "sethandler", "forcetype",
    ),
    "wsgi": ("wsgicasesensitivity",),
    "alias": (
        "alias", "aliasmatch", "scriptalias", "scriptaliasmatch", "redirect", "redirectmatch", "redirectpermanent",
        "redirecttemp",
    ),
    "rewrite": ("rewriteengine", "rewriteoptions", "rewritebase", "rewritecond", "rewriterule", "rewritemap"),
    "dir": ("directoryindex", "directoryslash", "fallbackresource", "directorycheckhandler", "directoryindexredirect"),
    "mime": (
        "typesconfig", "addhandler", "removehandler", "addtype", "removetype", "multiviewsmatch",
        "modmimeusepathinfo", "addlanguage", "addencoding", "addcharset",
    ),
    "negotiation": ("languagepriority", "forcelanguagepriority"),
    "setenvif": ("setenvif", "setenvifnocase", "browsermatch", "browsermatchnocase"),
    "userdir": ("userdir",),
    "vhost_alias": ("virtualdocumentroot", "virtualdocumentrootip", "virtualscriptalias", "virtualscriptaliasip"),
}  # fmt: skip
"""The directives that map requests to scripts, by module."""

_SECTIONS = (
    "virtualhost", "directory", "directorymatch", "files", "filesmatch", "location", "locationmatch", "if", "elseif",
    "else", "limit", "limitexcept",
)  # fmt: skip
_SAFE_MAPS = ("txt:", "rnd:", "int:")
"""Sources of a RewriteMap that run no program."""


@dataclass(frozen=True)
class Answer:
    """Where a request would run."""

    status: int
    handler: str
    """The handler that httpd chose: "wsgi-script", or a name of AddHandler or SetHandler; "" before it chose one."""
    file: str
    """The script."""
    mount: str
    """SCRIPT_NAME of the request."""
    alias: Directive | None
    """The WSGIScriptAlias that the request matched."""
    process_group: Directive | None
    application_group: Directive | None
    dispatch: Directive | None
    """The WSGIDispatchScript that decides at each request."""


class PrivateHttpd:
    """A private httpd for a configuration; a context manager."""

    def __init__(self, configuration: Dump) -> None:
        """Raises HttpdConfigError if httpd does not start."""
        self._directives = configuration.directives
        self._key = secrets.token_hex(16)
        self._marker = secrets.token_hex(8)
        hosts = (each.sections[0] for each in configuration.directives if each.sections)
        numbers = [MAIN, *(section.number for section in hosts if section.kind == "virtualhost")]
        self._addresses = _addresses(list(dict.fromkeys(numbers)))
        self._folder = Path(tempfile.mkdtemp(prefix="wsgipool-httpd-"))
        try:
            self._process = self._started(configuration)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> PrivateHttpd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, server: int, path: str, host: str) -> Answer:
        """Return where a request to a server would run. Raises HttpdConfigError if there is no answer."""
        connection = http.client.HTTPConnection(*self._addresses[server], timeout=_START_TIMEOUT)
        try:
            headers: dict[str, str | bytes] = {"Host": os.fsencode(host), _KEY_HEADER: self._key}
            connection.request("GET", quote(os.fsencode(path), safe="/%:@!$&'()*+,;=~"), headers=headers)
            return self._answer(connection.getresponse(), path)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise HttpdConfigError(f"no answer from a private httpd: {type(error).__name__}: {error}") from None
        finally:
            connection.close()

    def _header(self, name: str) -> str:
        return f"X-{name}-{self._marker}"

    def _answer(self, response: http.client.HTTPResponse, path: str) -> Answer:
        def value(name: str) -> str:
            # http.client decodes bytes as Latin-1; httpd writes bytes that are none of ASCII's as they are.
            text = response.getheader(self._header(name), "")
            return "" if text == _EMPTY else os.fsdecode(text.encode("latin-1"))

        def directive(name: str) -> Directive | None:
            number = value(name).strip("%{}")
            is_known = number.isdecimal() and int(number) < len(self._directives)
            return self._directives[int(number)] if is_known else None

        return Answer(
            status=response.status,
            handler=value("handler"),
            file=value("file"),
            mount=_without(path, value("pathinfo")),
            alias=directive("alias"),
            process_group=directive(_PLACED[0]),
            application_group=directive(_PLACED[1]),
            dispatch=directive(_PLACED[2]),
        )

    # --- start -------------------------------------------------------------------------------------------------------

    def _started(self, configuration: Dump) -> subprocess.Popen[bytes]:
        file = self._folder / "httpd.conf"
        log = self._log()
        file.write_text("\n".join(self._lines(configuration)) + "\n", encoding="utf-8", errors="surrogateescape")
        command = [binary(configuration.program), "-f", str(file), "-E", str(log), "-D", "FOREGROUND"]
        process = subprocess.Popen(  # noqa: S603 - the administrator's own httpd
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=partial(end_with_parent, os.getpid()),
        )  # fmt: skip
        deadline = time.monotonic() + _START_TIMEOUT
        try:
            # httpd writes the PidFile when it listens. A connection would prove only that some program does.
            while process.poll() is None and time.monotonic() < deadline:
                if (self._folder / "httpd.pid").exists():
                    return process
                time.sleep(0.005)
        except BaseException:
            _end(process)
            raise
        _end(process)
        said = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else "no message"
        raise HttpdConfigError(f"a private {command[0]} did not start: {said}")

    def _log(self) -> Path:
        return self._folder / "error_log"

    def _lines(self, configuration: Dump) -> Iterator[str]:
        if configuration.server_root:
            yield f'ServerRoot "{configuration.server_root}"'
        yield from _modules(configuration)
        yield from (f"Listen {host}:{port}" for host, port in self._addresses.values())
        yield f'DefaultRuntimeDir "{self._folder}"'
        yield f'PidFile "{self._folder}/httpd.pid"'
        yield f'ErrorLog "{self._log()}"'
        yield "StartServers 1"
        yield "WSGIRestrictEmbedded On"
        if os.geteuid() == 0:
            yield f"User {configuration.user}"
            yield f"Group {configuration.group}" if configuration.group else ""
        for name, expression in _ASKED.items():
            yield f'Header always set {self._header(name)} "expr={expression}"'
        yield from self._denial()
        around: tuple[Section, ...] = ()
        for number, directive in enumerate(configuration.directives):
            sections = directive.sections
            if any(section.kind not in _SECTIONS for section in sections):
                continue
            line = self._line(directive, number, configuration)
            if line is None:
                continue
            yield from self._between(around, sections)
            around = sections
            yield line
        yield from self._between(around, ())

    def _between(self, before: Sequence[Section], after: Sequence[Section]) -> Iterator[str]:
        """Yield the lines that end some sections and begin others."""
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        for section in reversed(before[same:]):
            yield f"</{section.name}>"
        for section in after[same:]:
            if section.kind == "virtualhost":
                host, port = self._addresses[section.number]
                yield f"<VirtualHost {host}:{port}>"
                yield from self._denial()
            else:
                yield f"<{section.name} {section.text}>".replace(" >", ">")

    def _denial(self) -> list[str]:
        # httpd merges <If> last, so this replaces all other conditions.
        return [f"<If \"%{{HTTP:{_KEY_HEADER}}} != '{self._key}'\">", "Require all denied", "</If>"]

    def _line(self, directive: Directive, number: int, configuration: Dump) -> str | None:
        """Return the line for a directive; None for one that does not map requests to scripts."""
        name = directive.kind
        if name in _PLACED:
            return f"Header always set {self._header(name)} {number}"
        if name in _ALIASES:
            # mod_wsgi notes the application group of the alias that matches.
            mount, file = (_quoted(word) for word in directive.arguments[:2])
            return f"{directive.name} {mount} {file} application-group=%{{{number}}}"
        return _copied(directive, configuration)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_START_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def binary(program: str) -> str:
    """Return httpd itself, for the script apache2ctl or apachectl, which sets variables and runs it."""
    path = Path(program)
    with path.open("rb") as file:
        if file.read(4) == b"\x7fELF":
            return program
    for name in ("apache2", "httpd"):
        found = path.with_name(name)
        if found.is_file():
            return str(found)
    raise HttpdConfigError(f"{program} is a script, and there is no httpd beside it; name httpd's program with --httpd")


def _addresses(servers: Sequence[int]) -> dict[int, tuple[str, int]]:
    if len(servers) > MAX_SERVERS:
        raise HttpdConfigError(f"there are more than {MAX_SERVERS} virtual hosts")
    hosts = [f"127.77.{place // 250}.{place % 250 + 1}" for place in range(len(servers))]
    for _ in range(_PORT_ATTEMPTS):
        port = _free_port(hosts)
        if port is not None:
            return {server: (host, port) for server, host in zip(servers, hosts, strict=True)}
    raise HttpdConfigError("no port of 127.77.0.0/16 is free for a private httpd")


def _free_port(hosts: Sequence[str]) -> int | None:
    """Return a port that is free at all addresses; None if the first one tried is not."""
    port = 0
    with ExitStack() as probes:
        for host in hosts:
            probe = probes.enter_context(socket.socket())
            try:
                probe.bind((host, port))
            except OSError:
                return None
            port = probe.getsockname()[1]
    return port


def _modules(configuration: Dump) -> Iterator[str]:
    mpm = next(name for name in configuration.modules if name.startswith("mpm_"))
    for name in (mpm, *_OWN_MODULES, *_OTHER_MODULES, *_DIRECTIVES):
        file = configuration.modules.get(name)
        if name in _OWN_MODULES and name not in configuration.modules:
            file = module_file(configuration.program, name)
        if file is not None:
            yield f'LoadModule {name}_module "{file}"'


def _copied(directive: Directive, configuration: Dump) -> str | None:
    name = directive.kind
    if not any(name in names for names in _DIRECTIVES.values()):
        return None
    if name == "rewritemap" and not directive.arguments[1].startswith(_SAFE_MAPS):
        return None
    if name in _BY_TYPE and directive.text.lower().startswith("application/x-httpd-wsgi"):
        # A type that acts as a handler; only a handler shows in the answer.
        return f"{_BY_TYPE[name]} {directive.text}"
    if name == "allowoverride" and directive.text.lower() != "none":
        # .htaccess files may use modules that are not loaded here.
        return f"{directive.name} {directive.text} Nonfatal=All"
    if name == "rewritecond" and _has_tls(directive, configuration):
        return f"{directive.name} {directive.text.replace('%{HTTPS}', 'on')}"
    return f"{directive.name} {directive.text}"


def _has_tls(directive: Directive, configuration: Dump) -> bool:
    host = directive.sections[:1]
    return bool(host) and any(
        each.sections[:1] == host and each.arguments[0].lower() == "on" for each in configuration.named("SSLEngine")
    )


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without(path: str, path_info: str) -> str:
    """Return a request's path without its path info, which may also have a part of the alias' target."""
    while path_info and not path.endswith(path_info):
        _, _, path_info = path_info[1:].partition("/")
        path_info = path_info and f"/{path_info}"
    return path.removesuffix(path_info) if path_info else path
