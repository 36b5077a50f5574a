from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgipool import ConfigError, drivers
from wsgipool.config import DatabaseURL, load, parse_url

URL = "mysql://shop@db.example.com/orders"


def complaint(url: str) -> str:
    """Return a URL's error message, which has one line and nothing of the password."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url, "wsgipool.toml: databases.orders.url")
    message = str(caught.value)
    assert message.startswith("wsgipool.toml: databases.orders.url: ")
    assert message.isprintable()
    assert len(message) <= 500
    assert "s3cret" not in message
    return message.removeprefix("wsgipool.toml: databases.orders.url: ")


def read(url: str) -> DatabaseURL | str:
    """Return a URL's parts, or the reason of its refusal."""
    try:
        return parse_url(url)
    except ConfigError as error:
        return str(error)


def test_a_url_has_parts() -> None:
    url = parse_url("mysql://shop:s3cret@db.example.com:3307/orders?charset=utf8mb4&read_timeout=60")

    assert url == DatabaseURL(
        scheme="mysql",
        user="shop",
        password="s3cret",
        host="db.example.com",
        port=3307,
        database="orders",
        options={"charset": "utf8mb4", "read_timeout": "60"},
    )


def test_a_url_needs_only_a_host_and_a_database() -> None:
    assert parse_url(URL.replace("shop@", "")) == DatabaseURL("mysql", host="db.example.com", database="orders")


def test_the_parts_of_a_url_are_unquoted() -> None:
    url = parse_url("mysql://sh%40p:a%2Fb%23c%40d%3Ae%3Ff%25g%5B%5D+%C3%BC@host/or%20ders")

    assert (url.user, url.password, url.database) == ("sh@p", "a/b#c@d:e?f%g[]+ü", "or ders")


def test_a_sqlite_url_with_four_slashes_has_an_absolute_path() -> None:
    assert parse_url("sqlite:////var/lib/shop.db").database == "/var/lib/shop.db"


def test_a_url_as_text_has_neither_password_nor_options() -> None:
    url = parse_url("mysql://shop:s3cret@db.example.com:3307/orders?charset=utf8mb4")

    assert str(url) == "mysql://shop@db.example.com:3307/orders"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        (
            "mysql://shop@host:x33/orders",
            "its port is not a number from 1 to 65535; write mysql://user:password@host:3306/database",
        ),
        ("mysql://shop@host:99999/orders", "its port is not a number"),
        ("mysql://[host/orders", "the host is not valid; write mysql://"),
        ("", "no scheme; write mysql://user@host/database, postgresql://user@host/database or sqlite:////path/file.db"),
        ("/var/lib/shop.db", "no scheme; write"),
        ("mysql://shop@host/orders#1", "in a password write %23"),
    ],
)
def test_the_error_for_a_wrong_url_has_its_place_and_the_remedy(url: str, remedy: str) -> None:
    assert remedy in complaint(url)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://shop:s3cret@db/orders",
        "mysql://shop:s3cret/@db/orders",
        "mysql://shop:/s3cret@db/orders",
        "mysql://shop:12/s3cret@db/orders",
        "mysql://shop:12/s3cret@db",
        "mysql:////shop:s3cret@db/orders",
        "sqlite:///shop:s3cret@db/orders",
        "sqlite://shop:12//s3cret@db/orders",
        "mysql://shop:s3cret#@db/orders",
        "mysql://shop:#s3cret@db/orders",
        "mysql://shop:12#s3cret@db/orders",
        "mysql://shop:s3cret?@db/orders",
        "mysql://shop:?s3cret@db/orders",
        "mysql://shop:s3cret@@db/orders",
        "mysql://shop:@s3cret@db/orders",
        "mysql://shop:s3cret[@db/orders",
        "mysql://shop:s3cret%@db/orders",
        "mysql://shop:s3cret@db:port/orders",
        "mysql://shop:s3cret@db:99999/orders",
        "mysql:/shop:s3cret@db/orders",
        "mysql:shop:s3cret@db/orders",
        "mysql:///shop:s3cret@db/orders",
        "shop:s3cret@db/orders",
        "//shop:s3cret@db/orders",
        "postgres://shop:s3cret@db/orders",
        "sqlite://shop:s3cret@db/orders",
        "mysql://shop@db/orders?password=s3cret",
        "mysql://shop@db/orders?passwd=s3cret",
        "mysql://shop@db/orders?ssl_key_password=s3cret",
    ],
)
def test_no_message_and_no_repr_has_the_password(url: str) -> None:
    shown = []
    try:
        read = load({"databases": {"orders": {"url": url}}})
        shown += [repr(read), str(read.databases["orders"].url), repr(read.databases["orders"].url)]
        driver = drivers.for_database(read.databases["orders"])
        shown += [repr(driver), driver.address]
    except ConfigError as error:
        shown += [str(error), repr(error)]

    assert not [text for text in shown if "s3cret" in text]


