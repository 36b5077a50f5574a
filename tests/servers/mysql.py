"""A MySQL server for the tests, in a temporary folder and on a free loopback port; scripts/setup fetches MySQL."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from wsgipool.demo.mariadb import DatabaseServerFailed, LocalServer

_FETCHED = Path(sys.prefix) / "mysql"
"""The folder in the virtual environment into which scripts/setup installs MySQL."""


class MySQL(LocalServer):
    """A MySQL server. Its accounts log in by caching_sha2_password, the only method that needs no plugin."""

    kind = "MySQL"

    def program(self) -> list[str]:
        return [
            str(_FETCHED / "mysqld"),
            *self.common_options(),
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--disable-log-bin",
            "--tls-version=",  # none, unless the settings name one
            "--innodb-redo-log-capacity=8M",
            # The data need not survive a crash of the machine.
            "--innodb-doublewrite=OFF",
            "--innodb-flush-method=nosync",
            # These reduce the memory from 480 MB to 300 MB.
            "--table-open-cache=256",
            "--table-definition-cache=400",
            "--innodb-log-buffer-size=1M",
            "--performance-schema-digests-size=0",
            "--performance-schema-max-table-instances=200",
        ]

    def create_database(self, name: str) -> str:
        url = super().create_database(name)
        # An account's first login needs TLS or cryptography, which sub-interpreters cannot import. Later ones do not.
        with self.connect(name, self.password):
            pass
        return url

    def __exit__(self, *_: object) -> None:
        # The data is deleted, and an orderly shutdown takes seconds.
        self.kill()

    def create_data(self) -> None:
        if not _FETCHED.exists():
            raise DatabaseServerFailed(f"there is no MySQL in {_FETCHED}: `scripts/setup test` fetches it")
        data = Path(shutil.copytree(_FETCHED / "data", self.folder / "data"))
        self.own(data, *data.rglob("*"))
