"""For every option of every scheme, a wrong value is refused in one line that names it, before any connect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from wsgipool import ConfigError, config
from wsgipool.drivers import for_database

NEVER = ["", " ", "\0", "\x1b[31m", "x" * 300]
"""Values that are wrong for every option."""
NO_NUMBER = [*NEVER, "0", "-1", "1e9", "1e400", "inf", "nan", "1s", "1,5", "0x10", "+", "true", "none?"]
NO_BOOLEAN = [*NEVER, "2", "-1", "maybe", "nul", "truefalse", "t", "1.0", "yes please", "['true']", "None", "y", "oui"]
NO_WORD = [*NEVER, "0", "1", "true", "no way", "REQUIRED;", "'", "a'b", "utf 8", "ä", "--", "a\nb", "%", "x y z"]
NO_FILE = [*NEVER, "ca.pem", "./ca.pem", "~/ca.pem", "/nowhere", "/", "/etc", "/dev/null", "/dev/zero", "file:///etc/ca",
           "C:\\ca.pem", "/etc/passwd\0", "-----BEGIN CERTIFICATE-----", "/proc/self/mem", "/" + "x" * 300]  # fmt: skip
NO_ADDRESS = [*NEVER, "nonsense", "localhost", "256.1.1.1", "1.2.3", "::g", "127.0.0.1:80", "*", "%", "[::1]", "a b",
              "http://x", "10.0.0.0/8", "-1"]  # fmt: skip
NO_SOCKET = [*NEVER, "mysqld.sock", "./x", "~/x", "@abstract", "/" + "x" * 108, "/etc", "/etc/passwd", "/dev/null",
             "unix:/run/x", "//" + "x" * 200]  # fmt: skip
NO_NAME = [*NEVER, "ä", "a\nb", "\t", "x" * 129, "name\x7f", "☃", "a\rb", "\u2028", "name\x00"]
NO_SQL_MODE = [" \0", "a'b", "a;b", "STRICT-ALL", "ä", '"', "x\ny", "(", "@@x", "a=b", "`", "$", "*", "#", "%", "\\"]

MYSQL = {
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), NO_NUMBER),
    **dict.fromkeys(("autocommit", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"), NO_BOOLEAN),
    **dict.fromkeys(("charset", "collation", "ssl_mode", "ssl-mode", "sslmode"), NO_WORD),
    **dict.fromkeys(("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "read_default_file"), NO_FILE),
    "bind_address": NO_ADDRESS,
    "unix_socket": NO_SOCKET,
    "program_name": NO_NAME,
    "sql_mode": NO_SQL_MODE,
    "init_command": NEVER[:3],
    "read_default_group": NO_WORD,  # without a file
    "ssl_key_password": NO_WORD,  # without a certificate
}
NO_LIBPQ_WORD = [each for each in NO_WORD if each not in ("0", "1", "true", "--")]
NO_WHOLE_NUMBER = ["", "-1", "1.5", "inf", "nan", "1s", "0x10", "+", "true", "9" * 30, "x" * 300, " ", "\0", "1e9"]
POSTGRESQL = {
    **dict.fromkeys(("connect_timeout", "read_timeout"), NO_NUMBER),
    "autocommit": NO_BOOLEAN,
    "prepare_threshold": NO_WHOLE_NUMBER,
    **dict.fromkeys(("sslmode", "channel_binding", "gssencmode", "target_session_attrs"), NO_LIBPQ_WORD),
    **dict.fromkeys(("keepalives", "sslcompression", "client_encoding", "ssl_min_protocol_version"), NO_LIBPQ_WORD),
    **dict.fromkeys(
        ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"), NO_WHOLE_NUMBER
    ),
    **dict.fromkeys(("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"), NO_FILE),
    "sslcrldir": [each for each in NO_FILE if each not in ("/", "/etc")],
    "hostaddr": NO_ADDRESS,
    "application_name": NO_NAME,
    "service": ["no such service", "", "\0", "x" * 300],
    "sslpassword": NO_WORD,  # without a certificate
}


def cases() -> Iterator[tuple[str, str]]:
    for scheme in ("mysql", "mysql+mysqlclient", "postgresql"):
        yield from ((scheme, option) for option in (POSTGRESQL if scheme == "postgresql" else MYSQL))


@pytest.mark.parametrize(("scheme", "option"), list(cases()))
def test_a_wrong_value_gives_one_line_that_names_the_option(scheme: str, option: str) -> None:
    known = POSTGRESQL if scheme == "postgresql" else MYSQL
    own = {"ssl-mode": "ssl_mode", "sslmode": "ssl_mode"}.get(option, option) if known is MYSQL else option
    host = "" if option == "unix_socket" else "db"
    for value in known[option]:
        with pytest.raises(ConfigError) as caught:
            # The URL cannot carry this value, so reading the URL refuses it.
            for_database(load(f"{scheme}://shop:s3cret@{host}/orders?{option}={quote(value, safe='')}"))
        message = str(caught.value)

        assert "databases.shop.url: " in message
        assert re.search(rf"\b({own}|{option})\b", message), (value[:50], message)
        assert message.isprintable(), (value[:50], message)
        assert len(message) < 700, (value[:50], len(message))
        assert "s3cret" not in message


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient", "postgresql"])
@pytest.mark.parametrize(
    "host", ["a%20b", "a..b", "-a", "a=b", "%00", "a%0Ab", "a%3Bb", "x" * 300, "a%2Cb%20c", "'", "a%26b", "%5Bx"]
)
def test_a_wrong_host_is_refused(host: str, scheme: str) -> None:
    with pytest.raises(ConfigError) as caught:
        for_database(load(f"{scheme}://shop:s3cret@{host}/orders"))

    assert str(caught.value).isprintable()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient", "postgresql"])
@pytest.mark.parametrize("port", ["0", "00", "65536", "-1", "abc", "99999999999"])
def test_a_wrong_port_is_refused(port: str, scheme: str) -> None:
    with pytest.raises(ConfigError, match="port"):
        for_database(load(f"{scheme}://shop@db:{port}/orders"))


def load(url: str) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url}}}).databases["shop"]
