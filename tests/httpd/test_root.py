"""Root's `plan` and `doctor` for a site whose settings belong to a developer: they do no more than the site could."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from httpd.test_doctor import SiteUnderExamination
from wsgipool.cli import main
from wsgipool.httpd.express import apache_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")

COMMANDS = ("doctor", "plan")


class DevelopersServer:
    """A developer's server that waits for root's connection: it records its clients and closes the connection."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "server.sock"
        self.visitors: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self.path.chmod(0o777)
        self._socket.listen()
        self._thread = threading.Thread(target=self._listen)

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                _, user, _ = struct.unpack("3i", credentials)
                if user == os.geteuid() and self._is_closing:
                    return
                self.visitors.append(user)

    _is_closing = False

    @contextmanager
    def listening(self) -> Iterator[DevelopersServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._is_closing = True
            with suppress(OSError), socket.socket(socket.AF_UNIX) as last:
                last.connect(str(self.path))
            self._thread.join()
            self._socket.close()


@pytest.fixture
def server(folder: Path) -> Iterator[DevelopersServer]:
    with DevelopersServer(folder).listening() as server:
        yield server


@pytest.fixture
def site(folder: Path, server: DevelopersServer) -> SiteUnderExamination:
    return SiteUnderExamination(folder, "daemon", f"mysql://shop@/shop?unix_socket={server.path}")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("roots-own-s3cret\n")
    path.chmod(0o600)
    return path


def run(command: str, site: SiteUnderExamination, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(
        main,
        [command, "--httpd", "apache2", *arguments, "--", *site.options()],
        env={"WSGIPOOL_CONFIG": None, **environment},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_is_examined_as_the_user_of_the_processes(
    command: str, site: SiteUnderExamination, server: DevelopersServer
) -> None:
    result = run(command, site)

    assert result.exit_code == 1
    assert set(server.visitors) == {apache_user().pw_uid}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_file_of_root_is_not_read_for_other_users(
    command: str, site: SiteUnderExamination, server: DevelopersServer, secret: Path
) -> None:
    site.write_settings({"password_file": str(secret)})

    result = run(command, site)

    assert result.exit_code == 1
    assert f"{secret} cannot be read by " in result.output
    assert "roots-own-s3cret" not in result.output
    assert server.visitors == []


@pytest.mark.parametrize("option", ["read_default_file", "ssl_ca", "ssl_key"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_message_shows_the_content_of_a_file_that_a_url_names(
    command: str, option: str, site: SiteUnderExamination, secret: Path
) -> None:
    site.write_settings({}, f"&{option}={secret}")

    assert "roots-own-s3cret" not in run(command, site).output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_variable_of_roots_shell_is_not_read_for_other_users(
    command: str, site: SiteUnderExamination, server: DevelopersServer
) -> None:
    site.write_settings({"password_env": "ROOTS_TOKEN"})

    result = run(command, site, ROOTS_TOKEN="roots-own-s3cret")

    assert result.exit_code == 1
    assert "the environment has no variable ROOTS_TOKEN" in result.output
    assert server.visitors == []


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_that_link_to_a_file_of_root_are_not_read(
    command: str, site: SiteUnderExamination, secret: Path
) -> None:
    site.settings.unlink()
    site.settings.symlink_to(secret)

    result = run(command, site)

    assert result.exit_code == 1
    assert "cannot be read by" in result.output
    assert "roots-own-s3cret" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_of_two_users_show_only_what_both_may_read(
    command: str, site: SiteUnderExamination, server: DevelopersServer, folder: Path
) -> None:
    # Otherwise a file of one user could be sent to a server that the other user has named.
    site.run_also_as("daemon")
    own = folder / "own"
    own.write_text("daemons-s3cret\n")
    own.chmod(0o400)
    os.chown(own, apache_user().pw_uid, -1)
    site.write_settings({"password_file": str(own)})
    site.settings.chmod(0o644)

    result = run(command, site)

    assert result.exit_code == 1
    assert server.visitors == []


def test_settings_beside_a_script_are_read_by_the_users_of_that_script(site: SiteUnderExamination) -> None:
    inner = site.folder / "other"
    inner.mkdir()
    (inner / "app.wsgi").write_text("import wsgipool\n")
    site.write_apache("WSGIDaemonProcess other processes=1 threads=2 user=daemon group=daemon")
    site.append_apache(f"WSGIScriptAlias /other {inner}/app.wsgi process-group=other application-group=%{{GLOBAL}}")
    settings = inner / "wsgipool.toml"
    settings.write_text(site.settings.read_text())
    settings.chmod(0o640)
    os.chown(settings, 0, 1)  # of the group daemon

    found: list[dict[str, Any]] = json.loads(run("doctor", site, "--json", "--config", str(settings)).stdout)

    readers = [finding for finding in found if finding["code"] == "database-unreachable"]
    assert len(readers) == 1, found


def test_an_httpd_of_another_user_names_no_settings(
    site: SiteUnderExamination, server: DevelopersServer, folder: Path
) -> None:
    theirs = folder / "theirs.toml"
    theirs.write_text(f'[databases.theirs]\nurl = "mysql://x@/x?unix_socket={server.path}"\n')
    os.chown(folder, apache_user().pw_uid, -1)

    with site.running(user=apache_user().pw_name, WSGIPOOL_CONFIG=str(theirs)):
        result = run("doctor", site)

    assert "not running" in result.stdout
    assert "theirs" not in result.stdout
