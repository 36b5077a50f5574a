"""Places where the sites and databases of a test run.

On a plain machine they are processes. In the container `tests` of docker/compose.yaml they are other containers, and
Debian 12 with its own mod_wsgi is an additional mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Unpack

from pymysql.connections import Connection

from httpd.harness import RunningSite, Settings, SiteOptions, running_site
from wsgipool.demo.mariadb import LocalServer, MariaDB
from wsgipool.httpd import express

IN_CONTAINERS = os.environ.get("WSGIPOOL_TESTS_IN") == "containers"

MODES = (*express.MODES, "bookworm") if IN_CONTAINERS else express.MODES
THREADED = tuple(mode for mode in MODES if mode != "prefork")


class OwnServer(Protocol):
    """A MariaDB or MySQL for one test, which may stop and start it."""

    host: str
    password: str

    def admin(self, database: str | None = None) -> Connection: ...
    def create_database(self, name: str) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Place(Protocol):
    def running_site(
        self, mode: str, databases: dict[str, str], **options: Unpack[SiteOptions]
    ) -> AbstractContextManager[RunningSite]:
        """Start httpd with the databases (URLs by name), and stop it afterwards."""

    def running_mariadb(
        self, settings: Settings, kind: type[LocalServer] = MariaDB
    ) -> AbstractContextManager[OwnServer]:
        """Start a MariaDB, or another kind on a plain machine, with these options, and stop it afterwards."""


class ThisMachine:
    """A Place: processes of this machine, whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def running_site(
        self, mode: str, databases: dict[str, str], **options: Unpack[SiteOptions]
    ) -> AbstractContextManager[RunningSite]:
        return running_site(self.folder, mode, databases, **options)

    @contextmanager
    def running_mariadb(self, settings: Settings, kind: type[LocalServer] = MariaDB) -> Iterator[LocalServer]:
        data = self.folder / "mariadb"
        data.mkdir()
        with kind(data, settings) as server:
            server.start()
            yield server
