"""Several sites on one Apache of Debian, each a virtual host with its own folder, modules and settings.

The settings name a SQLite database, so that a site needs no server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from httpd.harness import LONG, eventually, give_to_apache
from httpd.test_debian import DebianApache

PROCESSES, THREADS = 2, 3

_SCRIPT = """
import json
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

import site_settings


def application(environ, start_response):
    pools = sys.modules.get("wsgipool.pools")
    answer = {
        "text": site_settings.TEXT,
        "process_group": environ["mod_wsgi.process_group"],
        "application_group": environ["mod_wsgi.application_group"],
        "pools": [pool.name for pool in pools.stats()] if pools else None,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""

_SIZES = f"""
<IfModule mpm_prefork_module>
    ServerLimit {PROCESSES}
    MaxRequestWorkers {PROCESSES}
</IfModule>
<IfModule !mpm_prefork_module>
    ServerLimit {PROCESSES}
    ThreadsPerChild {THREADS}
    MaxRequestWorkers {PROCESSES * THREADS}
</IfModule>
"""


@dataclass(frozen=True)
class Visit:
    """The answer of a site's script, with the interpreter that ran it."""

    text: str
    process_group: str
    application_group: str
    """The name in httpd: "" for the main interpreter."""
    pools: list[str] | None
    """The pools of the interpreter; None if it has not imported wsgipool."""


class Sites:
    """An Apache and its sites."""

    def __init__(self, folder: Path, mode: str, python: Path | None = None) -> None:
        """`python` is that of a further environment, with wsgipool, which httpd does not know yet."""
        self.folder = folder
        self.apache = DebianApache(folder, python or Path(sys.executable))
        self._mode = mode
        self.apache.use(mode)
        home = "" if python else f'WSGIPythonHome "{sys.prefix}"\n'
        self.apache.write(
            "conf-available/base.conf",
            f"ErrorLog {folder}/error_log\nWSGISocketPrefix {folder}/wsgi\n{home}"
            # mod_wsgi 4.9 takes 3 to 10 seconds to end several interpreters.
            f"WSGIDestroyInterpreter Off\n{_SIZES}",
        )
        self.apache.run("a2enconf", "-q", "base")

    def add(self, name: str, lines: str | None = None, *, folder: str = "") -> Path:
        """Create and enable a site, and return the file of its virtual host.

        `lines` are those of the virtual host, with {script} in place of its script; the default is a WSGIScriptAlias,
        in daemon mode with a process group.
        """
        script = self._script(name, folder or name)
        if lines is None:
            lines = 'WSGIScriptAlias / "{script}"'
            if self._mode == "daemon":
                group = f"WSGIDaemonProcess {name} processes={PROCESSES} threads={THREADS}\nWSGIProcessGroup {name}"
                lines = f"{group}\n{lines}"
        body = f'ServerName {name}.example\n{lines.format(script=script)}\n<Directory "{script.parent}">'
        file = f"sites-available/{name}.conf"
        self.apache.write(file, f"<VirtualHost *:*>\n{body}\nRequire all granted\n</Directory>\n</VirtualHost>\n")
        self.apache.run("a2ensite", "-q", name)
        return self.apache.confdir / file

    def _script(self, name: str, folder: str) -> Path:
        place = self.folder / folder
        place.mkdir(parents=True)
        give_to_apache(place)
        (place / "app.wsgi").write_text(_SCRIPT)
        (place / "site_settings.py").write_text(f"TEXT = 'I am {name}'\n")
        url = f"sqlite:///{place}/{name}.db".replace("%", "%25")
        (place / "wsgipool.toml").write_text(f"[databases.{name}]\nurl = {json.dumps(url)}\n")
        return place / "app.wsgi"

    def refusal(self, *arguments: str) -> str:
        """Run `wsgipool apache install`, which must fail, and return the error."""
        outcome = self.apache.outcome(*self.apache.install_command(*arguments))
        assert outcome.returncode == 1, outcome.stdout
        return outcome.stderr

    def join(self, *names: str) -> str:
        """Let sites join, and enable the drop-in."""
        printed = self.apache.install(*(word for name in names for word in ("--site", f"{name}.example")))
        self.apache.run("a2enconf", "-q", "wsgipool")
        return printed

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.apache.running():
            yield

    def status(self, name: str) -> Any:
        """Return the status page of a site."""
        headers = {"Host": f"{name}.example", "Connection": "close"}
        return requests.get(f"{self.apache.url}/wsgipool-status?json", headers=headers, timeout=LONG).json()

    def visit(self, name: str, path: str = "/", *, host: str = "") -> Visit:
        """Send a request to a site."""
        headers = {"Host": host or f"{name}.example", "Connection": "close"}
        response = requests.get(self.apache.url + path, headers=headers, timeout=LONG)
        assert response.status_code == 200, f"{response.status_code} {self.log()}"
        return Visit(**response.json())

    def log(self) -> str:
        return self.apache.log.read_text(errors="replace")

    def wait_for_pools(self, name: str) -> None:
        """Wait until every process of a site has said the size of its pool."""
        eventually(lambda: self.log().count(f"pool '{name}': up to") >= PROCESSES, f"the pools of {name}")
