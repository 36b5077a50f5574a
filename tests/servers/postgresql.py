"""A PostgreSQL server for the tests, in a temporary folder and on a free loopback port."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
from pathlib import Path

import psycopg

from wsgipool.demo.mariadb import ADMIN, ServerProcess, run_installer


class PostgreSQL(ServerProcess):
    """The newest PostgreSQL that the system has installed; the settings are those of postgresql.conf."""

    kind = "PostgreSQL"
    accounts = ("postgres", "nobody")
    not_ready = psycopg.OperationalError
    stop_signal = signal.SIGINT  # "fast"; SIGTERM would wait until all sessions have ended
    kill_signal = signal.SIGQUIT  # "immediate"; SIGKILL would leave child processes behind

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        """Return a new connection as administrator, in autocommit mode."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=ADMIN,
            password=self.password,
            dbname=database,
            autocommit=True,
            application_name=ADMIN,
        )

    def create_database(self, name: str) -> str:
        """Create a database and a user of the same name that may use this database only; return its URL."""
        with self.admin() as connection:
            # These statements take no parameters. The name is a word and the password is hexadecimal.
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.password}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
            connection.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        return f"postgresql://{name}:{self.password}@{self.host}:{self.port}/{name}"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            **self.settings,
        }
        return self._as_account(
            "postgres", "-D", str(self.folder / "data"), *(f"--{name}={value}" for name, value in settings.items())
        )

    def install(self) -> None:
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        self.own(self.folder, password)
        run_installer(
            *self._as_account(
                "initdb",
                f"--pgdata={self.folder / 'data'}",
                f"--username={ADMIN}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            )
        )

    def ping(self) -> None:
        self.admin().close()

    def _as_account(self, program: str, *arguments: str) -> list[str]:
        """Return a command that runs in the server's folder, as its account, without the caller's PG* variables."""
        command = ["env", f"--chdir={self.folder}", *(f"-u{name}" for name in os.environ if name.startswith("PG"))]
        if self.account:
            account = pwd.getpwnam(self.account)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            command = ["setpriv", *ids, "--clear-groups", *command]
        return [*command, _program(program) or program, *arguments]


def _program(name: str) -> str | None:
    # Debian has a folder for each major version, none of them on any user's PATH.
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if re.fullmatch("[0-9]+", path.parent.name)]
    newest_first = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join(map(str, newest_first))) or shutil.which(name)
