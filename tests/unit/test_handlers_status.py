"""The status page: its answers, its markup, and the questions to the database servers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.fakes import eventually
from unit.reports import BUDGET, budget, full_pool, holder, pool, process, sample
from unit.reports import host as host_of
from wsgipool import Locks, pools
from wsgipool.handlers import status
from wsgipool.handlers.status_page import history, plots
from wsgipool.handlers.status_page.markup import Markup, element, joined
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.model import HostReport

ATTACK = "<script>alert('x')</script>\"&\x1b\ud800"
SHOWN = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;\\x1b\\ud800"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def _configured(folder: Path, _no_settings: None) -> Iterator[None]:
    with pools.override({"runtime_dir": str(folder), "databases": {"shop": {"url": "sqlite:////tmp/never-opened.db"}}}):
        yield


def get(**environ: str) -> tuple[str, dict[str, str], str]:
    responses: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(status.application(environ, lambda line, headers: responses.append((line, headers))))
    ((line, headers),) = responses
    return line, dict(headers), body.decode()


def show(monkeypatch: pytest.MonkeyPatch, report: HostReport) -> None:
    """Let the page show a report that was made up."""
    locks = Locks().report()
    monkeypatch.setattr(pools, "runtime_dir", lambda: Path("/run/wsgipool"))
    monkeypatch.setattr(reading, "host", lambda _: (report, locks))


# --- the answers -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_configured")
def test_the_page_is_html_text_or_json_as_requested() -> None:
    work = Locks().requires("<b>stock</b>")(lambda: None)
    for _ in range(12):
        work()
    pools.pool("shop")
    eventually(lambda: ">12</td>" in get()[2])  # the background may be publishing older numbers

    line, headers, html = get()
    assert (line, headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
    assert "&lt;b&gt;stock&lt;/b&gt;" in html
    assert "<b>stock" not in html

    for asked in ({"QUERY_STRING": "json"}, {"QUERY_STRING": "format=json"}, {"HTTP_ACCEPT": "application/json"}):
        _, headers, text = get(**asked)
        assert headers["Content-Type"] == "application/json"
        document = json.loads(text)
        assert document["locks"][0]["turns"] == 12
        assert document["databases"][0]["name"] == "shop"
    assert "<h1>" in get(HTTP_ACCEPT="text/html,application/json;q=0.9")[2]

    _, headers, text = get(QUERY_STRING="auto")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "\nInUse[shop]: 0\n" in text


@pytest.mark.usefixtures("_configured")
def test_a_fragment_is_the_changing_part_of_the_page() -> None:
    _, headers, text = get(QUERY_STRING="fragment")

    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert text.startswith("<main")
    assert "<script" not in text


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("query", ["", "fragment", "auto", "json"])
def test_a_folder_that_cannot_be_used_is_a_503_with_the_reason(folder: Path, query: str) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)

    line, _, text = get(QUERY_STRING=query)

    assert line == "503 Service Unavailable"
    assert "is open to others" in text


@pytest.mark.usefixtures("_configured")
def test_only_the_style_and_the_script_of_this_answer_may_act() -> None:
    _, headers, first = get()
    second = get()[1]
    policy = headers["Content-Security-Policy"]
    (nonce,) = set(re.findall(r"'nonce-([\w-]+)'", policy))

    assert re.findall(r'<(?:style|script) nonce="([\w-]+)">', first) == [nonce, nonce]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert nonce not in second["Content-Security-Policy"]


@pytest.mark.usefixtures("_configured")
def test_the_page_loads_nothing_from_elsewhere() -> None:
    html = get()[2]

    links = re.findall(r'\b(?:src|href|action|srcset)="([^"]*)"', html)
    assert [link for link in links if not link.startswith(("#", "?", "data:,"))] == []
    assert re.findall(r"url\(|@import|https?://", html) == []
    assert " style=" not in html
    assert re.findall(r"<[^>]* on\w+=", html) == []


KNOWN_HOSTS = [
    "localhost", "LocalHost:8080", "localhost.", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080", "shop.example",
    "Shop.Example.:443",
]  # fmt: skip
STRANGE_HOSTS = [
    "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "", "0x7f.1",
    "[::1].evil.example", "a" * 10_000, "shop.example@evil.example", "<script>", "localhost:evil",
]  # fmt: skip


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("host", KNOWN_HOSTS)
def test_the_page_answers_to_the_servers_names(host: str) -> None:
    assert get(HTTP_HOST=host, SERVER_NAME="shop.example")[0] == "200 OK"


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_the_page_answers_to_no_other_name(host: str) -> None:
    line, headers, text = get(HTTP_HOST=host, SERVER_NAME="shop.example")

    assert line == "421 Misdirected Request"
    assert "Use localhost, an IP address, or the server's ServerName" in text
    assert "Databases" not in text
    assert len(text) < 1000
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "PROPFIND"])
def test_the_page_supports_get_and_head_only(method: str) -> None:
    line, headers, text = get(REQUEST_METHOD=method)

    assert line == "405 Method Not Allowed"
    assert headers["Allow"] == "GET, HEAD"
    assert "Databases" not in text


@pytest.mark.usefixtures("_configured")
def test_a_head_request_gets_the_headers_alone() -> None:
    line, headers, text = get(REQUEST_METHOD="HEAD")

    assert line == "200 OK"
    assert int(headers["Content-Length"]) > 0
    assert headers["Cache-Control"] == "no-store"
    assert text == ""


# --- the markup ------------------------------------------------------------------------------------------------------


def test_every_text_and_attribute_is_escaped() -> None:
    made = element("p", ATTACK, [ATTACK, element("b", ATTACK)], title=ATTACK)

    assert made == f'<p title="{SHOWN}">{SHOWN}{SHOWN}<b>{SHOWN}</b></p>'
    made.encode()


def test_only_markup_stays_as_it_is() -> None:
    class Text(str):
        __slots__ = ()

    assert joined(Text("<i>"), Markup("<i>"), None, 5) == "&lt;i&gt;<i>5"


def test_attributes_may_be_left_out_or_without_a_value() -> None:
    made = element("button", class_="a", aria_label=None, hidden=True, disabled=False, data_key="")

    assert made == '<button class="a" hidden data-key=""></button>'


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_first_screen_names_page_process_and_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, host_of(process(4711, [full_pool(budget=budget(15, 14))]), history=[sample(30, orders={})]))

    html = get()[2]
    findings = html[html.index('id="findings"') : html.index('id="databases"')]
    databases = html[html.index('id="databases"') : html.index('id="holders"')]

    assert "critical" in findings
    assert "/report" in findings
    assert "4711" in findings
    assert '<dd><b>14</b><span class="quiet"> of 15</span></dd>' in databases
    assert BUDGET not in html


def test_the_longest_holder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    holders = [holder("/second", 5.0), holder("/first", 9.0)]
    show(monkeypatch, host_of(process(1, [pool(holders=holders)]), process(2, [pool(holders=[holder("/third", 2.0)])])))

    html = get()[2]

    assert html.index("/first") < html.index("/second") < html.index("/third")


def test_the_lines_for_programs_name_each_number_and_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    two = process(1, [full_pool(budget=budget(15, 14)), pool("stock\nInUse[x]: 9")])
    show(monkeypatch, host_of(two, history=[sample(10, orders={"checkouts": 900})]))

    lines = dict(line.rsplit(": ", 1) for line in get(QUERY_STRING="auto")[2].splitlines() if "Finding[" not in line)

    assert lines["Processes"] == "1"
    assert lines["Findings[critical]"] == "1"
    assert (lines["InUse[orders]"], lines["Waiting[orders]"], lines["MaxSize[orders]"]) == ("4", "3", "4")
    assert (lines["BudgetTaken[orders]"], lines["BudgetLimit[orders]"]) == ("14", "15")
    assert lines["CheckoutsPerSec[orders]"] == "10.0"
    assert lines["LongestHold[orders]"] == "30.0"
    assert "InUse[x]" not in lines


# --- the last ten minutes --------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_seconds() -> None:
    host = host_of(
        process(1),
        history=[sample(100, orders={"checkouts": 0}), sample(10, orders={"checkouts": 900})],
    )  # fmt: skip
    past = history.of_name(host, host.databases(), "orders")

    assert past.checkouts_a_second() == 10
    assert [(point.at - host.at, point.value) for point in past.checkout_rates()] == [(-10, 10), (0, 10)]


def test_the_timeouts_are_those_of_the_samples() -> None:
    host = host_of(process(1), history=[sample(700, orders={"timeouts": 1}), sample(1, orders={"timeouts": 7})])

    assert history.of_name(host, host.databases(), "orders").timeouts() == 0
    assert history.History([]).timeouts() == 0
    assert history.History([]).checkouts_a_second() is None


def test_a_line_is_broken_where_there_are_no_samples() -> None:
    points = [history.Point(at, 1.0) for at in (0.0, 10.0, 20.0, 300.0, 310.0)]

    plot = plots.line("In use", "in-use", points, 310.0)

    assert plot.count('class="curve in-use"') == 2
    assert "now 1, at most 1" in plot


def test_all_sections_have_headings_that_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, host_of(process(1)))

    html = get(QUERY_STRING="fragment")[2]

    for name in re.findall(r'aria-labelledby="([\w-]+)"', html):
        assert f'id="{name}"' in html
    assert html.count("<h2") == html.count("<section") == 8
