"""The demo's page of the pool: each button does on real servers what it says, and the page shows it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from httpd.harness import LONG, eventually
from httpd.test_demo import Command, command, get_json, visit

Numbers = dict[str, Any]
LEAK = "1 request: 1 answered. At its end the pool took 1 connection back and closed it."
CONFLICT = "2 requests: 2 answered. One transaction committed at attempt 1, the other at attempt 2."


@pytest.fixture(scope="module")
def site(servers_folder: Path) -> Iterator[Command]:
    """A bookshop of two processes, with four connections each."""
    folder = servers_folder / "demo-pool"
    folder.mkdir(mode=0o755)
    with command(folder, "demo", "--mpm", "worker", "--db", "mariadb") as site:
        site.wait_until_open()
        yield site


def numbers(site: Command) -> Numbers:
    return get_json(f"{site.url}/pool")


def pids(now: Numbers) -> set[int]:
    return {process["pid"] for process in now["processes"]}


def both_processes(site: Command) -> set[int]:
    """Return the ids of the site's processes, of which httpd may start the second one only when it is needed."""
    if len(pids(numbers(site))) < 2:
        outcome(site, "slow")
    return eventually(lambda: now if len(now := pids(numbers(site))) == 2 else None, "two processes") or set()


def sum_of(now: Numbers, name: str) -> int:
    return sum(process.get(name, 0) for process in now["processes"])


def press(site: Command, action: str, **headers: str) -> requests.Response:
    headers = {"Accept": "application/json", "Connection": "close", **headers}
    return requests.post(f"{site.url}/pool/actions/{action}", headers=headers, timeout=LONG)


def outcome(site: Command, action: str, meanwhile: Callable[[Numbers], object] = lambda _: None) -> str:
    """Press a button; call `meanwhile` with the numbers again and again until it is over; return what the page says."""
    before = [event["at"] for event in numbers(site)["events"]]

    def done() -> str:
        try:
            now = numbers(site)
        except requests.ConnectionError:
            return ""  # the process that is killed had this request
        meanwhile(now)
        texts = [event["text"] for event in now["events"] if event["kind"] == "done" and event["at"] not in before]
        return "".join(texts)

    assert press(site, action).status_code == 202
    return eventually(done, f"the end of {action}", within=2 * LONG)


def test_slow_queries_fill_the_pools_and_the_page_stays_live(site: Command) -> None:
    seen: list[Numbers] = []

    text = outcome(site, "slow", seen.append)

    assert text.startswith("12 requests: 12 answered.")
    full = [now for now in seen if sum_of(now, "in_use") == 8]
    assert full
    assert max(sum_of(now, "waiting") for now in full) == 4
    assert all(now["budget"] == {"taken": 8, "limit": 8} for now in full)
    assert any(holder["path"] == "/slow" for now in full for holder in now["processes"][0]["holders"])


def test_a_burst_is_served_by_the_connections_that_are_there(site: Command) -> None:
    text = outcome(site, "burst")

    assert text.startswith("240 requests: 240 answered in ")
    eventually(lambda: sum_of(numbers(site), "in_use") == 0, "all reports to be of the time after it")


def test_a_deadlock_of_transactions_is_run_again(site: Command) -> None:
    assert outcome(site, "crossed") == CONFLICT


def test_a_leaked_connection_is_taken_back_at_the_end_of_its_request(site: Command) -> None:
    assert outcome(site, "leak") == LEAK


def test_a_deadlock_in_the_pool_is_refused_and_the_others_go_on(site: Command) -> None:
    text = outcome(site, "nested")

    assert "got PoolDeadlock at once" in text
    assert " 0 got PoolDeadlock" not in text
    eventually(lambda: sum_of(numbers(site), "in_use") == 0, "all reports to be of the time after it")
    assert sum_of(numbers(site), "waiting") == 0


@pytest.mark.parametrize("app", ["flask", "django"])
def test_a_leaked_connection_is_taken_back_in_each_app(app: str, folder: Path) -> None:
    with command(folder, "demo", "--app", app, "--mpm", "daemon", "--processes", "1", "--db", "mariadb") as site:
        site.wait_until_open()
        text = outcome(site, "leak")
        eventually(lambda: sum_of(numbers(site), "in_use") == 0, "the report to be of the time after it")
        after = numbers(site)
        conflict = outcome(site, "crossed")

    log = [event["text"] for event in after["events"] if event["kind"] == "log"]
    assert text == LEAK
    assert after["totals"]["leaked"] == 1
    assert any("was not returned before its request ended" in line and "in _leak" in line for line in log)
    assert conflict == CONFLICT


def test_a_killed_process_is_replaced_and_its_permits_return(site: Command) -> None:
    before = both_processes(site)
    permits: list[int] = []

    text = outcome(site, "kill", lambda now: permits.append(now["budget"]["taken"]))

    eventually(lambda: sum_of(numbers(site), "in_use") == 0, "the end of the last request")
    after = both_processes(site)
    (victim,) = before - after
    assert text.startswith(f"Process {victim} died with ")
    assert max(permits) == 8


def test_a_graceful_restart_replaces_all_processes(site: Command) -> None:
    before = both_processes(site)

    text = outcome(site, "graceful")

    assert not pids(numbers(site)) & before
    assert text.endswith("All old processes (2) have ended and closed their connections.")
    assert "without an answer" not in text


def test_the_site_is_back_after_a_restart_of_the_database(site: Command) -> None:
    text = outcome(site, "database")

    # A pool whose connects have failed waits for up to a second before the next one.
    eventually(lambda: visit(f"{site.url}/orders").status_code == 200, "the site to be back")
    assert text.startswith("The database was away for ")
    assert "answered 503" in text
    assert "without an answer" not in text


def test_sqlite_has_no_buttons_of_a_server(folder: Path) -> None:
    with command(folder, "demo", "--app", "django", "--mpm", "prefork", "--processes", "2", "--db", "sqlite") as site:
        site.wait_until_open()
        page = visit(f"{site.url}/pool", accept="text/html").text
        refused = press(site, "database").status_code
        text = outcome(site, "leak")

    assert "/pool/actions/leak" in page
    assert "/pool/actions/database" not in page
    assert "/pool/actions/crossed" not in page
    assert refused == 404
    assert text == LEAK


def test_a_page_of_another_site_cannot_press_a_button(site: Command) -> None:
    before = numbers(site)["events"]

    foreign = press(site, "leak", Origin="http://evil.example")
    rebound = press(site, "leak", Host="evil.example", Origin="http://evil.example")
    mistake = requests.post(
        f"{site.url}/pool/mistakes/leak", headers={"Sec-Fetch-Site": "cross-site"}, timeout=LONG
    ).status_code
    by_link = visit(f"{site.url}/pool/actions/leak").status_code

    assert (foreign.status_code, rebound.status_code, mistake, by_link) == (403, 421, 403, 405)
    assert numbers(site)["events"] == before


def test_a_signal_during_an_action_leaves_nothing(folder: Path) -> None:
    with command(folder, "demo", "--mpm", "worker", "--db", "mariadb") as site:
        site.wait_until_open()
        press(site, "slow")
        eventually(lambda: sum_of(numbers(site), "in_use") > 0, "the first visitor")

        status = site.stop()

        assert status == 0, site.output
        assert site.processes() == {}
        assert list(site.temporary.iterdir()) == []
        assert "Traceback" not in site.output
