"""A real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root has no sandbox.
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a URL in a new window; the arguments are those of playwright's `new_context`.

    The test can move the clock of the window forward.

    At the end, the test fails if a window had an error on its console. Violations of the page's policy are such errors.
    """
    errors: list[str] = []
    contexts = []

    def open_url(url: str, *, width: int = 1280, height: int = 900, **arguments: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **arguments)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.clock.install()
        page.goto(url)
        return page

    yield open_url
    for context in contexts:
        context.close()
    assert [error for error in errors if not error.startswith("Failed to load resource")] == []