# --- text is kept, or refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a b", "a b"),
        ("%20ab%20", " ab "),
        ("p@ss", "p@ss"),
        ("a:b", "a:b"),
        ("[a]b[", "[a]b["),
        ("a&b=c;d", "a&b=c;d"),
        ("p%25w", "p%w"),
        ("%25FC", "%FC"),
        ("a%0Ab%09", "a\nb\t"),
        ("%c3%bc%E2%82%AC", "ü€"),
        ("ü", "ü"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("S3CRET", "S3CRET"),
        ("", ""),
    ],
)
def test_a_password_is_kept(text: str, password: str) -> None:
    assert parse_url(f"mysql://shop:{text}@db/orders").password == password


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SET time_zone='+00:00'", "SET time_zone='+00:00'"),
        ("/etc/ssl/c++/ca.pem", "/etc/ssl/c++/ca.pem"),
        ("SET @a=1; SET @b=2", "SET @a=1; SET @b=2"),
        ("a=b", "a=b"),
        ("a?b", "a?b"),
        ("%26%23%40%3D%0A", "&#@=\n"),
        (" x", " x"),
        ("", ""),
    ],
)
def test_the_value_of_an_option_is_kept(text: str, value: str) -> None:
    url = parse_url(f"mysql://shop@db/orders?init_command={text}&charset=utf8mb4")

    assert url.options == {"init_command": value, "charset": "utf8mb4"}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("DB.Example.com", "DB.Example.com", None),
        ("db_1.internal.:3306", "db_1.internal.", 3306),
        ("bücher.example", "bücher.example", None),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]", "::1", None),
        ("[2001:DB8::1]:65535", "2001:DB8::1", 65535),
        ("[fe80::1%25eth0]:3306", "fe80::1%eth0", 3306),
        ("%2FRun%2Fpostgresql", "/Run/postgresql", None),
        ("%2Frun%2Fpostgresql:5433", "/run/postgresql", 5433),
        ("a.example,b.example", "a.example,b.example", None),
        ("", None, None),
    ],
)
def test_a_host_and_a_port_are_kept(text: str, host: str | None, port: int | None) -> None:
    url = parse_url(f"postgresql://shop@{text}/orders")

    assert (url.host, url.port) == (host, port)


@pytest.mark.parametrize("host", ["[::1]:3307", "%2Frun%2Fpostgresql", "DB:1"])
def test_the_text_of_a_url_can_be_read_again(host: str) -> None:
    url = parse_url(f"postgresql://shop@{host}/orders")

    assert parse_url(str(url)) == url


@given(user=st.text(min_size=1), password=st.text(), value=st.text())
def test_a_percent_encoded_part_is_kept_or_refused(user: str, password: str, value: str) -> None:
    try:
        text = (
            f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@db/orders?init_command={quote(value, safe='')}"
        )
    except UnicodeEncodeError:
        return  # a surrogate, which UTF-8 does not have
    try:
        url = parse_url(text)
    except ConfigError:
        assert not user.isprintable() or "\0" in password + value
    else:
        assert (url.user, url.password, url.options["init_command"]) == (user, password, value)


@pytest.mark.parametrize("text", ["%FC", "%a0", "ab%a0cd", "%C3", "%ED%A0%80", "%F8%88%80%80%80", "%C0%80"])
@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("mysql://{}:s3cret@db/orders", "the user"),
        ("mysql://shop:s3cret{}@db/orders", "the password"),
        ("mysql://shop:s3cret@{}/orders", "the host"),
        ("mysql://shop:s3cret@db/{}", "the database"),
        ("mysql://shop:s3cret@db/orders?{}=1", "the name of option 1"),
        ("mysql://shop:s3cret@db/orders?charset={}", "the option charset"),
        ("sqlite:////{}", "the path of the file"),
    ],
)
def test_bytes_that_are_not_utf8_are_refused(url: str, part: str, text: str) -> None:
    assert complaint(url.format(text)) == (
        f"{part} has percent-encoded bytes that are not UTF-8 (ü is %C3%BC); a % is written %25"
    )


