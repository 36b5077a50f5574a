"""The process of a database server, without a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsgipool.demo.mariadb import DatabaseServerFailed, ServerProcess


class Failing(ServerProcess):
    """A server that writes a message and ends."""

    kind = "Failing"
    accounts = ("nobody",)
    not_ready = ConnectionError

    def command(self) -> list[str]:
        return ["sh", "-c", "echo no memory >&2; exit 1"]

    def install(self) -> None:
        (self.folder / "data").mkdir()

    def ping(self) -> None:
        raise ConnectionError


def test_the_error_of_a_server_that_does_not_start_has_its_log(tmp_path: Path) -> None:
    with pytest.raises(DatabaseServerFailed, match="Failing did not start:\nno memory"):
        Failing(tmp_path).start()


def test_the_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    # The folder belongs to the account of the server, and root opens the log.
    target = tmp_path / "target"
    server = Failing(tmp_path)
    server.log.symlink_to(target)

    with pytest.raises(OSError, match="symbolic links"):
        server.start()

    assert not target.exists()
