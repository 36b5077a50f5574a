"""`wsgipool apache reload`: examine the site, check httpd's configuration, and restart httpd gracefully."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from wsgipool.cli.doctor import examine
from wsgipool.cli.site_settings import site_options
from wsgipool.httpd import configuration, graceful, live
from wsgipool.httpd.dump import Dump
from wsgipool.httpd.graceful import RestartFailed
from wsgipool.wording import printable


@click.command()
@site_options
@click.argument("httpd_options", nargs=-1, metavar="[-- OPTION...]")
def reload(
    config_path: Path | None, program: str | None, hosts: int, reserve: int, httpd_options: tuple[str, ...]
) -> None:
    """Check everything, then restart httpd gracefully.

    The command checks httpd's configuration, and examines the site like `wsgipool doctor`. It stops at an error;
    warnings and notes do not stop it. Then it restarts the running httpd gracefully, as `apache2ctl graceful` does, and
    waits until httpd has read its configuration. The new processes read wsgipool.toml. Requests in progress end
    normally, except in daemon mode: there httpd ends the Python processes at once.

    Run it as root. Options after `--` are passed on to httpd: -f FILE, -d FOLDER, -D NAME. Exit status: 1 if httpd was
    not restarted.
    """
    configured = configuration.as_it_runs(program, httpd_options)
    server = live.find(configured)
    if server is not None:
        graceful.refuse_other_user(server)
    report = examine(config_path, program, httpd_options, hosts, reserve)
    report.print()
    if report.has_errors:
        anyway = shlex.join([configured.program, *httpd_options, "-k", "graceful"])
        raise RestartFailed(
            f"httpd was not restarted; correct the errors first, or restart it in spite of them: {anyway}"
        )
    if server is None or configured.pid_file is None:
        raise RestartFailed(_not_running(configured, httpd_options))
    graceful.check(server)
    graceful.restart(server, configured)
    click.echo(printable(f"reloaded: process {server.pid} of {configured.program} has read its configuration again"))


def _not_running(configured: Dump, httpd_options: Sequence[str]) -> str:
    service = "apache2" if "apache2" in Path(configured.program).name else "httpd"
    return (
        f"httpd does not run: {configured.pid_file} names no process of it. Start it: systemctl start {service}, or "
        f"without systemd: {shlex.join([configured.program, *httpd_options, '-k', 'start'])}"
    )
