"""Run a configuration on Debian's httpd, and see which interpreters run Python.

A configuration uses the variables of `Site.variables`. All its scripts have the same text: each records the interpreter
that imports it, and answers with its own path.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from httpd.harness import eventually
from unit.certificates import Authority
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.express import apache_user, free_port

HTTPD = "/usr/sbin/apache2"
MODULES = Path("/usr/lib/apache2/modules")
LOADED = (
    "mpm_event", "access_compat", "alias", "auth_basic", "authn_core", "authn_file", "authz_core", "authz_host",
    "authz_user", "autoindex", "dir", "env", "expires", "headers", "macro", "mime", "negotiation", "rewrite",
    "setenvif", "socache_shmcb", "ssl", "userdir", "vhost_alias", "wsgi",
)  # fmt: skip
"""Modules that Debian enables by default, and those that the configurations need."""

MAIN_INTERPRETER = "%{GLOBAL}"

_HEAD = """
{modules}
{defines}
ServerRoot {folder}
ServerName www.example.org
Listen 127.0.0.1:${{PORT}}
Listen 127.0.0.1:${{TLS_PORT}}
Listen 127.0.0.1:${{OTHER_PORT}}
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error_log
TypesConfig /dev/null
User {user}
Group {user}
# One child, so that mod_wsgi says the same number of them at any time.
ServerLimit 1
ThreadsPerChild 4
MaxRequestWorkers 4
WSGISocketPrefix {folder}/wsgi
# mod_wsgi 4.9 takes 3 to 10 seconds to end several interpreters.
WSGIDestroyInterpreter Off
<Directory />
    AllowOverride None
    Require all denied
</Directory>
"""

_SCRIPT = """
import json
import mod_wsgi

with open("{imports}", "a") as imports:
    names = [mod_wsgi.process_group, mod_wsgi.application_group]
    print(json.dumps(names + [mod_wsgi.maximum_processes, mod_wsgi.threads_per_process]), file=imports)

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [__file__.encode()]

handle_request = application

def check_password(environ, user, password):
    return True

def groups_for_user(environ, user):
    return ["staff"]

def allow_access(environ, host):
    return True

def process_group(environ):
    return environ["QUERY_STRING"] or None
"""


@dataclass(frozen=True)
class Group:
    """A process group that runs Python; its name is "" for Apache's own children."""

    processes: int
    threads: int
    interpreters: frozenset[str]
    """Application groups, as httpd names them; MAIN_INTERPRETER for the main one."""


def differences(known: Configuration, ran: Mapping[str, Group], *, decided_by_request: bool) -> list[str]:
    """Return in words where the reading of a configuration and the groups that ran differ.

    Where the request decides, other groups may be known, too, and a note has to say so.
    """
    found = {group.name: f"{group.processes} x {group.threads}" for group in known.groups}
    expected = {name: f"{group.processes} x {group.threads}" for name, group in ran.items()}
    if decided_by_request:
        found = {name: size for name, size in found.items() if name in ran}
        return _unequal(found, expected) + ([] if known.notes else ["there is no note"])
    for group in known.groups:
        found[group.name] += f", interpreters: {group.interpreters}{_odd_names(known, group.name, ran)}"
    return _unequal(found, {name: f"{expected[name]}, interpreters: {len(ran[name].interpreters)}" for name in ran})


def _unequal(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    return [
        f"group {name!r} ran {expected.get(name, 'nowhere')}; the configuration says {found.get(name, 'nothing of it')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def _odd_names(known: Configuration, group: str, ran: Mapping[str, Group]) -> str:
    """Return the application groups of fixed names in which httpd ran nothing."""
    names = {interpreter.application_group for interpreter in known.interpreters if interpreter.group == group}
    fixed = {name for name in names if name == MAIN_INTERPRETER or not name.startswith("%{")}
    odd = fixed - ran[group].interpreters if group in ran else set()
    return f" with {', '.join(sorted(odd))}" if odd else ""


class Site:
    """A configuration with its scripts, and the httpd that runs it."""

    def __init__(self, folder: Path, text: str, scripts: Iterable[str]) -> None:
        self.folder = folder
        self._imports = folder / "imports"
        self._write(text)
        self._imports.touch()
        self._imports.chmod(0o666)
        for name in scripts:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_SCRIPT.replace("{imports}", str(self._imports)))

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """The values of the Defines that the configuration uses."""
        ports = {name: str(free_port()) for name in ("PORT", "TLS_PORT", "OTHER_PORT")}
        return {"FOLDER": str(self.folder), **ports}

    def expand(self, text: str) -> str:
        """Replace each ${NAME}, as httpd does."""
        return re.sub(r"\$\{(\w+)\}", lambda name: self.variables[name[1]], text)

    @property
    def options(self) -> list[str]:
        """httpd's options for this configuration."""
        return ["-f", str(self.folder / "httpd.conf")]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run httpd."""
        log = self.folder / "error_log"
        process = subprocess.Popen([HTTPD, *self.options, "-DFOREGROUND"], start_new_session=True)
        try:
            eventually(
                lambda: process.poll() is not None or (log.exists() and "resuming normal" in log.read_text()), "httpd"
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(30)

    def get(self, url: str) -> str:
        """Return the name of the script that answers a request, or the status of another answer."""
        parts = urlsplit(self.expand(url))
        port = parts.port or int(self.variables["TLS_PORT" if parts.scheme == "https" else "PORT"])
        connection = _Connection(str(parts.hostname), port, tls=parts.scheme == "https")
        headers = {"Host": parts.netloc.rpartition("@")[2]}
        if parts.username:
            headers["Authorization"] = "Basic " + b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        connection.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=headers)
        with connection.getresponse() as answer:
            text = answer.read().decode()
        connection.close()
        if not text.startswith(f"{self.folder}/"):
            return str(answer.status)
        return str(Path(text).relative_to(self.folder))

    def groups(self) -> dict[str, Group]:
        """Return the process groups and interpreters that have imported a script so far."""
        seen: dict[str, dict[str, tuple[int, int]]] = {}
        for line in self._imports.read_text().splitlines():
            group, name, processes, threads = json.loads(line)
            seen.setdefault(group, {})[name or MAIN_INTERPRETER] = (processes, threads)
        return {group: Group(*next(iter(names.values())), frozenset(names)) for group, names in seen.items()}

    def _write(self, text: str) -> None:
        head = _HEAD.format(
            folder=self.folder,
            user=apache_user().pw_name,
            modules="\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in LOADED),
            defines="\n".join(f'Define {name} "{value}"' for name, value in self.variables.items()),
        )
        (self.folder / "httpd.conf").write_text(head + text)
        for document_root in re.findall(r"""DocumentRoot ['"]?\$\{FOLDER\}/([\w/]+)""", text):
            (self.folder / document_root).mkdir(parents=True, exist_ok=True)
        if "SSLEngine" in text:
            Authority(self.folder, "site")


class _Connection(http.client.HTTPConnection):
    """A connection to this host that names another one, as a browser does when DNS leads it here."""

    def __init__(self, host: str, port: int, *, tls: bool) -> None:
        super().__init__(host, port, timeout=30)
        self._tls = tls

    def connect(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        if self._tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
