"""Wrong values of every setting: each is a ConfigError of one short line that names the key and its place."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgipool import ConfigError, drivers
from wsgipool.config import BudgetSettings, DatabaseSettings, Settings, load
from wsgipool.hints import hint

URL = "mysql://shop@db.example.com/orders"
PLACE = "the mapping given to configure(): "
HUGE = 10**5000
LONG = "x" * 10_000_000


class Hostile:
    """An object of which every method raises."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("s3cret")

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __format__ = __len__ = __iter__ = __index__ = __float__ = (
        _refuse
    )
    __int__ = __contains__ = __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __fspath__ = _refuse


class HostileMapping(Mapping[str, object]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> object:
        raise RuntimeError("s3cret")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("s3cret")

    def __len__(self) -> int:
        return 1


CYCLE: list[object] = []
CYCLE.append(CYCLE)
DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]
ODD_CLASS = type("a\nb" * 1000, (), {})

OTHERS: list[Any] = [
    *({"a": 3}, {}, CYCLE, DEEP, b"3", bytearray(b"3"), object(), Hostile(), ODD_CLASS(), lambda: 3),
    *(3j, Decimal(3), Fraction(3), datetime.date(2026, 1, 1), datetime.time(1), datetime.timedelta(3)),
]
OBJECTS: list[Any] = [*OTHERS, [3], (3,), {3}]
TEXTS: list[Any] = ["", "3", " 3 ", "three", "3_0", "٣", "3\n", "\0", "\ud800", LONG]
NO_COUNT: list[Any] = [*OBJECTS, *TEXTS, None, True, False, -1, -HUGE, 1_000_001, HUGE, 1.0, 2.5, 1e999, float("nan")]
NO_SECONDS: list[Any] = [
    *OBJECTS, *TEXTS, None, True, False, -1, -HUGE, HUGE, -0.1, -5e-324, 86_400.1, 86_401, 1e999, -1e999, float("nan"),
]  # fmt: skip
NO_BOOLEAN: list[Any] = [*OBJECTS, *TEXTS, None, 0, 1, HUGE, 1.0, float("nan"), "true", "false", "yes"]
NO_TEXT: list[Any] = [*OBJECTS, True, 0, 3, HUGE, 1.5, float("inf")]
NO_PATH: list[Any] = [*NO_TEXT, "", " ", " a", "a ", "a\n", "a\nb", "\0", "a\tb", "\x7f", "\ud800"]

WRONG: dict[str, list[Any]] = {
    "url": [*NO_TEXT, *TEXTS, "mysql", "mysql:/shop:s3cret@db/orders", "mysql://shop:s3cret@db:0/orders", URL + "\n"],
    "password_file": [*NO_PATH, "/", "/missing/s/e/c", "/dev/zero", "x" * 300, "a/" * 5000, LONG],
    "password_env": [*NO_TEXT, "", " ", "A B", "A=B", "A\0", "a-b", "1A", "Ä", "\ud800", "s3cret/#", LONG],
    "max_size": [0, *NO_COUNT, "threads/0", "threads/", "threads/-1", "threads/+2", "Threads", "threads/" + "9" * 5000],
    "min_size": NO_COUNT,
    "timeout": NO_SECONDS,
    "max_waiting": NO_COUNT,
    "max_connecting": [0, *NO_COUNT],
    "check_after": NO_SECONDS,
    "log_slow": NO_SECONDS,
    "max_idle": NO_SECONDS,
    "max_lifetime": NO_SECONDS,
    "reset": [*OBJECTS, *TEXTS, None, True, False, 0, "Rollback", "rollback ", "all", LONG],
    "pipeline": NO_BOOLEAN,
    "close_returns": NO_BOOLEAN,
    "close_on_errors": [
        *OTHERS,
        *(None, True, 3, "25006", LONG, [0], [65536], [HUGE], [-1], [True], [1.0], [None], ["2500"], ["25 06"]),
        *(["2500a"], ["٢٥٠٠٦"], [[]], [{}], [Hostile()], [LONG], [1] * 1001, range(3)),
    ],
    "debug": NO_BOOLEAN,
}  # fmt: skip

