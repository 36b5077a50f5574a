"""A PostgreSQL server of one's own, in a folder, on a loopback port: for the tests.

It reads no configuration of the system and leaves nothing outside its folder.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from wsgipool.errors import Error
from wsgipool.httpd.express import free_port

ADMIN = "wsgipool_admin"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0


class PostgreSQLError(Error):
    """The server could not be started."""


def is_installed() -> bool:
    """Tell whether the server's programs are there."""
    return _program("postgres") is not None and _program("initdb") is not None


class PostgreSQL:
    """A server with its data in `folder`; a context manager that stops it.

    `settings` are those of postgresql.conf, such as {"max_connections": 50}. What it logs is in `log`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str | int] | None = None) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.folder = folder
        self.log = folder / "postgresql.log"
        self._settings = dict(settings or {})
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        """Return a new connection as an administrator, in autocommit mode."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ADMIN,
            password=self.password,
            dbname=database,
            autocommit=True,
            application_name=ADMIN,
        )

    def create_database(self, name: str) -> str:
        """Create a database and a user of the same name who may use that one only; return their URL."""
        with self.admin() as connection:
            # PostgreSQL takes no parameters here; the name is a word and the password hexadecimal.
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.password}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
            connection.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        return f"postgresql://{name}:{self.password}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start the server and return when it answers; a second start finds the data of the first."""
        if not (self.folder / "data").exists():
            self._install()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            **self._settings,
        }
        with self.log.open("ab") as log:
            self._process = self._popen(
                "postgres",
                "-D",
                str(self.folder / "data"),
                *(f"--{name}={value}" for name, value in settings.items()),
                output=log.fileno(),
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Shut the server down, ending all sessions, and wait until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)  # "fast"; SIGTERM would wait for every session to end by itself
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)  # "immediate", and it takes its children along
            self._process.wait()
        self._process = None

    def __enter__(self) -> PostgreSQL:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _install(self) -> None:
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if self._account:
            for path in (self.folder, password):
                shutil.chown(path, self._account.pw_uid, self._account.pw_gid)
        installer = self._popen(
            "initdb",
            f"--pgdata={self.folder / 'data'}",
            f"--username={ADMIN}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            output=subprocess.PIPE,
        )
        output, _ = installer.communicate()
        if installer.returncode != 0:
            raise PostgreSQLError(f"initdb failed:\n{output.decode(errors='replace')}")

    def _popen(self, program: str, *arguments: str, output: int) -> subprocess.Popen[bytes]:
        account = self._account
        return subprocess.Popen(  # noqa: S603
            [_program(program) or program, *arguments],
            cwd=self.folder,
            # The administrator's own PGDATA, PGPORT and the like are not for this server.
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal reaches only us, and we stop it in order: httpd first.
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.admin().close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise PostgreSQLError(
                        f"PostgreSQL did not start:\n{self.log.read_text(errors='replace')[-2000:]}"
                    ) from None
                time.sleep(0.05)
            else:
                return


def _account() -> pwd.struct_passwd | None:
    """Return the account to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgreSQLError("no account postgres or nobody to run PostgreSQL as")


def _program(name: str) -> str | None:
    # Debian has a folder for each major version, none of them on anybody's PATH.
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if re.fullmatch("[0-9]+", path.parent.name)]
    newest_first = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join(map(str, newest_first))) or shutil.which(name)
