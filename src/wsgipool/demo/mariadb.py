"""A MariaDB server of one's own, in a folder, on a loopback port: for the demo and the tests.

It reads no configuration of the system and leaves nothing outside its folder. LocalServer is what MariaDB and MySQL
have in common: the tests run both.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import pymysql
from pymysql.connections import Connection

from wsgipool.errors import Error
from wsgipool.httpd.express import free_port

ADMIN = "wsgipool_admin"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0


class ServerError(Error):
    """The server could not be started."""


def is_installed() -> bool:
    """Tell whether the server's programs are there."""
    return _program("mariadbd") is not None and _program("mariadb-install-db") is not None


class Server:
    """A MariaDB or MySQL server somewhere, which knows the administrator wsgipool_admin by the password."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self.host = host
        self.port = port
        self.password = password

    def admin(self, database: str | None = None) -> Connection:
        """Return a new connection as an administrator, in autocommit mode."""
        return self.connect(ADMIN, self.password, database)

    def connect(self, user: str, password: str, database: str | None = None) -> Connection:
        """Return a new connection in autocommit mode, without TLS."""
        return Connection(
            host=self.host,
            port=self.port,
            user=user,
            password=password,
            database=database,
            autocommit=True,
            ssl_disabled=True,
        )

    def create_database(self, name: str) -> str:
        """Create a database and a user of the same name who may use that one only; return their URL."""
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"CREATE USER {name} IDENTIFIED BY %s", (self.password,))
            cursor.execute(f"GRANT ALL ON {name}.* TO {name}")
        return f"mysql://{name}:{self.password}@{self.host}:{self.port}/{name}"


class LocalServer(Server, ABC):
    """A server with its data in `folder`; a context manager that stops it.

    `settings` are options of the server's program, such as {"max_connections": 50}.
    """

    kind: ClassVar[str]

    def __init__(self, folder: Path, settings: Mapping[str, str | int] | None = None) -> None:
        super().__init__("127.0.0.1", free_port(), secrets.token_hex(16))
        self.folder = folder
        self.account = _account()
        self._settings = dict(settings or {})
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command of the server's program, with the options of its kind that find or make the data."""

    @abstractmethod
    def install(self) -> None:
        """Make the data of a new server in folder/data."""

    def start(self) -> None:
        """Start the server and return when it answers; a second start finds the data of the first."""
        if not (self.folder / "data").exists():
            self._write_init_file()
            self.install()
        self._process = subprocess.Popen(  # noqa: S603
            [
                *self.command(),
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--socket={self.folder / 'server.sock'}",
                f"--pid-file={self.folder / 'server.pid'}",
                f"--log-error={self._log}",
                f"--init-file={self.folder / 'init.sql'}",
                "--innodb-buffer-pool-size=64M",
                "--character-set-server=utf8mb4",
                *(f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A Ctrl-C in the terminal reaches only us, and we stop it in order: httpd first.
            start_new_session=True,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Shut the server down and wait until it is gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server at once, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def common_options(self) -> list[str]:
        """Return the options that the server needs for its installation and for each start."""
        options = [
            f"--datadir={self.folder / 'data'}",
            # Without one of its own it would take $TMPDIR, where its account may not write.
            f"--tmpdir={self.folder}",
            # The data need not survive a crash of the machine, and most of a start was waiting for the disk.
            "--innodb-flush-log-at-trx-commit=2",
        ]
        return [*options, f"--user={self.account}"] if self.account else options

    def _write_init_file(self) -> None:
        init = self.folder / "init.sql"
        init.write_text(
            f"CREATE USER IF NOT EXISTS '{ADMIN}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
        )
        init.chmod(0o600)
        if self.account:
            for path in (self.folder, init):
                shutil.chown(path, self.account)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.admin().close()
            except pymysql.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else "it left no log"
                    raise ServerError(f"{self.kind} did not start:\n{log}") from None
                time.sleep(0.05)
            else:
                return


class MariaDB(LocalServer):
    """A MariaDB, of the system's programs."""

    kind = "MariaDB"

    def command(self) -> list[str]:
        return [_program("mariadbd") or "mariadbd", "--no-defaults", *self._options()]

    def install(self) -> None:
        run_installer(
            _program("mariadb-install-db") or "mariadb-install-db",
            "--no-defaults",
            *self._options(),
            "--auth-root-authentication-method=socket",
            "--skip-test-db",
        )

    def _options(self) -> list[str]:
        return [
            *self.common_options(),
            "--loose-debug-no-sync",
            "--innodb-log-file-size=16M",  # of a hundred otherwise, which are written at the start
        ]


def run_installer(*command: str) -> None:
    """Run a program that makes a server's data."""
    outcome = subprocess.run(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        check=False,
    )
    if outcome.returncode != 0:
        raise ServerError(f"{Path(command[0]).name} failed:\n{outcome.stdout}")


def _account() -> str | None:
    """Return the account to run as: these servers refuse to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("mysql", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerError("no account mysql or nobody to run the database server as")


def _program(name: str) -> str | None:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