WRONG_BUDGET: dict[str, list[Any]] = {
    "connections": [0, 16_385, "AUTO", "auto ", *NO_COUNT],
    "hosts": [0, *NO_COUNT],
    "reserve": NO_COUNT,
}


def refusal(source: Any, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, {} if environment is None else environment)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 500
    assert "s3cret" not in message
    return message


def of_database(**table: object) -> dict[str, object]:
    return {"databases": {"orders": {"url": URL, **table}}}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}-{place}") for key in table for place, value in enumerate(table[key])]


def numbered(values: list[Any]) -> list[Any]:
    """Return parameters that are named by their place, because not all of them can be written."""
    return [pytest.param(value, id=str(place)) for place, value in enumerate(values)]


@pytest.mark.parametrize(("key", "value"), cases(WRONG))
def test_a_wrong_value_of_a_database_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    assert refusal(of_database(**{key: value})).startswith(f"{PLACE}databases.orders.{key}")


@pytest.mark.parametrize(("key", "value"), cases(WRONG_BUDGET))
def test_a_wrong_value_of_the_budget_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    message = refusal({"budget": {"connections": "auto", key: value}, **of_database()})

    assert message.startswith(f"{PLACE}budget.{key} must be ")


@pytest.mark.parametrize(
    "value", numbered([*NO_PATH, "run", "./run", "~/run", "//../x" * 3000, "/" + "x" * 300, "/dev/null", LONG])
)
def test_a_wrong_runtime_dir_is_refused_by_the_name_of_its_key(value: Any) -> None:
    assert refusal({"runtime_dir": value, **of_database()}).startswith(f"{PLACE}runtime_dir")


@pytest.mark.parametrize(
    "value",
    numbered(
        [
            *(None, True, 3, "pymysql", b"pymysql", {}, {"pymysql": True}, {"pymysql"}, CYCLE, Hostile(), LONG),
            *([3], [None], [["pymysql"]], ["PyMySQL"], ["pymysql", "psycopg"], [b"pymysql"], [""], [Hostile()], [LONG]),
        ]
    ),
)
def test_a_wrong_install_is_refused_by_the_name_of_its_key(value: Any) -> None:
    assert refusal({"install": value, **of_database()}).startswith(f"{PLACE}install must be ")


@pytest.mark.parametrize(
    "value", numbered([None, True, 3, "x", [], [{}], b"x", CYCLE, Hostile(), datetime.date(2026, 1, 1), LONG])
)
@pytest.mark.parametrize("key", ["databases", "budget", "orders"])
def test_what_is_no_table_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    source = {"databases": {"orders": value}} if key == "orders" else {**of_database(), key: value}

    assert f"{key} must be a table, [" in refusal(source)


def test_every_setting_has_its_wrong_values() -> None:
    mine = {field.name for field in dataclasses.fields(DatabaseSettings)} - {"name", "origin"}
    of_budget = {field.name for field in dataclasses.fields(BudgetSettings)}
    of_all = {field.name for field in dataclasses.fields(Settings)} - {"origin"}

    assert (set(WRONG), set(WRONG_BUDGET)) == (mine, of_budget)
    assert of_all == {"auth", "databases", "budget", "install", "runtime_dir"}
    assert min(map(len, [*WRONG.values(), *WRONG_BUDGET.values()])) >= 15


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 1, 0.5, 86_400])
def test_seconds_may_be_whole_or_not(value: float) -> None:
    timeout = load(of_database(timeout=value)).databases["orders"].timeout

    assert str(timeout) == str(abs(float(value)))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", numbered([None, 3, True, b"url", ("url",), 1.5, frozenset(), "", " url", "URL", "url\n", "é" * 999, LONG])
)
@pytest.mark.parametrize("table", ["", "budget", "orders"])
def test_a_key_that_is_no_setting_is_refused(table: str, key: Any) -> None:
    source: dict[Any, Any] = {"budget": {"connections": "auto"}, **of_database()}
    {"": source, "budget": source["budget"], "orders": source["databases"]["orders"]}[table][key] = 1

    assert "is not a setting; " in refusal(source)


