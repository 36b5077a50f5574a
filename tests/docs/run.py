"""Run the blocks of one page: python -m docs.run PAGE SCRATCH-FOLDER PORT-OF-MARIADB. In a process of its own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import pymysql
from sybil import Example
from sybil.evaluators.python import PythonEvaluator

from docs.blocks import ROOT, Block, parse
from wsgipool import config, drivers
from wsgipool.httpd.express import DROP_IN, PACKAGE

_PATIENCE = 120
_MPMS = ("prefork", "worker", "event")
_MODULES = (
    *("access_compat", "alias", "auth_basic", "auth_digest", "authn_core", "authn_file"),
    *("authz_core", "authz_host", "authz_user"),
    *("autoindex", "deflate", "dir", "env", "expires", "filter", "headers", "mime", "negotiation", "proxy"),
    *("proxy_http", "remoteip", "reqtimeout", "rewrite", "setenvif", "slotmem_shm", "socache_shmcb", "status", "unixd"),
)


class Page:
    """A page that is being run."""

    def __init__(self, path: Path, scratch: Path, port: int) -> None:
        self.path = path
        self.scratch = scratch
        self.port = port
        self._python = PythonEvaluator()
        self._background: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(scratch),
            "APACHE_LOG_DIR": str(scratch),
            "APACHE_RUN_DIR": str(scratch),
        }

    def run(self) -> None:
        """Run all blocks in order. The first that fails ends it."""
        try:
            for example in parse(self.path):
                try:
                    self._run(example)
                except BaseException as error:
                    error.add_note(f"in the block at {self.path}, line {example.line}")
                    raise
        finally:
            for process in self._background:
                process.terminate()
            for process in self._background:
                process.wait(_PATIENCE)

    def _run(self, example: Example) -> None:
        block: Block = example.parsed
        if "file" in block.notes and not block.notes["file"].startswith("/"):
            file = self.scratch / block.notes["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.source)
        match block.language:
            case "python":
                example.parsed = block.source
                self._python(example)
            case "sh":
                self._sh(block)
            case "toml":
                self._toml(block.source)
            case "apache":
                self._apache(block.source)
            case "sql":
                self._sql(block.source)
            case "haproxy":
                configuration = self.scratch / "haproxy.cfg"
                configuration.write_text(block.source)
                self._command("haproxy", "-c", "-f", str(configuration))
            case "text":
                pass
            case unknown:
                raise AssertionError(f"no such language: {unknown!r}")

    def _sh(self, block: Block) -> None:
        if block.notes.keys() & {"debian", "docker", "redhat", "systemd"}:
            self._command("bash", "-n", "-c", block.source)
        elif url := block.notes.get("background"):
            with (self.scratch / "background.log").open("ab") as log:
                command = ["bash", "-euc", f"exec {block.source}"]
                process = subprocess.Popen(command, cwd=self.scratch, env=self.environment, stdout=log, stderr=log)
            self._background.append(process)
            self._wait_for(url, process)
        else:
            self._command("bash", "-eu", "-o", "pipefail", "-c", block.source)

    def _wait_for(self, url: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                urllib.request.urlopen(url, timeout=_PATIENCE).close()  # noqa: S310
            except urllib.error.HTTPError:
                return
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.scratch / "background.log").read_text()
                    raise AssertionError(f"{url}: {error}\n{log}") from None
                time.sleep(0.1)
            else:
                return

    def _command(self, *command: str) -> None:
        outcome = subprocess.run(
            command,
            cwd=self.scratch,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert outcome.returncode == 0, f"exit status {outcome.returncode}:\n{outcome.stdout}"

    def _toml(self, source: str) -> None:
        if "[databases" not in source:
            source += '\n[databases.orders]\nurl = "mysql://shop@db.example.com/orders"\n'
        source = re.sub(r'(?<=password_file = )"[^"]*"', json.dumps(str(self._stand_in("password", "secret"))), source)
        source = re.sub(r"(?<=ssl_ca=)[^&\"]+", str(self._certificate), source)
        path = self.scratch / "block.toml"
        path.write_text(source)
        for database in config.load(path, defaultdict(lambda: "secret", os.environ)).databases.values():
            drivers.for_database(database)

    def _apache(self, source: str) -> None:
        source, included = re.subn(r'(?m)^(\s*Include\s+)"?\S*wsgipool\.conf"?', rf'\1"{DROP_IN}"', source)
        drop_in = "" if included else f'Include "{DROP_IN}"\n'
        text = f"{source}\n{drop_in}" if "Define WSGIPOOL_" in source else f"{drop_in}{source}\n"
        for mpm in _MPMS:
            modules = [f"mpm_{mpm}", *_MODULES]
            lines = [f"LoadModule {name}_module {_shared(name)}" for name in modules if _shared(name).exists()]
            path = self.scratch / f"block-{mpm}.conf"
            path.write_text(
                "\n".join(lines)
                + f'\nLoadModule wsgi_module "{_mod_wsgi()}"\nServerName localhost\nListen 127.0.0.1:8080\n'
                f'Define WSGIPOOL_HOME "{PACKAGE}"\nErrorLog {self.scratch}/error_log\n{text}'
            )
            self._command(_httpd(), "-t", "-d", str(self.scratch), "-f", str(path))

    def _sql(self, source: str) -> None:
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="shop", password="secret", database="orders", autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            for statement in filter(None, (each.strip() for each in source.split(";\n"))):
                cursor.execute(statement.removesuffix(";"))

    def _stand_in(self, name: str, content: str) -> Path:
        path = self.scratch / "stand-ins" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    @functools.cached_property
    def _certificate(self) -> Path:
        path = self._stand_in("ca.pem", "")
        self._command(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=example", "-days", "2"),
            *("-keyout", str(path.with_suffix(".key")), "-out", str(path)),
        )
        return path


def _httpd() -> str:
    program = shutil.which("apache2", path="/usr/sbin") or shutil.which("httpd", path="/usr/sbin")
    assert program, "there is no httpd"
    return program


def _modules() -> Path:
    return next(path for path in map(Path, ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules")) if path.is_dir())


def _shared(name: str) -> Path:
    """Return the file of a module, which is not there if the module is a part of httpd itself."""
    return _modules() / f"mod_{name}.so"


def _mod_wsgi() -> Path:
    spec = importlib.util.find_spec("mod_wsgi.server")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("mod_wsgi*.so"))


def _know_hosts(port: int) -> None:
    """Have `db` and all hosts below example.com be the MariaDB of the tests."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, service: Any, *arguments: Any, **keywords: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and (name == "db" or name.endswith(".example.com")):
            return real("127.0.0.1", port, *arguments, **keywords)
        return real(host, service, *arguments, **keywords)

    mock.patch.object(socket, "getaddrinfo", getaddrinfo).start()


def main(page: str, scratch: str, port: str) -> None:
    _know_hosts(int(port))
    os.chdir(scratch)
    Page(ROOT / page, Path(scratch), int(port)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
