"""A MySQL server of a test's own, in a folder, on a loopback port: what scripts/fetch-mysql has made runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from wsgipool.demo.mariadb import LocalServer, ServerError

_FETCHED = Path(sys.prefix) / "mysql"
"""Where scripts/setup puts the server: in the environment that runs the tests."""


class MySQL(LocalServer):
    """A MySQL. Its accounts log in by caching_sha2_password, the only way that it knows without a plugin."""

    kind = "MySQL"

    def command(self) -> list[str]:
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
            # 300 MB of memory, not 480.
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
        # Its data is thrown away, and an orderly end takes seconds.
        self.kill()

    def install(self) -> None:
        if not _FETCHED.exists():
            raise ServerError(f"there is no MySQL in {_FETCHED}: `scripts/setup test` fetches it")
        data = Path(shutil.copytree(_FETCHED / "data", self.folder / "data"))
        if self.account:
            for path in (data, *data.rglob("*")):
                shutil.chown(path, self.account)