@pytest.mark.parametrize(
    "name", numbered([None, 3, True, b"orders", ("orders",), "", " ", " a", "a ", "a\nb", "\0", "\ud800", LONG])
)
def test_a_name_that_no_database_can_have_is_refused(name: Any) -> None:
    message = refusal({"databases": {name: {"url": URL}}})

    assert message.startswith(f"{PLACE}databases: ")
    assert message.endswith(
        "cannot be the name of a database; the NAME in [databases.NAME] has 1 to 100 visible characters"
    )


@pytest.mark.parametrize(
    "name", ["orders", "my orders", "my.orders", 'a "b"', "bücher", "\N{GRINNING FACE}", "mysql://x"]
)
def test_a_database_may_have_any_visible_name(name: str) -> None:
    assert list(load({"databases": {name: {"url": URL}}}).databases) == [name]


def test_a_thousand_databases_are_read_and_ten_thousand_refused() -> None:
    def some(number: int) -> dict[str, object]:
        return {"databases": {f"orders{place}": {"url": URL} for place in range(number)}}

    assert len(load(some(1000)).databases) == 1000
    assert refusal(some(10_000)) == f"{PLACE}databases has 10000 tables; at most 1000 can be"


def test_a_url_in_the_place_of_a_key_is_not_repeated() -> None:
    refusal({"mysql://shop:s3cret@db/orders": {}})
    refusal({"databases": {"mysql://shop:s3cret@db/orders": 3}})
    refusal({"databases": {"orders": {"mysql://shop:s3cret@db/orders": 3}}})


@pytest.mark.parametrize(
    "source", numbered([None, True, 3, 1.5, "", b"", b"x", [], [("databases", {})], object(), Hostile()])
)
def test_what_is_no_file_and_no_mapping_is_refused(source: Any) -> None:
    assert refusal(source).startswith("the settings are ")


@pytest.mark.parametrize(
    "source", numbered(["\0", "a\0b", "a\nb", "\ud800", "x" * 300, "a/" * 5000, LONG, Path("\0"), "/dev/zero"])
)
def test_a_name_that_no_file_has_is_refused(source: Any) -> None:
    refusal(source)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_mapping_that_cannot_be_read_is_refused(depth: int) -> None:
    source: Any = HostileMapping()
    for key in ["orders", "databases"][2 - depth :]:
        source = {key: source}

    assert "RuntimeError" in refusal(source)


def test_a_table_that_contains_itself_is_refused() -> None:
    table: dict[str, Any] = {"url": URL}
    table["databases"] = table
    table["orders"] = table

    refusal(table)
    refusal({"databases": {"orders": table}})


def test_a_mapping_can_be_read_where_the_working_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert list(load(of_database()).databases) == ["orders"]
    assert refusal("wsgipool.toml").startswith("wsgipool.toml does not exist; ")


# --- numbers that contradict each other ------------------------------------------------------------------------------


def test_a_min_size_above_the_budget_is_refused() -> None:
    message = refusal({"budget": {"connections": 4}, **of_database(min_size=5)})

    assert message == f"{PLACE}databases.orders.min_size = 5 is more than budget.connections, which is 4"


