"""The processes of gunicorn, waitress and uWSGI: forks, reloads, killed workers and their ends, within a budget."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import requests

from frameworks.harness import UWSGI, Gunicorn, Waitress, WSGIServer
from frameworks.shops import new_shop, user_of
from httpd.harness import AbortedClients, Answer, SessionMonitor, connections_by_process, eventually, overlaps, sessions
from wsgipool.demo.mariadb import Server

pytestmark = pytest.mark.mariadb_only("how a server starts its processes does not depend on the database")

FORKING: dict[str, tuple[type[WSGIServer], list[str]]] = {
    "gunicorn": (Gunicorn, ["--preload"]),
    "uWSGI": (UWSGI, []),
    "uWSGI with hooks": (UWSGI, ["--py-call-uwsgi-fork-hooks"]),
}
RELOADING: dict[str, tuple[type[WSGIServer], list[str]]] = {
    "gunicorn": (Gunicorn, []),
    "uWSGI": (UWSGI, ["--lazy-apps"]),
}


def used_by_two_processes(server: WSGIServer) -> list[Answer]:
    """Return answers of requests that two processes served."""
    answers: list[Answer] = []

    def have_both_answered() -> bool:
        answers.extend(server.load(lambda _: "/hold?seconds=0.05", requests=8, clients=8))
        return len(connections_by_process(answers)) == 2

    eventually(have_both_answered, "both processes to serve a request")
    return answers


@pytest.mark.parametrize("how", FORKING)
def test_workers_do_not_use_a_connection_opened_before_their_fork(how: str, mariadb: Server, tmp_path: Path) -> None:
    kind, options = FORKING[how]
    url = new_shop(mariadb)
    before_the_fork = {"CONNECTS_AT_IMPORT": "1"}
    with kind(tmp_path, url, *options, threads=2, processes=2, environment=before_the_fork) as server:
        answers = used_by_two_processes(server)
        seen = sessions(mariadb, user_of(url))

    used = list(connections_by_process(answers).values())
    assert used[0].isdisjoint(used[1])
    # One more was opened before the fork. A pool may have opened others, while their requests got returned ones.
    assert used[0] | used[1] < seen
    assert overlaps(answers) == []
    assert all(answer["own_rows"] for answer in answers)


@pytest.mark.parametrize("how", RELOADING)
def test_a_reload_under_load_stays_within_the_budget(how: str, mariadb: Server, tmp_path: Path) -> None:
    kind, options = RELOADING[how]
    url = new_shop(mariadb)
    with (
        kind(tmp_path, url, *options, threads=4, processes=2, budget={"connections": 3}) as server,
        SessionMonitor(mariadb, user_of(url)) as monitor,
    ):
        old = connections_by_process(used_by_two_processes(server)).keys()
        server.signal(signal.SIGHUP)
        answers: list[Answer] = []

        def have_new_processes_answered() -> bool:
            answers.extend(server.load(lambda _: "/hold?seconds=0.02", requests=16, clients=8))
            return len(connections_by_process(answers).keys() - old) == 2

        eventually(have_new_processes_answered, "two new processes to serve requests")

    assert monitor.maximum <= 3
    assert overlaps(answers) == []


def test_the_permit_of_a_killed_worker_is_used_by_its_successor(mariadb: Server, tmp_path: Path) -> None:
    url = new_shop(mariadb)
    with Gunicorn(tmp_path, url, threads=2, budget={"connections": 1}) as server:
        first = server.get("/hold")["pid"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{first}").exists(), "the worker to end")

        assert server.get("/hold")["pid"] != first


def test_a_worker_that_takes_too_long_ends_its_session(mariadb: Server, tmp_path: Path) -> None:
    url = new_shop(mariadb)
    aborted = AbortedClients(mariadb, user_of(url))
    options = ("--worker-class=sync", "--timeout=1")
    with Gunicorn(tmp_path, url, *options, budget={"connections": 1}) as server:
        with pytest.raises(requests.exceptions.RequestException):
            assert server.request(f"/stream?until={tmp_path}/never").content.count(b"\n") == 2

        server.get("/hold")

    assert aborted.count() == 0


@pytest.mark.parametrize("kind", [Gunicorn, Waitress, UWSGI], ids=lambda kind: kind.name)
def test_sigterm_ends_the_sessions_as_the_database_expects(
    kind: type[WSGIServer], mariadb: Server, tmp_path: Path
) -> None:
    url = new_shop(mariadb)
    aborted = AbortedClients(mariadb, user_of(url))
    with kind(tmp_path, url, threads=4) as server:
        server.load(lambda _: "/hold?seconds=0.1", requests=4, clients=4)
        server.terminate()

    assert aborted.count() == 0
