"""The demo's page of the pool: its buttons, without httpd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsgipool.demo import plain_sql
from wsgipool.demo.action_files import NO_STATE, VARIABLE, ActionFiles, of_this_process
from wsgipool.demo.action_runner import ActionRunner
from wsgipool.demo.actions import crowd
from wsgipool.demo.bookshop import Refusal
from wsgipool.demo.pool_page import PoolPage, refuse_foreign

HERE = {"Host": "127.0.0.1:8080"}


@pytest.fixture
def files(tmp_path: Path) -> ActionFiles:
    files = ActionFiles(tmp_path)
    files.create()
    return files


@pytest.fixture
def page(files: ActionFiles, monkeypatch: pytest.MonkeyPatch) -> PoolPage:
    """The page of a demo with one button."""
    monkeypatch.setenv(VARIABLE, str(files.folder))
    leak = {"name": "leak", "title": "A leak", "what": "", "look": ""}
    files.write({**NO_STATE, "host": "127.0.0.1", "actions": [leak]})
    return PoolPage(plain_sql)


def test_a_button_asks_for_its_action_once(page: PoolPage, files: ActionFiles) -> None:
    answer = page.request_action("leak", HERE.get)

    assert answer.status == 202
    assert files.requested(["leak", "nested"]) == ["leak"]
    with pytest.raises(Refusal, match="“A leak” is not over yet"):
        page.request_action("leak", HERE.get)


@pytest.mark.parametrize("name", ["nested", "../leak", ""])
def test_only_the_actions_of_the_demo_have_a_button(page: PoolPage, files: ActionFiles, name: str) -> None:
    with pytest.raises(Refusal) as refusal:
        page.request_action(name, HERE.get)

    assert refusal.value.status == 404
    assert [path.name for path in files.folder.rglob("*") if path.is_file()] == ["actions.json"]


def test_a_button_waits_for_the_action_that_runs(page: PoolPage, files: ActionFiles) -> None:
    files.write({**files.read(), "running": "leak"})

    with pytest.raises(Refusal, match="“A leak” is not over yet") as refusal:
        page.request_action("leak", HERE.get)

    assert refusal.value.status == 409


def test_another_httpd_than_the_demos_has_no_buttons_and_no_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    page = PoolPage(plain_sql)

    for request in (page.request_action, page.make_mistake):
        with pytest.raises(Refusal) as refusal:
            request("leak", HERE.get)
        assert refusal.value.status == 404
    assert of_this_process() is None


@pytest.mark.parametrize(
    "headers",
    [
        HERE,
        {"Host": "localhost:8080", "Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"},
        {"Host": "[::1]:8080", "Origin": "http://[::1]:8080"},
        {"Host": "shop.test", "Origin": "https://shop.test"},
    ],
)
def test_the_pages_of_the_shop_and_programs_may_press_its_buttons(headers: dict[str, str]) -> None:
    refuse_foreign(headers.get, "shop.test")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**HERE, "Origin": "http://evil.example"}, 403),
        ({**HERE, "Origin": "http://127.0.0.1:8081"}, 403),
        ({**HERE, "Origin": "null"}, 403),
        ({**HERE, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**HERE, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080", "Sec-Fetch-Site": "same-origin"}, 421),
        ({"Host": ""}, 421),
        ({}, 421),
    ],
)
def test_a_foreign_page_or_name_may_not_press_a_button(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        refuse_foreign(headers.get, "")

    assert refusal.value.status == status


def test_what_the_sites_user_puts_into_the_folder_is_never_followed(files: ActionFiles, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    requested = tmp_path / "requested"
    (requested / "link").symlink_to(target)
    (requested / "folder").mkdir()

    files.forget(["link", "folder"])

    assert files.requested(["link", "folder"]) == ["folder"]
    assert target.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_sites_user_may_read_the_state_and_not_write_it(files: ActionFiles) -> None:
    state = (files.folder / "actions.json").stat()

    assert (state.st_uid, state.st_mode & 0o777) == (0, 0o640)


def test_the_page_shows_the_packages_lines_of_the_error_log(tmp_path: Path) -> None:
    prefix = "[Tue Dec 01 16:22:26 2026] [wsgi:warn] [pid 462:tid 462] "
    with ActionRunner(tmp_path, None) as actions:
        actions.on_line(f"{prefix}wsgipool: a connection was not returned\n")
        actions.on_line(f"{prefix}wsgipool: a connection was not returned\n")
        actions.on_line(f"{prefix}wsgipool.demo: 503 for GET '/orders'\n")
        actions.on_line("[Tue Dec 01 16:22:26 2026] [core:notice] AH00094: Command line: '/srv/wsgipool/httpd'\n")

    (event,) = ActionFiles(tmp_path).read()["events"]
    assert (event["kind"], event["text"], event["times"]) == ("log", "a connection was not returned", 2)


@pytest.mark.parametrize(("threads", "visitors"), [(1, 1), (2, 1), (4, 2), (8, 6), (16, 12), (1000, 100)])
def test_visitors_leave_threads_for_the_page_that_shows_them(threads: int, visitors: int) -> None:
    assert crowd(threads) == visitors