@pytest.mark.parametrize("text", ["100%", "%", "50%off", "p%zz", "%4", "%\N{FULLWIDTH DIGIT FOUR}1", "%+1", "%%41"])
@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("mysql://{}:s3cret@db/orders", "the user"),
        ("mysql://shop:s3cret{}@db/orders", "the password"),
        ("mysql://shop:s3cret@db/{}", "the database"),
        ("mysql://shop:s3cret@db/orders?charset={}", "the option charset"),
    ],
)
def test_a_percent_sign_that_encodes_nothing_is_refused(url: str, part: str, text: str) -> None:
    assert complaint(url.format(text)) == (
        f"{part} has a '%' without two hexadecimal digits after it; a % is written %25"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://shop%00:s3cret@db/orders",
        "mysql://shop:s3cret%00@db/orders",
        "mysql://shop:s3cret@db%00/orders",
        "mysql://shop:s3cret@db/orders%00",
        "mysql://shop:s3cret@db/orders?init_command=%00",
        "mysql://shop:s3cret@db/orders?a%00=1",
        "mysql://sh%0Aop:s3cret@db/orders",
        "mysql://shop:s3cret@db/ord%09ers",
        "mysql://shop:s3cret@db/ord%C2%85ers",
        "mysql://shop:s3cret@db/ord%E2%80%A8ers",
        "mysql://shop:s3cret@db%0D%0A/orders",
        "sqlite:////var/lib/sh%00op.db",
    ],
)
def test_nul_and_invisible_characters_are_refused(url: str) -> None:
    assert complaint(url).endswith("has a NUL, a line end or another invisible character; remove it")


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize(
    "url", ["my{}sql://shop@db/a", "mysql://shop:s3cret{}@db/a", "mysql://shop@d{}b/a", URL + "{}x"]
)
def test_a_control_character_in_a_url_is_refused(url: str, character: str) -> None:
    assert f"control character (U+{ord(character):04X})" in complaint(url.format(character))


@pytest.mark.parametrize(
    "url", [URL + "\n", URL + "\r\n", " " + URL, URL + " ", "\t" + URL, URL + "\N{NO-BREAK SPACE}"]
)
def test_a_blank_around_a_url_is_refused(url: str) -> None:
    assert complaint(url).startswith("it begins or ends with a blank or a line end; remove that")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("\ufeff" + URL, "it begins with a byte order mark (U+FEFF); remove that"),
        ("mysql://shop:s3cret\udcfc@db/orders", "it has a character that is not Unicode; write UTF-8"),
        ("mysql://shop:s3cret@db/" + "x" * 70_000, "it is longer than 65536 characters"),
        ("mysql:/shop:s3cret@db/orders", "no scheme; write mysql://"),
        ("mysql:shop:s3cret@db/orders", "no scheme; write mysql://"),
        ("my sql://shop:s3cret@db/orders", "no scheme; write mysql://"),
        ("://shop:s3cret@db/orders", "no scheme; write mysql://"),
        ("jdbc:mysql://db/orders?user=shop&password=s3cret", "jdbc: is for Java; leave it out"),
        ("mysql://:s3cret@db/orders", "no user before the '@'; write mysql://user@host/database"),
        ("mysql://@db/orders", "no user before the '@'"),
        ("mysql://shop:s3cret@db/orders/", "a '/' after the name of the database; leave it out, or write %2F"),
        (
            "mysql://shop:s3cret@::1/orders",
            "an IPv6 address needs brackets; write mysql://user@[::1]:3306/database",
        ),
        ("mysql://shop@[::1/orders", "its port is not a number from 1 to 65535"),
        ("mysql://shop@[db]/orders", "the brackets do not hold an IPv6 address; write [::1]"),
        ("mysql://shop@[::1%eth0]/orders", "the host has a '%' without two hexadecimal digits after it"),
        ("mysql://shop@[fe80::1%25et%20h0]/orders", "the brackets do not hold an IPv6 address"),
        ("mysql://shop@[]/orders", "the brackets do not hold an IPv6 address"),
        (f"mysql://{'x' * 300}:s3cret@db/orders", "the user is longer than 255 characters"),
        (f"mysql://shop:s3cret@db/{'x' * 300}", "the database is longer than 255 characters"),
        (f"mysql://shop:s3cret@%2F{'x' * 300}/orders", "the host is longer than 255 characters"),
        (f"sqlite:////{'x' * 5000}", "the path of the file is longer than 4096 characters"),
        ("mysql://shop@d b/orders", "the host is not valid"),
        ("mysql://shop@db..example/orders", "the host is not valid"),
        (f"mysql://shop@{'x' * 64}/orders", "the host is not valid"),
        (f"mysql://shop@{'x.' * 200}x/orders", "the host is longer than 255 characters"),
        ("mysql://shop@a,,b/orders", "the host is not valid"),
        ("mysql://shop@(db)/orders", "the host is not valid"),
        ("mysql://shop@db/orders?&charset=utf8mb4", "option 1 is empty"),
        ("mysql://shop@db/orders?charset=utf8mb4&", "option 2 is empty"),
        (
            "mysql://shop@db/orders?a=1&&b=2",
            "option 2 is empty: leave '?' or '&' out, or write %26 for an '&' in a value",
        ),
        ("mysql://shop@db/orders?" + "a=1&" * 16_000, "it has more than 100 options"),
        ("mysql://shop@db/orders?autocommit", "the option autocommit has no '='; write name=value"),
        ("mysql://shop@db/orders?=1", "option 1 has no proper name"),
        ("mysql://shop@db/orders?a b=1", "option 1 has no proper name"),
        ("mysql://shop@db/orders?charset=latin1&charset=utf8mb4", "the option charset is given twice; keep one"),
        ("mysql://shop@db/orders?charset=latin1&ch%61rset=utf8mb4", "the option charset is given twice; keep one"),
    ],
)
def test_a_text_that_is_no_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    assert complaint(url).startswith(reason)


