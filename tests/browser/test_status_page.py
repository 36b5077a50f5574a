"""The status page in a browser: of a host that was made up, with 64 processes of 4 databases each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from browser import made
from browser.conftest import OpenPage
from browser.served import ServedPage, served_page
from wsgipool.errors import ConfigError
from wsgipool.handlers.status_page.sessions import Servers
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.model import HostReport

SCREENSHOTS = Path(__file__).parent / "screenshots"
WIDTHS = {390: 844, 1280: 900, 3840: 2160}
SCHEMES = ("light", "dark")


class Host:
    """The host that the page shows: a test may change it."""

    def __init__(self) -> None:
        self.report: HostReport = made.host()
        self.locks: LocksReport = made.locks()
        self.servers = made.servers()

    def read(self, _: Path) -> tuple[HostReport, LocksReport]:
        return self.report, self.locks

    def pass_time(self, seconds: float) -> None:
        """Let the same threads hold connections for longer."""
        self.report = replace(self.report, at=self.report.at + seconds)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(reading, "host", host.read)
    monkeypatch.setattr(Servers, "sessions", lambda _: host.servers)
    return host


@pytest.fixture
def served(host: Host) -> Iterator[ServedPage]:  # noqa: ARG001 - what it shows
    with served_page() as served:
        yield served


def refresh(page: Page) -> None:
    """Let two seconds pass, and wait until the page shows new numbers."""
    with page.expect_response(lambda response: "fragment" in response.url) as answer:
        page.clock.fast_forward(2_000)
    answer.value.finished()
    expect(page.locator("#state")).to_have_text("updated 0 s ago")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_large_host_is_readable_at_every_width(
    width: int, scheme: str, served: ServedPage, open_page: OpenPage
) -> None:
    page = open_page(served.url, width=width, height=WIDTHS[width], color_scheme=scheme)

    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"status-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first_finding = page.locator(".findings li").first
    expect(first_finding).to_be_in_viewport()
    expect(first_finding).to_contain_text("critical")
    assert page.locator("#all-pools").get_attribute("open") is None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_that_shuts_readers_out(
    scheme: str, host: Host, served: ServedPage, open_page: OpenPage
) -> None:
    host.report = made.host(8)  # axe takes time for each cell
    page = open_page(served.url, color_scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()

    results = Axe().run(page)

    assert len(results.response["passes"]) > 20
    serious = [each for each in results.response["violations"] if each["impact"] in ("serious", "critical")]
    assert serious == []


def test_every_name_and_text_stays_text(host: Host, served: ServedPage, open_page: OpenPage) -> None:
    host.report = made.host_of_an_attacker()
    host.locks = made.attacked(made.locks())
    host.servers = made.attacked(made.servers())

    page = open_page(served.url)
    refresh(page)

    assert "owned" not in page.title()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    for section in ("findings", "databases", "holders", "waiters", "processes", "servers", "locks", "caches"):
        expect(page.locator(f"#{section}")).to_contain_text(made.ATTACK)


def test_scroll_focus_and_open_lists_survive_a_refresh(host: Host, served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url, reduced_motion="reduce")
    page.locator("#all-pools summary").click()
    page.locator("#all-pools .scroll").focus()
    page.locator("#all-pools tbody tr").nth(40).scroll_into_view_if_needed()
    place = "document.querySelector('#all-pools tbody').getBoundingClientRect().top"
    before = page.evaluate(place)
    longest = page.locator("#holders time").first
    shown = longest.text_content()

    host.pass_time(100)
    refresh(page)

    expect(longest).not_to_have_text(shown or "")
    assert page.evaluate(place) == pytest.approx(before, abs=1)
    assert page.evaluate("document.activeElement.ariaLabel") == "All pools"
    assert page.locator("#all-pools").get_attribute("open") is not None


def test_nothing_changes_while_text_is_selected(host: Host, served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.verdict'))")

    host.pass_time(100)
    page.clock.fast_forward(20_000)

    expect(page.locator("#state")).to_contain_text("text is selected; updated 20 s ago")

    assert page.evaluate("String(getSelection())") == page.locator(".verdict").text_content()
    assert served.refreshes == 0


def test_a_paused_page_asks_for_nothing_until_it_goes_on(served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url)
    button = page.get_by_role("button", name="Pause")
    button.click()
    page.clock.fast_forward(20_000)

    expect(page.locator("#state")).to_contain_text("paused; updated 20 s ago")
    assert served.refreshes == 0
    button.click()
    expect(page.locator("#state")).to_have_text("updated 0 s ago")


def test_a_hidden_page_asks_for_nothing_until_it_is_seen(served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); "
    changed = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true" + changed)
    page.clock.fast_forward(20_000)

    expect(page.locator("#state")).to_have_text("updated 20 s ago")
    assert served.refreshes == 0
    page.evaluate(hide % "false" + changed)
    expect(page.locator("#state")).to_have_text("updated 0 s ago")


def test_the_page_says_that_the_server_does_not_answer(served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url)

    served.stop()
    page.clock.fast_forward(2_000)

    expect(page.locator("#state")).to_contain_text("the server does not answer; updated")
    expect(page.locator("#announcement")).to_have_text("the server does not answer")
    expect(page.locator("#databases h3").first).to_be_visible()


def test_the_page_says_that_the_folder_cannot_be_read(
    served: ServedPage, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(served.url)

    def refuse(_: Path) -> None:
        raise ConfigError("the folder is open to others")

    monkeypatch.setattr(reading, "host", refuse)
    page.clock.fast_forward(2_000)

    expect(page.locator("#state")).to_contain_text("the server answers 503; updated")
    expect(page.locator("#databases h3")).to_have_count(4)


def test_without_javascript_the_page_is_complete(served: ServedPage, open_page: OpenPage) -> None:
    page = open_page(served.url, java_script_enabled=False)

    expect(page.locator("#databases h3")).to_have_count(4)
    expect(page.locator("#state")).to_contain_text("Reload the page for newer numbers.")
    expect(page.locator("#pause")).to_be_hidden()
