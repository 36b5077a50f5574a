"""A MariaDB server for the demo, in a temporary folder and on a free loopback port.

The server ignores the system's configuration and writes to its own folder only. The tests run MySQL and PostgreSQL
the same way: the base classes `ServerProcess` and `LocalServer` are public for them.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import pymysql
from pymysql.connections import Connection

from wsgipool.errors import Error
from wsgipool.httpd.express import free_port

ADMIN = "wsgipool_admin"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0


class DatabaseServerFailed(Error):
    """The database server could not be started."""


def is_installed() -> bool:
    """Return whether MariaDB's programs are installed."""
    return _program("mariadbd") is not None and _program("mariadb-install-db") is not None


class ServerProcess(ABC):
    """A database server with its data in `folder`; a context manager that stops it.

    `settings` are options of the server's program, such as {"max_connections": 50}.
    """

    kind: ClassVar[str]
    accounts: ClassVar[Sequence[str]]
    """The accounts to run as when started by root, in order of preference; the servers refuse to run as root."""
    not_ready: ClassVar[type[Exception]]
    """The error of `ping` while the server starts."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    kill_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, folder: Path, settings: Mapping[str, str | int] | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.folder = folder
        self.log = folder / "server.log"
        self.settings = dict(settings or {})
        self.account = self._account() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def install(self) -> None:
        """Create the data of a new server in folder/data."""

    @abstractmethod
    def ping(self) -> None:
        """Connect to the server and disconnect. Raises `not_ready` while it starts."""

    def start(self) -> None:
        """Start the server and wait until it answers; a second start finds the data of the first."""
        if not (self.folder / "data").exists():
            self.install()
        with open(self.log, "ab", opener=_open_log) as log:
            self._process = subprocess.Popen(  # noqa: S603
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal must not reach the server: httpd is stopped first.
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Shut the server down and wait until it has ended."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server without an orderly shutdown."""
        if self._process is not None:
            self._process.send_signal(self.kill_signal)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def own(self, *paths: Path) -> None:
        """Give files to the account of the server."""
        if self.account:
            for path in paths:
                shutil.chown(path, self.account)

    def _account(self) -> str:
        for name in self.accounts:
            try:
                return pwd.getpwnam(name).pw_name
            except KeyError:
                continue
        raise DatabaseServerFailed(
            f"{self.kind} refuses to run as root: create the account {' or '.join(self.accounts)}"
        )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.ping()
            except self.not_ready:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    with open(self.log, errors="replace", opener=_open_log) as log:
                        raise DatabaseServerFailed(f"{self.kind} did not start:\n{log.read()[-2000:]}") from None
                time.sleep(0.05)
            else:
                return


class Server:
    """A MariaDB or MySQL server, local or not, with the administrator's password."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self.host = host
        self.port = port
        self.password = password

    def admin(self, database: str | None = None) -> Connection:
        """Return a new connection as administrator, in autocommit mode."""
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
        """Create a database and a user of the same name that may use this database only; return its URL."""
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"CREATE USER {name} IDENTIFIED BY %s", (self.password,))
            cursor.execute(f"GRANT ALL ON {name}.* TO {name}")
        return f"mysql://{name}:{self.password}@{self.host}:{self.port}/{name}"


class LocalServer(ServerProcess, Server):
    """A MariaDB or MySQL server that this process runs."""

    accounts = ("mysql", "nobody")
    not_ready = pymysql.OperationalError

    @abstractmethod
    def program(self) -> list[str]:
        """Return the server's program and the options that only this kind has."""

    @abstractmethod
    def create_data(self) -> None:
        """Create the data of a new server in folder/data."""

    def command(self) -> list[str]:
        return [
            *self.program(),
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--socket={self.folder / 'server.sock'}",
            f"--pid-file={self.folder / 'server.pid'}",
            f"--init-file={self.folder / 'init.sql'}",
            "--innodb-buffer-pool-size=64M",
            "--character-set-server=utf8mb4",
            *(f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items()),
        ]

    def install(self) -> None:
        init = self.folder / "init.sql"
        init.write_text(
            f"CREATE USER IF NOT EXISTS '{ADMIN}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
        )
        init.chmod(0o600)
        self.own(self.folder, init)
        self.create_data()

    def ping(self) -> None:
        self.admin().close()

    def common_options(self) -> list[str]:
        """Return the options that the server needs for its installation and for each start."""
        options = [
            f"--datadir={self.folder / 'data'}",
            # The default is $TMPDIR, where the server's account may not write.
            f"--tmpdir={self.folder}",
            # The data need not survive a crash of the machine; waiting for the disk took most of a start.
            "--innodb-flush-log-at-trx-commit=2",
        ]
        return [*options, f"--user={self.account}"] if self.account else options


class MariaDB(LocalServer):
    """The MariaDB that the system has installed."""

    kind = "MariaDB"

    def program(self) -> list[str]:
        return [_program("mariadbd") or "mariadbd", "--no-defaults", *self._options()]

    def create_data(self) -> None:
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
            "--innodb-log-file-size=16M",  # the default is 96M, which is written at the first start
        ]


def run_installer(*command: str) -> None:
    """Run a program that creates a server's data. Raises DatabaseServerFailed with its output if it fails."""
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
        raise DatabaseServerFailed(f"{Path(command[0]).name} failed:\n{outcome.stdout}")


def _open_log(path: str, flags: int) -> int:
    # The folder belongs to the server's account, so root must not follow a link there.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _program(name: str) -> str | None:
    # Debian installs servers in /usr/sbin, which is not on every user's PATH.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
