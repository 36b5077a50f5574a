"""docs/reference and the sample settings say what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

import wsgipool
from unit import reports
from wsgipool import drivers, errors, pools
from wsgipool._values import kinds_of
from wsgipool.cli import main
from wsgipool.config import AuthSettings, BudgetSettings, DatabaseSettings, Settings, parse_url
from wsgipool.drivers import mysql_options, psycopg_options, sqlite
from wsgipool.drivers.occupancy import Occupants, Sessions
from wsgipool.drivers.psycopg import PsycopgDriver
from wsgipool.drivers.tls import Mode
from wsgipool.handlers import status
from wsgipool.handlers.status_page.sessions import ServerSessions
from wsgipool.locks.statistics import LockRow, LocksReport
from wsgipool.pool._log import Event
from wsgipool.pool._slot import CloseReason
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.document import document
from wsgipool.scoreboard.findings import Finding
from wsgipool.scoreboard.metrics import every_metric, prometheus_label, prometheus_name
from wsgipool.scoreboard.model import (
    Activity,
    BudgetUse,
    CacheReport,
    ClosedPools,
    Gauges,
    PoolReport,
    ProcessReport,
    Sample,
    Totals,
)

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
DEFINES = {name for path in (ROOT / "apache").glob("*.conf") for name in re.findall(r"WSGIPOOL_\w+", path.read_text())}


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- Settings --------------------------------------------------------------------------------------------------------

SAMPLE = (ROOT / "apache" / "wsgipool.toml").read_text()
EXAMPLES = {"url", "password_file", "password_env", "connections", "runtime_dir", "close_on_errors"}
"""Settings without a default, or whose default shows nothing: the sample has an example."""


def sample() -> dict[str, dict[str, object]]:
    """Return the sample as if its settings were not commented out, with the table [databases.orders] only."""
    text = re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", SAMPLE.split("# A second database")[0])
    document = tomllib.loads(text)
    return {"": {"runtime_dir": document["runtime_dir"]}, "budget": document["budget"], **document["databases"]}


def test_the_sample_has_every_setting_of_a_database() -> None:
    assert set(sample()["orders"]) == set(kinds_of(DatabaseSettings))


def test_the_sample_has_the_defaults_of_the_code() -> None:
    defaults = {field.name: field.default for field in fields(DatabaseSettings) if field.default is not MISSING}
    shown = {key: value for key, value in sample()["orders"].items() if key not in EXAMPLES}

    assert shown == {key: value for key, value in defaults.items() if key not in EXAMPLES}


def test_the_sample_says_the_defaults_of_a_budget() -> None:
    assert f"`reserve` (default: {BudgetSettings(1).reserve})" in SAMPLE
    assert f"`hosts` (default: {BudgetSettings(1).hosts})" in SAMPLE


def test_the_sample_has_every_setting_of_users() -> None:
    table = SAMPLE.partition("#[auth]\n")[2]

    assert set(re.findall(r"(?m)^#(\w+) = ", table)) == set(kinds_of(AuthSettings))
    assert f"#cache_seconds = {AuthSettings('orders').cache_seconds:g}\n" in table


@pytest.mark.parametrize("settings", [DatabaseSettings, BudgetSettings, AuthSettings, Settings])
def test_the_page_is_made_from_every_dataclass_of_settings(settings: type) -> None:
    assert f"{{settings-of}} wsgipool.config.{settings.__name__}\n" in page("settings")


@pytest.mark.parametrize("settings", [DatabaseSettings, BudgetSettings, AuthSettings, Settings])
def test_every_setting_is_documented_where_it_is_declared(settings: type) -> None:
    source = (ROOT / "src" / "wsgipool" / "config.py").read_text()

    undocumented = [name for name in kinds_of(settings) if not re.search(rf'    {name}: [^\n]+\n    """[A-Z]', source)]

    assert undocumented == []


def test_the_page_has_every_scheme() -> None:
    assert {scheme for scheme in drivers._MODULES if f"`{scheme}://`" not in page("settings")} == set()


@pytest.mark.parametrize(
    ("heading", "options"),
    [
        ("MySQL and MariaDB", list(mysql_options._OPTIONS)),
        ("PostgreSQL", sorted(set(psycopg_options._OPTIONS) - set(psycopg_options.PARAMETERS))),
        ("SQLite", list(sqlite._OPTIONS)),
    ],
)
def test_the_page_has_every_option_of_a_url(heading: str, options: list[str]) -> None:
    section = page("settings").split(f"\n### {heading}\n")[1].split("\n### ")[0]

    documented = [name for row in rows(section) for name in names_in(row[0])]

    assert set(options) <= set(documented)
    assert len(documented) == len(set(documented))