@pytest.mark.parametrize(
    "port",
    ["", "0", "65536", "99999", "-1", "+33", "3_3", " 33", "33 6", "1e3", "0x33", "٣٣٠٦", "033", "33%30", "9" * 5000],
)
@pytest.mark.parametrize("host", ["db", "[::1]"])
def test_a_port_is_a_number_from_1_to_65535(host: str, port: str) -> None:
    assert complaint(f"mysql://shop:s3cret@{host}:{port}/orders").startswith(
        "its port is not a number from 1 to 65535; write mysql://user:password@host:3306/database"
    )


def test_a_scheme_may_have_capital_letters() -> None:
    assert parse_url("MySQL://shop@db/orders").scheme == "mysql"


@pytest.mark.parametrize("url", [None, True, 3, b"mysql://db/orders", ["mysql://db/orders"], {}])
def test_a_url_that_is_no_string_is_refused(url: str) -> None:
    assert complaint(url).startswith("it is ")


# --- passwords with unencoded characters ------------------------------------------------------------------------------

PIECES = ["s3", "cret", ":", "/", "?", "#", "[", "]", "@", "%", "&", "=", "+", ";", "12"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8))
def test_no_piece_of_a_password_is_in_a_message_or_passes_for_another_part(pieces: list[str]) -> None:
    password = "".join(pieces)

    url = read(f"mysql://shop:{password}@db/orders?charset=utf8mb4")

    if isinstance(url, str):
        assert "s3" not in url
        assert "cret" not in url
    else:
        kept = unquote(password, errors="strict")
        assert url == DatabaseURL("mysql", "shop", kept, "db", None, "orders", {"charset": "utf8mb4"})


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u@h/d?ssl_key_password=a&s3cret&charset=utf8mb4",
        "mysql://u@h/d?ssl_key_password=a&s3cret=b",
        "mysql://u@h/d?ssl_key_password=a&s3cret=b&s3cret=c",
        "mysql://u@h/d?password=s3cret&password=s3cret",
        "mysql://a@b:12?s3cret=x@db/o",
        "mysql://u:p@ss/wo?s3cret=1@host/db",
        "mysql://u:p@ss?s3cret@host/db",
    ],
)
def test_an_option_that_may_be_a_piece_of_a_password_is_not_named(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        drivers.for_database(load({"databases": {"orders": {"url": url}}}).databases["orders"])

    assert "s3cret" not in str(caught.value)


# --- any text --------------------------------------------------------------------------------------------------------

PARTS = [
    *(
        "mysql",
        "sqlite",
        "postgresql",
        "://",
        ":",
        "//",
        "/",
        "@",
        "?",
        "&",
        "=",
        "#",
        "%",
        "%2F",
        "%00",
        "%FC",
        "[::1]",
    ),
    *(
        "user",
        "db",
        "3306",
        "timeout",
        "5",
        "init_command",
        "+",
        " ",
        "\t",
        "\n",
        "\0",
        "\ufeff",
        "\udcfc",
        ",",
        "[",
        "]",
    ),
]


@given(st.text() | st.lists(st.sampled_from(PARTS), max_size=20).map("".join))
def test_any_text_is_a_url_or_a_config_error_of_one_line(text: str) -> None:
    url = read(text)

    assert str(url).isprintable()
    assert isinstance(url, DatabaseURL) or len(url) <= 500