def test_a_number_is_no_error_of_postgresql() -> None:
    message = refusal(of_database(url="postgresql://shop@db/orders", close_on_errors=[25006]))

    assert message.endswith('close_on_errors: PostgreSQL has no error 25006; write an SQLSTATE, in quotes: "25006"')


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xef\xbb\xbf[databases.a]", "begins with a byte order mark; save it as UTF-8 without one"),
        (b"#" * ((1 << 20) + 1), "is larger than 1024 KiB"),
        (b"a" + b".a" * 50_000 + b" = 1", "line 1 has more than 50 dots; no setting has so many"),
        (b"\n[a" + b'."a"' * 200 + b"]", "line 2 has more than 50 dots"),
        (b"a = " + b"[" * 100_000, "has arrays or tables too deep in each other"),
        (b"a = " + b"{a=" * 10_000, "has arrays or tables too deep in each other"),
        (b"a = " + b"9" * 5_000, "has a number with too many digits"),
        (b"k" * 500_000 + b" = 1", "is not a setting"),
        ((b"[" + b"k" * 250_000 + b"]\n") * 2, "is not valid TOML: Cannot declare"),
        (b"[databases.a]\rurl = 'mysql://db/a'", "is not valid TOML: "),
        (b"[databases.a]\nurl = 'mysql://shop:s3cret\0@db/a'", "is not valid TOML: "),
        (b"[databases.a]\nurl = 'mysql://shop:s3cret@db/a", "is not valid TOML: "),
        (b'[databases.a]\nurl = "mysql://shop:s3cret@db/a\\q"', "is not valid TOML: "),
        (b"[databases.a]\nurl = 'mysql://db/a'\nmax_size = 0x" + b"f" * 5000, "is a number of 20000 bits"),
        (b"[databases.a]\nurl = 'mysql://db/a'\ntimeout = 1e999", "is inf"),
    ],
)
def test_a_file_of_bounded_size_is_read_or_refused_soon(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "wsgipool.toml"
    path.write_bytes(content)

    message = refusal(path)

    assert message.startswith(str(path))
    assert reason in message


def test_a_line_of_dots_in_a_comment_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"
    path.write_text(f"  # {'.' * 200}\r\n[databases.orders]\r\nurl = '{URL}'\r\n", newline="")

    assert list(load(path).databases) == ["orders"]


def test_a_fifo_in_the_place_of_the_settings_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wsgipool.toml")

    assert refusal(tmp_path / "wsgipool.toml") == f"{tmp_path}/wsgipool.toml is a FIFO; name a regular file"


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"s3cret\r", "s3cret"),
        (b" s3cret \t\n", " s3cret \t"),
        (b"#%+s3cret/@", "#%+s3cret/@"),
        ("ü€".encode(), "ü€"),
        (b"x" * 65_536, "x" * 65_536),
    ],
)
def test_a_password_file_has_one_line_which_is_the_password(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)

    assert load(of_database(password_file=file)).databases["orders"].url.password == password


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; write the password there, or leave the setting out if there is none"),
        (b"\n", "is empty"),
        (b"s3cret\n\n", "has more than one line; it must have the password and nothing else"),
        (b"s3cret\nmore", "has more than one line"),
        (b"\ns3cret", "has more than one line"),
        (b"s3cret\rmore\r", "has more than one line"),
        (b"s3cret\0", "has a NUL, which no password can have"),
        (b"\xef\xbb\xbfs3cret", "begins with a byte order mark"),
        (b"s3cret\xfc", "is not UTF-8 (byte 7)"),
        ("s3cret".encode("utf-16"), "begins with a byte order mark"),
        (b"s3cret" * 20_000, "is larger than 64 KiB"),
    ],
)
def test_a_password_file_with_anything_else_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)

    message = refusal(of_database(password_file=str(file)))

    assert message.startswith(f"{PLACE}databases.orders.password_file: {file} {reason}")


def test_a_password_file_that_is_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")

    assert refusal(of_database(password_file=tmp_path / "password")).endswith("password is a FIFO; name a regular file")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty; write the password there, or leave the setting out if there is none"),
        ("s3cret\0", "has a NUL, which no password can have"),
        ("s3cret\udcfc", "is not UTF-8"),
        ("s3cret" * 20_000, "is longer than 65536 characters"),
    ],
)
def test_a_variable_that_is_no_password_is_refused(value: str, reason: str) -> None:
    message = refusal(of_database(password_env="ORDERS_PASSWORD"), {"ORDERS_PASSWORD": value})

    assert message == f"{PLACE}databases.orders.password_env: the variable ORDERS_PASSWORD {reason}"


def test_a_password_from_a_variable_is_kept() -> None:
    read = load(of_database(password_env="P"), {"P": " %41+s3cret \n"})

    assert read.databases["orders"].url.password == " %41+s3cret \n"