def defaults_of_mysql() -> dict[str, object]:
    read = mysql_options.read(database("mysql://shop@db/orders"))
    tls = {"ssl_mode": read.tls.mode.value, "ssl_disabled": read.tls.mode is Mode.DISABLED}
    return {**vars(read), **tls, "unix_socket": None}


def defaults_of_postgresql() -> dict[str, object]:
    settings = database("postgresql://shop@db/orders")
    made = drivers.for_database(settings)
    assert isinstance(made, PsycopgDriver)
    own = {"connect_timeout": made._connect_timeout, "autocommit": made._autocommit}
    return {**psycopg_options.read(settings), **own}


def defaults_of_sqlite() -> dict[str, object]:
    return {"timeout": sqlite.DEFAULT_BUSY_TIMEOUT}


def database(url: str) -> DatabaseSettings:
    return DatabaseSettings("NAME", parse_url(url, "test"), "test")


IN_WORDS = ("write_timeout", "sslmode", "prepare_threshold")
"""Options whose default depends on another option or on a library; the page describes it."""


@pytest.mark.parametrize(
    ("heading", "defaults"),
    [("MySQL and MariaDB", defaults_of_mysql), ("PostgreSQL", defaults_of_postgresql), ("SQLite", defaults_of_sqlite)],
)
def test_the_page_has_the_default_of_every_option(heading: str, defaults: Callable[[], dict[str, object]]) -> None:
    section = page("settings").split(f"\n### {heading}\n")[1].split("\n### ")[0]
    documented = {name: row[1] for row in rows(section) for name in names_in(row[0])}

    known = defaults()
    wrong = [
        (name, cell)
        for name, cell in documented.items()
        if name not in IN_WORDS and names_in(cell) != literals(known.get(name))
    ]

    assert wrong == []


def literals(default: object) -> list[str]:
    """Return a default as a URL has it, or nothing if there is none."""
    if default is None:
        return []
    return [
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    ]


# --- Apache ----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_define() -> None:
    drop_in = page("apache").split("\n## wsgipool.conf\n")[1]

    documented = [name for row in rows(drop_in) for name in names_in(row[0])]

    assert set(documented) == DEFINES
    assert len(documented) == len(set(documented))


def test_the_page_takes_the_defaults_of_every_apache_file() -> None:
    with_defaults = {path.name for path in (ROOT / "apache").glob("*.conf") if "<IfDefine !" in path.read_text()}

    assert set(re.findall(r"\{defines-of\} (\S+)", page("apache"))) == with_defaults


# --- The API, errors and metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", wsgipool.__all__)
def test_every_public_name_has_its_entry(name: str) -> None:
    entries = re.findall(r"\.\. auto\w+:: wsgipool\.(\w+)\n", page("api") + page("errors"))

    assert entries.count(name) == 1


def tree_of(error: type[errors.Error], depth: int = 0) -> list[tuple[int, str]]:
    """Return the names of an error and of those below it, each with its depth; without those of DB-API modules."""
    tree = [(depth, error.__name__)]
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__ and child.__bases__ == (error,):
            tree += tree_of(child, depth + 1)
    return tree


