"""A MariaDB server of one's own, in a folder, on a loopback port: for the demo and the tests.

It reads no configuration of the system and leaves nothing outside its folder.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pymysql
from pymysql.connections import Connection

from wsgipool.errors import Error
from wsgipool.httpd.express import free_port

ADMIN = "wsgipool_admin"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0


class MariaDBError(Error):
    """The server could not be started."""


def is_installed() -> bool:
    """Tell whether the server's programs are there."""
    return _program("mariadbd") is not None and _program("mariadb-install-db") is not None


class Server:
    """A MariaDB server somewhere, which knows the administrator wsgipool_admin by the password."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self.host = host
        self.port = port
        self.password = password

    def admin(self, database: str | None = None) -> Connection:
        """Return a new connection as an administrator, in autocommit mode."""
        return Connection(
            host=self.host,
            port=self.port,
            user=ADMIN,
            password=self.password,
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


class MariaDB(Server):
    """A server with its data in `folder`; a context manager that stops it.

    `settings` are options of mariadbd, such as {"max_connections": 50}.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str | int] | None = None) -> None:
        super().__init__("127.0.0.1", free_port(), secrets.token_hex(16))
        self._folder = folder
        self._settings = dict(settings or {})
        self._log = folder / "mariadb.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it answers; a second start finds the data of the first."""
        account = self._account()
        if not (self._folder / "data").exists():
            self._install(account)
        self._process = subprocess.Popen(  # noqa: S603
            [
                _program("mariadbd") or "mariadbd",
                "--no-defaults",
                *self._common_options(account),
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--socket={self._folder / 'mariadb.sock'}",
                f"--pid-file={self._folder / 'mariadb.pid'}",
                f"--log-error={self._log}",
                f"--init-file={self._folder / 'init.sql'}",
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
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> MariaDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _account(self) -> str | None:
        """Return the account to run as: MariaDB refuses to run as root."""
        if os.geteuid() != 0:
            return None
        for name in ("mysql", "nobody"):
            try:
                return pwd.getpwnam(name).pw_name
            except KeyError:
                continue
        raise MariaDBError("no account mysql or nobody to run MariaDB as")

    def _common_options(self, account: str | None) -> list[str]:
        options = [
            f"--datadir={self._folder / 'data'}",
            # Without one of its own it would take $TMPDIR, where its account may not write.
            f"--tmpdir={self._folder}",
            # Nobody needs the data after a crash of the machine, and most of a start was waiting for the disk.
            "--loose-debug-no-sync",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-log-file-size=16M",  # of a hundred otherwise, which are written at the start
        ]
        return [*options, f"--user={account}"] if account else options

    def _install(self, account: str | None) -> None:
        init = self._folder / "init.sql"
        init.write_text(
            f"CREATE USER IF NOT EXISTS '{ADMIN}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
        )
        init.chmod(0o600)
        if account:
            for path in (self._folder, init):
                shutil.chown(path, account)
        outcome = subprocess.run(  # noqa: S603
            [
                _program("mariadb-install-db") or "mariadb-install-db",
                "--no-defaults",
                *self._common_options(account),
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            check=False,
        )
        if outcome.returncode != 0:
            raise MariaDBError(f"mariadb-install-db failed:\n{outcome.stdout}")

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
                    raise MariaDBError(f"MariaDB did not start:\n{log}") from None
                time.sleep(0.05)
            else:
                return


def _program(name: str) -> str | None:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