# --- what others call it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("pool_size", "write max_size"),
        ("max_overflow", "write max_size, the sum of pool_size and max_overflow"),
        ("pool_recycle", "write max_lifetime"),
        ("pool_pre_ping", "write check_after"),
        ("pool_timeout", "write timeout"),
        ("CONN_MAX_AGE", "write max_lifetime"),
        ("CONN_HEALTH_CHECKS", "write check_after"),
        ("ENGINE", "the scheme of the url names the driver"),
        ("NAME", "the name of the pool is the NAME of [databases.NAME]; that of the database is a part of the url"),
        ("HOST", "it is a part of the url: mysql://user@host:3306/database"),
        ("user", "it is a part of the url"),
        ("password", "the password stands in the url, or in the file that password_file names"),
        ("passwd", "the password stands in the url"),
        ("db", "it is a part of the url"),
        ("maxconnections", "write max_size"),
        ("mincached", "write min_size"),
        ("maxcached", "write max_size"),
        ("maxusage", "write max_lifetime"),
        ("num_workers", "write max_connecting"),
        ("maximumPoolSize", "write max_size"),
        ("charset", "write it as an option of the url: mysql://user@host/database?charset=..."),
        ("connect-timeout", "write it as an option of the url: mysql://user@host/database?connect_timeout=..."),
        ("maxsize", "did you mean max_size?"),
        ("MAX_SIZE", "did you mean max_size?"),
    ],
)
def test_what_others_call_a_setting_gets_the_name_that_it_has_here(key: str, remedy: str) -> None:
    assert f"databases.orders.{key} is not a setting; {remedy}" in refusal(of_database(**{key: "s3cret"}))


def test_no_setting_of_ours_has_a_hint_to_another() -> None:
    assert [key for key in WRONG if hint(key)] == []


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ({"url": URL}, "the settings of a database stand in its table, [databases.NAME]"),
        ({"pool_size": 3}, "the settings of a database stand in its table, [databases.NAME]"),
        ({"orders": {"url": URL}}, "write the table as [databases.orders]"),
        ({"DATABASES": {}}, "did you mean databases?"),
        ({"budget": {"max_connections": 3}}, "write connections"),
    ],
)
def test_a_setting_in_the_wrong_place_gets_the_right_one(source: dict[str, object], remedy: str) -> None:
    assert refusal({**source, **of_database()}).endswith(f"is not a setting; {remedy}")


# --- whatever it is --------------------------------------------------------------------------------------------------

SCHEMES = ("sqlite", "mysql", "mysql+mysqlclient", "postgresql")
"""Of the databases that are read, those whose drivers must take them or raise a ConfigError, too."""

KEYS = ["databases", "budget", "install", "runtime_dir", "orders", *WRONG, *WRONG_BUDGET]
PIECES = [
    "mysql",
    "sqlite",
    "://",
    "//",
    "/",
    ":",
    "@",
    "?",
    "&",
    "=",
    "%",
    "%41",
    "db",
    "timeout",
    "5",
    "nan",
    "[::1]",
]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=3)
    | st.dates()
    | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
    | st.sampled_from([URL, "sqlite:////srv/shop.db", "sqlite:////srv/shop.db?timeout=", "threads", "auto", "session"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(KEYS) | st.text(), ANYTHING, max_size=3)
    | st.fixed_dictionaries(
        {"databases": st.fixed_dictionaries({"orders": st.dictionaries(st.sampled_from(KEYS), ANYTHING)})}
    )
    | st.builds(
        lambda url, more: of_database(**{**more, "url": url}),
        ANYTHING,
        st.dictionaries(st.sampled_from(KEYS), ANYTHING),
    )
)
def test_any_mapping_is_read_or_a_config_error_of_one_line(source: dict[str, object]) -> None:
    try:
        read = load(source, {})
        for database in read.databases.values():
            if database.url.scheme in SCHEMES:
                drivers.for_database(database)
        message = ""
    except ConfigError as error:
        message = str(error)

    assert message.isprintable()
    assert len(message) <= 500