def test_the_page_has_the_tree_of_errors() -> None:
    drawn = page("errors").split("```text\n")[1].split("```")[0]
    tree = [(len(line) - len(line.lstrip("│├└─ ")), line.lstrip("│├└─ ")) for line in drawn.splitlines()]

    assert [(indent // 4, name) for indent, name in tree] == tree_of(errors.Error)


def test_every_error_has_its_row_with_its_pep_249_class_and_answer() -> None:
    table = {names_in(row[0])[0]: row for row in rows(page("errors")) if len(row) == 5 and names_in(row[0])}
    expected = {name for _, name in tree_of(errors.Error)} - {"Error", "PoolError", "LockError"}

    assert set(table) == expected
    for name, row in table.items():
        is_pool_error = issubclass(getattr(errors, name), errors.PoolError)
        assert row[4] == ("503" if is_pool_error else "500")
        assert row[3] == (
            "`OperationalError`" if is_pool_error else "`InterfaceError`" if name == "WrongThread" else ""
        )


@pytest.mark.parametrize(
    "names",
    [
        [field.name for field in fields(wsgipool.Stats)],
        [*(field.name for field in fields(LockRow)), "share_contended"],
        list(get_args(CloseReason)),
    ],
    ids=["of a pool", "of a lock", "reasons"],
)
def test_the_page_has_every_metric(names: list[str]) -> None:
    documented = {name for row in rows(page("metrics")) for name in names_in(row[0])}

    assert set(names) <= documented


def test_the_page_has_every_event_of_a_pool() -> None:
    documented = [names_in(row[0])[0] for row in rows(page("logs")) if len(row) == 4 and names_in(row[0])]

    assert documented == ["pool_event", *get_args(Event)]


def test_the_page_has_the_table_of_the_metrics_for_prometheus() -> None:
    section = page("metrics").split("\n## Metrics for Prometheus\n")[1].split("| label |")[0]
    of_pools = ["db.client.connection.pool.name", "address"]
    expected = []
    for metric in every_metric():
        name = prometheus_name(metric) + ("_total" if metric.kind == "counter" else "")
        is_of_pool = list(metric.labels[:2]) == of_pools
        labels = ["pool"] * is_of_pool + [f"`{prometheus_label(each)}`" for each in metric.labels[2 * is_of_pool :]]
        expected.append([f"`{name}`", metric.kind, ", ".join(labels), metric.text.rstrip(".")])

    assert rows(section)[1:] == expected


def test_the_page_says_what_each_label_of_the_metrics_is() -> None:
    section = page("metrics").split("\n## Metrics for Prometheus\n")[1].split("\n## ")[0].split("| label |")[1]
    documented = {name for row in rows(section) for cell in row for name in names_in(cell)}

    assert {prometheus_label(label) for metric in every_metric() for label in metric.labels} <= documented


def test_the_page_has_every_key_of_the_document_of_a_host(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    outcome = CliRunner().invoke(main, ["status", "--json", "--runtime-dir", str(tmp_path)])

    assert sorted(section("## The document of a host")) == sorted(json.loads(outcome.stdout))


def section(heading: str) -> list[str]:
    """Return the names in the first table after a heading."""
    text = page("metrics").split(f"\n{heading}\n")[1].split("\n#")[0]
    return [name for row in rows(text) for name in names_in(row[0])]


def test_the_page_has_every_key_of_the_status_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "runtime_dir", lambda: tmp_path)
    tmp_path.chmod(0o700)

    (body,) = status.application({"QUERY_STRING": "json"}, lambda *_: None)

    assert {*section("### JSON"), *section("## The document of a host")} == set(json.loads(body))


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("#### Keys of a server", ServerSessions),
        ("#### Keys of occupants", Occupants),
        ("#### Keys of others", Sessions),
        ("### Keys of a finding", Finding),
        ("### Keys of a process", ProcessReport),
        ("### Keys of a pool", PoolReport),
        ("### Keys of a thread", Activity),
        ("### Keys of totals", Totals),
        ("### Keys of a budget", BudgetUse),
        ("### Keys of an ended database", ClosedPools),
        ("### Keys of a cache", CacheReport),
        ("### Keys of a sample", Sample),
        ("### Keys of a sampled database", Gauges),
    ],
)
def test_the_page_has_every_key_of_the_document(heading: str, kind: Any) -> None:
    assert sorted(section(heading)) == sorted(field.name for field in fields(kind))


def test_the_page_has_every_key_of_a_database() -> None:
    (database,) = document(reports.host(reports.process()), LocksReport())["databases"]

    assert sorted(section("### Keys of a database")) == sorted(database)


def test_the_page_has_every_key_of_the_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = reports.full_pool(budget=reports.budget())
    report = reports.host(reports.process(pools=[pool]), history=[reports.sample(10, orders={})])
    monkeypatch.setattr(pools, "runtime_dir", lambda: Path("/run/wsgipool"))
    monkeypatch.setattr(reading, "host", lambda _: (report, LocksReport()))
    (body,) = status.application({"QUERY_STRING": "auto"}, lambda *_: None)

    shown = {line.split(": ")[0].replace("[orders]", "[DATABASE]") for line in body.decode().splitlines()}

    assert shown - {"Finding[pool-exhausted]", "Finding[long-holder]"} <= set(section("### Plain text"))
