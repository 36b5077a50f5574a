"""The status page of a real site, on a real httpd and a real database under load, in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import OpenPage
from httpd.background import Background
from httpd.harness import ExpressSite, eventually, running_site, sessions
from wsgipool.demo.mariadb import LocalServer
from wsgipool.httpd.express import PACKAGE

USER = "browsed_shop"
HELD = 3


@pytest.fixture
def site(servers_folder: Path, mariadb_server: LocalServer) -> Iterator[ExpressSite]:
    """A site of two processes with the status page."""
    folder = servers_folder / "browsed-site"
    folder.mkdir(mode=0o755)
    url = mariadb_server.create_database(USER)
    options = ("--include-file", str(PACKAGE / "apache" / "status.conf"))
    budget: dict[str, str | int] = {"connections": 6}
    with running_site(
        folder, "daemon", {"shop": url}, processes=2, threads=6, budget=budget, express_options=options
    ) as site:
        yield site


class Load(Background):
    """Short requests, one after the other."""

    def __init__(self, site: ExpressSite) -> None:
        super().__init__(self._visit)
        self._site = site

    def _visit(self) -> None:
        while not self._ending.is_set():
            self._site.get("/hold?seconds=0.002")


def figure(page: Page, title: str) -> str:
    """Return a number of the database's card, as it is now."""
    return str(page.locator(".figures div", has_text=title).locator("b").inner_text())


def connections(page: Page) -> int:
    return sum(int(figure(page, title)) for title in ("in use", "idle", "opening"))


def test_the_page_follows_a_site_under_load_and_agrees_with_the_server(
    site: ExpressSite, mariadb_server: LocalServer, open_page: OpenPage
) -> None:
    site.folder.chmod(0o777)
    with held_connections(site) as until:
        with Load(site):
            page = open_page(f"{site.url}/wsgipool-status")
            page.evaluate("window.isSamePage = true")
            expect(page.locator("#holders tbody")).to_contain_text(re.compile("in stream.*in stream.*in stream"))
        # Without the load the numbers stay the same.
        eventually(lambda: figure(page, "in use") == str(HELD), "the page to show the held connections")
        eventually(lambda: connections(page) == len(sessions(mariadb_server, USER)), "the page and the server to agree")
        budget = page.locator(".figures div", has_text="budget")
        expect(budget).to_contain_text(f"{connections(page)} of 6")
        until.touch()
        expect(page.locator("#holders")).to_contain_text("No thread holds a connection.")

    assert figure(page, "in use") == "0"
    assert page.evaluate("window.isSamePage")
    expect(page.locator("#servers")).to_contain_text("this site has")


@contextmanager
def held_connections(site: ExpressSite) -> Iterator[Path]:
    """Hold connections by requests that end when the file exists which the block gets."""
    until = site.folder / "until"
    with ThreadPoolExecutor(HELD) as visitors:
        streams = [visitors.submit(site.request, f"/stream?until={until}") for _ in range(HELD)]
        try:
            yield until
        finally:
            until.touch()
    assert [stream.result().status_code for stream in streams] == [200] * HELD
