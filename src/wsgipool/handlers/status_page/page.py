"""The status page as HTML: the whole document, and its changing part for the refresh in place."""

from __future__ import annotations

from collections.abc import Callable

from wsgipool.handlers.status_page import details, summary, words
from wsgipool.handlers.status_page.markup import Markup, document, element, trusted
from wsgipool.handlers.status_page.view import View
from wsgipool.wording import counted

_STYLE, _SCRIPT = trusted("style.css"), trusted("script.js")

_SECTIONS: dict[str, tuple[str, Callable[[View], Markup]]] = {
    "findings": ("Findings", summary.findings),
    "databases": ("Databases", summary.databases),
    "holders": ("Threads that hold connections", details.holders),
    "waiters": ("Threads that wait", details.waiters),
    "processes": ("Processes and pools", details.processes),
    "servers": ("Sessions on the database servers", details.servers),
    "locks": ("Locks", details.locks),
    "caches": ("Caches", details.caches),
}
"""The sections in their order: the identifier, the heading and the content."""


def whole(view: View, nonce: str) -> str:
    """Return the document; `nonce` is that of the Content-Security-Policy."""
    return _document(f"wsgipool on {view.hostname}", changing(view), nonce)


def failed(hostname: str, error: str, nonce: str) -> str:
    """Return the document for settings that cannot be read."""
    main = _main(hostname, "error", [element("p", error, class_="failure")])
    return _document(f"wsgipool on {hostname}", main, nonce)


def changing(view: View) -> Markup:
    """Return the part that a refresh replaces."""
    sections = [
        element(
            "section",
            element("h2", heading, id=f"{name}-heading"),
            content(view),
            id=name,
            aria_labelledby=f"{name}-heading",
        )
        for name, (heading, content) in _SECTIONS.items()
    ]
    return _main(view.hostname, view.verdict(), [_moment(view), *sections, _notes(view)])


def _main(hostname: str, verdict: str, children: list[Markup]) -> Markup:
    return element("main", children, id="page", tabindex=-1, data_title=f"{verdict}: wsgipool on {hostname}")


def _moment(view: View) -> Markup:
    host = view.host
    ended = f", {host.ended_processes} ended" if host.ended_processes else ""
    return element(
        "p",
        element("strong", view.verdict(), role="status", class_="verdict"),
        f" at {words.clock(host.at)}; {counted(len(host.processes), 'process')}{ended}; ",
        element("span", host.folder, class_="code"),
        class_="moment",
    )


def _notes(view: View) -> Markup:
    return element(
        "footer",
        element(
            "p",
            "Counters and percentiles are those of all processes since the first one started. Percentiles are upper "
            "bounds, right to 25 %, those of locks to a factor of two. Numbers of other processes are up to a second "
            f"old. wsgipool {view.version}; process {view.pid} answered.",
        ),
    )


def _document(title: str, main: Markup, nonce: str) -> str:
    links = [element("a", heading, href=f"#{name}") for name, (heading, _) in _SECTIONS.items()]
    return document(
        "page.html",
        title=element("title", title),
        heading=element("h1", title),
        links=element("nav", links, aria_label="Sections"),
        style=element("style", _STYLE, nonce=nonce),
        script=element("script", _SCRIPT, nonce=nonce),
        main=main,
    )
