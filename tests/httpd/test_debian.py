"""A site as a Debian administrator sets it up: a2enconf, Debian's apache2 and its older mod_wsgi."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from httpd.harness import (
    APP,
    AbortedClients,
    SessionMonitor,
    VisitedSite,
    connections_by_process,
    eventually,
    overlaps,
    pools_of_answering_process,
    sessions,
)
from httpd.harness import write_config as write_settings
from wsgipool.demo.mariadb import MariaDB
from wsgipool.httpd.express import MODES, apache_user, free_port
from wsgipool.wording import counted

PROCESSES, THREADS = 2, 5


class DebianApache:
    """Debian's apache2 with a copy of /etc/apache2, run in the foreground."""

    def __init__(self, folder: Path, python: Path = Path(sys.executable)) -> None:
        """`python` is that of an environment with wsgipool."""
        self._python = str(python)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.confdir = folder / "apache2"
        self.options = ["-d", str(self.confdir)]
        """The options that name the configuration."""
        self.log = folder / "error_log"
        self.log.touch()
        shutil.copytree("/etc/apache2", self.confdir, symlinks=True)
        shutil.rmtree(self.confdir / "sites-enabled")
        (self.confdir / "sites-enabled").mkdir()
        for name in ("conf-available", "conf-enabled"):
            (self.confdir / name / "wsgipool.conf").unlink(missing_ok=True)
        (self.confdir / "ports.conf").write_text(f"Listen 127.0.0.1:{port}\n")
        variables = {
            "APACHE_RUN_USER": apache_user().pw_name,
            "APACHE_RUN_GROUP": apache_user().pw_name,
            "APACHE_RUN_DIR": str(folder),
            "APACHE_LOCK_DIR": str(folder),
            "APACHE_LOG_DIR": str(folder),
            "APACHE_PID_FILE": str(folder / "apache2.pid"),
        }
        with (self.confdir / "envvars").open("a") as file:
            file.writelines(f"export {name}={value}\n" for name, value in variables.items())
        self._environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "APACHE_CONFDIR": str(self.confdir),
            "APACHE_STATE_DIRECTORY": str(folder / "state"),
            **variables,
        }

    def run(self, *command: str) -> str:
        outcome = self.outcome(*command)
        assert outcome.returncode == 0, f"{' '.join(command)}: {outcome.stdout}{outcome.stderr}"
        return outcome.stdout + outcome.stderr

    def outcome(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment of this Apache."""
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)

    def write(self, name: str, text: str) -> None:
        (self.confdir / name).write_text(text)

    def use(self, mode: str) -> None:
        """Enable mod_wsgi and the MPM of a mode, and none of the others."""
        mpm = "event" if mode == "daemon" else mode
        self.run("a2dismod", "-q", "-f", *(f"mpm_{name}" for name in ("prefork", "worker", "event") if name != mpm))
        self.run("a2enmod", "-q", f"mpm_{mpm}", "wsgi")

    def install(self, *arguments: str) -> str:
        """Run `wsgipool apache install` for this configuration, and return what it prints."""
        return self.run(*self.install_command(*arguments))

    def install_command(self, *arguments: str) -> list[str]:
        folder = self.confdir / "conf-available"
        return [self._python, "-m", "wsgipool", "apache", "install", "--directory", str(folder), *arguments]

    @contextmanager
    def running(self, *options: str, launcher: Sequence[str] = (), **environment: str) -> Iterator[None]:
        """Run httpd with further options and variables, by another program if given, which replaces itself by httpd."""
        command = ["/usr/sbin/apache2", *self.options, "-E", str(self.log), *options]
        self._environment |= environment
        self.run(*command, "-t")
        process = subprocess.Popen([*launcher, *command, "-DFOREGROUND"], env=self._environment, start_new_session=True)
        try:
            eventually(lambda: process.poll() is not None or "resuming normal" in self.log.read_text(), "apache2")
            assert process.poll() is None, self.log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(30)


class DebianSite(VisitedSite):
    """A site of this Apache."""

    def __init__(self, apache: DebianApache) -> None:
        super().__init__(apache.url)
        self._apache = apache

    def log(self) -> str:
        return self._apache.log.read_text(errors="replace")


@contextmanager
def debian_site(folder: Path, mode: str, shop: str) -> Iterator[DebianSite]:
    """Run a site that was set up by the README's steps for Debian."""
    apache = debian_apache(folder, mode, shop)
    with apache.running():
        yield DebianSite(apache)


def debian_apache(folder: Path, mode: str, shop: str) -> DebianApache:
    """Follow the README's steps for Debian in a copy of its configuration.

    The drop-in gives Apache's children their sizes. In daemon mode, the site has processes of its own.
    """
    app = Path(shutil.copytree(APP, folder / "app"))
    apache = DebianApache(folder)
    write_settings(folder / "wsgipool.toml", {"shop": shop}, {})
    apache.use(mode)
    apache.write(
        "conf-available/shop.conf",  # read before wsgipool.conf by the order of names
        f"Define WSGIPOOL_PROCESSES {PROCESSES}\nDefine WSGIPOOL_THREADS {THREADS}\n"
        f"Define WSGIPOOL_REQUEST_WORKERS {PROCESSES * THREADS}\n"
        f"Define WSGIPOOL_SIZING\nDefine WSGIPOOL_STATUS\nDefine WSGIPOOL_HEALTH\nErrorLog {folder}/error_log\n"
        f"WSGISocketPrefix {folder}/wsgi\n",  # Debian's default is in root's /run
    )
    daemon = (
        f"    WSGIDaemonProcess shop processes={PROCESSES} threads={THREADS} python-home={sys.prefix}\n"
        "    WSGIProcessGroup shop\n"
    )
    apache.write(
        "sites-available/shop.conf",
        f"<VirtualHost *:*>\n    ServerName shop.example\n{daemon if mode == 'daemon' else ''}"
        f"    WSGIScriptAlias / {app}/app.wsgi\n"
        f"    <Directory {app}>\n        Require all granted\n    </Directory>\n</VirtualHost>\n",
    )
    apache.run("a2enconf", "-q", "shop")
    apache.run("a2ensite", "-q", "shop")
    apache.install("--config", str(folder / "wsgipool.toml"), "--site", "shop.example")
    apache.run("a2enconf", "-q", "wsgipool")
    return apache


@pytest.mark.parametrize("mode", MODES)
def test_a_debian_site_has_one_pool_a_process_on_its_own_mod_wsgi(
    mode: str, mariadb: MariaDB, shop: str, folder: Path
) -> None:
    user = str(urlsplit(shop).username)
    threads = 1 if mode == "prefork" else THREADS
    with debian_site(folder, mode, shop) as site, SessionMonitor(mariadb, user) as monitor:
        known = site.get("/server")
        status_page = site.get("/wsgipool-status?format=json")
        health = site.request("/wsgipool-health/ready")
        answers = site.load(lambda _: "/hold?seconds=0.02", requests=120, clients=12)
        # On a busy machine one process may answer all requests before the other has started.
        size = f"up to {counted(threads, 'connection')} a process"
        eventually(lambda: site.log().count(size) >= PROCESSES, "every process to say the size of its pool")
        log = site.log()

    assert (health.status_code, health.text) == (200, "ready\n")
    assert known["version"] < [6]
    assert pools_of_answering_process(status_page) == ["shop"]
    assert (known["threads"], known["max_processes"]) == (threads, PROCESSES)
    assert known["process_group"] == ("shop" if mode == "daemon" else "")
    assert known["application_group"] == ""
    used = connections_by_process(answers)
    assert all(len(connections) <= threads for connections in used.values()), used
    assert monitor.maximum <= PROCESSES * threads
    assert not overlaps(answers)
    assert all(answer["own_rows"] for answer in answers)
    assert "AH00515" not in log, "httpd corrected the sizes"


@pytest.mark.parametrize("mode", MODES)
def test_a_debian_site_takes_back_leaks_and_ends_its_sessions(
    mode: str, mariadb: MariaDB, shop: str, folder: Path
) -> None:
    user = str(urlsplit(shop).username)
    aborted = AbortedClients(mariadb, user)
    with debian_site(folder, mode, shop) as site:
        leaked = site.get("/leak")["connection"]
        eventually(lambda: leaked not in sessions(mariadb, user), "the leaked connection to end")
        site.load(lambda _: "/hold?seconds=0.02", requests=20, clients=4)
        log = site.log()

    assert "a connection of pool 'shop' was not returned" in log
    assert aborted.count() == 0
