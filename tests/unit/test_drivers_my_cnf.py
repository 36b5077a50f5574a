"""Option files of the MySQL programs, read as the mysql program does, or refused by file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsgipool import ConfigError, config
from wsgipool.drivers import for_database, my_cnf, mysql_options, server_of
from wsgipool.drivers.mysql_options import MySQLOptions
from wsgipool.drivers.tls import Mode

BASE = "[client]\nuser = app\npassword = pw\nhost = db.example\nport = 3307\n"


def write(folder: Path, content: str | bytes, name: str = "my.cnf") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def values(path: Path, group: str | None = None) -> dict[str, str | None]:
    return {name: entry.value for name, entry in my_cnf.read(str(path), group, "here").items()}


def options_of(path: Path, address: str = "", options: str = "") -> MySQLOptions:
    url = f"mysql://{address}/orders?read_default_file={path}{options}"
    return mysql_options.read(config.load({"databases": {"shop": {"url": url}}}).databases["shop"])


def refusal_of(path: Path, address: str = "", options: str = "") -> str:
    """Return the error of both drivers for the file."""
    messages = set()
    for scheme in ("mysql", "mysql+mysqlclient"):
        url = f"{scheme}://{address}/orders?read_default_file={path}{options}"
        with pytest.raises(ConfigError) as caught:
            for_database(config.load({"databases": {"shop": {"url": url}}}).databases["shop"])
        messages.add(str(caught.value).replace(f"{scheme}://", "mysql://"))
    (message,) = messages
    assert "\n" not in message
    return message


# --- the syntax ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("password = a%b", "password", "a%b"),
        ("  password=pw  ", "password", "pw"),
        ("password = pw # mine", "password", "pw"),
        ("password = pw#mine", "password", "pw"),
        ("password = pw ; not a comment", "password", "pw ; not a comment"),
        ('password = "a # b"', "password", "a # b"),
        ("password = 'a # b' # c", "password", "a # b"),
        ('password = " a "', "password", " a "),
        ("password = don't#x", "password", "don't#x"),
        (r"password = a\sb\tc\\d\ne", "password", "a b\tc\\d\ne"),
        (r"password = a\qb\S", "password", r"a\qb\S"),
        (r"password = 'it\'s'", "password", "it's"),
        ("password = a=b", "password", "a=b"),
        ("password =", "password", ""),
        ("password = ü", "password", "ü"),
        ("password = 'x", "password", "'x"),
        ("ssl", "ssl", None),
        ("default-character-set = utf8mb4", "default_character_set", "utf8mb4"),
        ("default_character-set = utf8mb4", "default_character_set", "utf8mb4"),
    ],
)
def test_a_line_is_read_as_the_mysql_program_reads_it(line: str, name: str, value: str | None, tmp_path: Path) -> None:
    assert values(write(tmp_path, f"[client]\n{line}\n")) == {name: value}


@pytest.mark.parametrize(
    "content", ["\ufeff[client]\nuser=app\n", "[client]\r\nuser=app\r\n", "\n\t[client]\n user=app"]
)
def test_byte_order_marks_blanks_and_line_ends_are_ignored(content: str, tmp_path: Path) -> None:
    assert values(write(tmp_path, content)) == {"user": "app"}


def test_of_two_lines_the_later_one_counts(tmp_path: Path) -> None:
    file = write(
        tmp_path, "# a comment\n; another\n[client]\nuser=a\nuser=b\n[mysqld]\nuser=c\n[client]\nhost=d\nuser=e\n"
    )

    assert values(file) == {"user": "e", "host": "d"}


def test_the_named_group_takes_precedence_over_the_client_groups(tmp_path: Path) -> None:
    file = write(
        tmp_path, "[shop]\nuser=shop\n[client]\nuser=app\nhost=db\n[client-server]\nport=3307\n[mysql]\nport=1\n"
    )

    assert values(file) == {"user": "app", "host": "db", "port": "3307"}
    assert values(file, "shop") == {"user": "shop", "host": "db", "port": "3307"}


def test_files_are_included_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    write(tmp_path, "[client]\nuser=b\n", "conf.d/b.cnf")
    write(tmp_path, "[client]\nuser=a\nhost=a\n", "conf.d/a.cnf")
    write(tmp_path, "nonsense", "conf.d/c.cnf~")
    write(tmp_path, "[client]\npassword=included\n", "one")

    file = write(tmp_path, f"!includedir {tmp_path}/conf.d\n[client]\nhost=own\n!include {tmp_path}/one \nport=3307\n")

    assert values(file) == {"user": "b", "host": "own", "password": "included", "port": "3307"}


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"user = app\n[client]\n", 1, "an option before the first group"),
        (b"[client\nuser = app\n", 1, "a group is written [NAME]"),
        (b"[client]\n[]\n", 2, "a group is written [NAME]"),
        (b"[client]\n\nuser = \xfc\n", 3, "the line is not UTF-8"),
        ("[client]\nuser = app\n".encode("utf-16"), 1, "the line is not UTF-8"),
        (b"[client]\nuser = a\0b\n", 2, "the line has a NUL character"),
        (b"[client]\ruser = app\n", 1, "a carriage return in the middle of the line"),
        (b"[client]\n= app\n", 2, "a value without the name of an option"),
        (b"[client]\n!import /etc/x\n", 2, "after '!' comes 'include'"),
        (b"[client]\n!include\n", 2, "after '!' comes 'include'"),
        (b"[client]\n!include /nowhere.cnf\n", 2, "'/nowhere.cnf' does not exist"),
        (b"[client]\n!include other.cnf\n", 2, "'other.cnf' is not an absolute path"),
        (b"[client]\n!includedir /nowhere/\n", 2, "'/nowhere/' does not exist"),
        (b"[client]\n!include {}\n", 2, "is included by itself"),
        (b"!includedir {folder}\n", 1, "is included by itself"),
    ],
)
def test_a_line_that_mysql_would_skip_is_refused(content: bytes, line: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my.cnf"
    file = write(tmp_path, content.replace(b"{}", os.fsencode(path)).replace(b"{folder}", os.fsencode(tmp_path)))

    message = refusal_of(file, "db")

    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_files_that_include_each_other_too_often_are_refused(tmp_path: Path) -> None:
    for depth in range(4):
        write(tmp_path, f"!include {tmp_path}/{depth + 1}.cnf\n" * 30, f"{depth}.cnf")
    write(tmp_path, "[client]\n", "4.cnf")

    assert "more than 200 files are included" in refusal_of(tmp_path / "0.cnf")


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("/nowhere.cnf", "", "read_default_file: '/nowhere.cnf' does not exist"),
        ("{}", "", "is a folder"),
        ("my.cnf", "", "is not an absolute path"),
        ("~/.my.cnf", "", "is not an absolute path"),
        ("{}/fifo", "", "is a FIFO; name a regular file"),
        ("{}/empty", "", "is empty"),
        ("{}/open", "", "may be written by everybody"),
        ("{}/server", "", "has no group [client]; its groups are: [mysqld]"),
        ("{}/fine", "&read_default_group=shop", "read_default_group: '{}/fine' has no group [shop]"),
        ("{}/fine", "&read_default_group=", "read_default_group"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(path: str, options: str, said: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    write(tmp_path, BASE, "open").chmod(0o606)
    write(tmp_path, "[mysqld]\nport=1\n", "server")
    write(tmp_path, BASE, "fine")

    assert said.replace("{}", str(tmp_path)) in refusal_of(Path(path.replace("{}", str(tmp_path))), "db", options)


def test_a_group_without_a_file_is_refused() -> None:
    settings = config.load({"databases": {"shop": {"url": "mysql://db/orders?read_default_group=shop"}}})

    with pytest.raises(ConfigError, match="read_default_group without read_default_file"):
        for_database(settings.databases["shop"])


# --- the meaning -----------------------------------------------------------------------------------------------------


def test_the_file_completes_the_url_and_the_url_wins(tmp_path: Path) -> None:
    file = write(tmp_path, BASE + "default-character-set=latin1\nconnect-timeout=3\ndatabase=other\n")

    of_file, of_url = options_of(file), options_of(file, "shop:geheim@127.0.0.1:3308", "&charset=utf8mb4")

    assert (of_file.host, of_file.port, of_file.user, of_file.password) == ("db.example", 3307, "app", "pw")
    assert (of_file.charset, of_file.connect_timeout, of_file.database) == ("latin1", 3.0, "orders")
    assert (of_url.host, of_url.port, of_url.user, of_url.password) == ("127.0.0.1", 3308, "shop", "geheim")
    assert (of_url.charset, of_url.connect_timeout) == ("utf8mb4", 3.0)


@pytest.mark.parametrize(
    ("lines", "address", "place"),
    [
        ("host=db\nport=3307\n", "", "mysql://db:3307"),
        ("host=localhost\n", "", "mysql://localhost:3306"),
        ("socket=/run/x.sock\n", "", "mysql:///run/x.sock"),
        ("host=localhost\nport=3307\nsocket=/run/x.sock\n", "", "mysql:///run/x.sock"),
        ("host=db\nport=3307\nsocket=/run/x.sock\n", "", "mysql://db:3307"),
        ("socket=/run/x.sock\nprotocol=tcp\nport=3307\n", "", "mysql://localhost:3307"),
        ("host=db\nsocket=/run/x.sock\nprotocol=SOCKET\n", "", "mysql:///run/x.sock"),
        ("host=db\nport=3307\nsocket=/run/x.sock\n", "other", "mysql://other:3307"),
        ("host=db\nport=3307\nsocket=/run/x.sock\n", "localhost:3308", "mysql://localhost:3308"),
    ],
)
def test_the_server_is_the_one_that_file_and_url_name(lines: str, address: str, place: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"[client]\n{lines}")

    assert server_of(config.parse_url(f"mysql://{address}/orders?read_default_file={file}")) == place
    assert server_of(config.parse_url(f"mariadb+mysqldb://{address}/orders?read_default_file={file}")) == place


@pytest.mark.parametrize(
    ("lines", "mode"),
    [
        ("ssl\n", Mode.REQUIRED),
        ("loose-ssl = 1\n", Mode.REQUIRED),
        ("ssl=0\n", Mode.DISABLED),
        ("skip-ssl\n", Mode.DISABLED),
        ("ssl-mode=VERIFY_CA\n", Mode.VERIFY_CA),
        ("ssl-verify-server-cert\n", Mode.VERIFY_IDENTITY),
        ("ssl\nssl-verify-server-cert=ON\n", Mode.VERIFY_IDENTITY),
        ("disable-ssl-verify-server-cert\n", Mode.PREFERRED),
        ("", Mode.PREFERRED),
    ],
)
def test_the_files_options_for_tls_mean_what_the_urls_mean(lines: str, mode: Mode, tmp_path: Path) -> None:
    assert options_of(write(tmp_path, BASE + lines)).tls.mode is mode


def test_the_urls_mode_takes_precedence_over_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, BASE + "ssl-mode=VERIFY_IDENTITY\nssl-ca=/nowhere.pem\n")

    assert options_of(file, options="&ssl_mode=DISABLED").tls.mode is Mode.DISABLED
    assert "/nowhere.pem" in refusal_of(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("port = abc", "the port is 'abc'; it is a number from 1 to 65535"),
        ("port = 0", "the port is '0'"),
        ("port = 70000", "the port is '70000'"),
        ("port = 3_306", "the port is '3_306'"),
        ("user", "user has no value"),
        ("host =", "host has no value"),
        ("password", "password without a value: mysql would ask on the terminal"),
        ("pass = geheim", "pass is not an option; did you mean password?"),
        ("passwd = geheim", "passwd is not an option; did you mean password?"),
        ("sockets = /run/x", "did you mean socket?"),
        ("ssl-cipher = AES", "ssl_cipher is unknown, and not ignored because it is about security"),
        ("tls-version = TLSv1.3", "tls_version is unknown"),
        ("ssl-cas = /x", "ssl_cas is unknown"),
        ("ssl = maybe", "ssl is 'maybe'; it is 1 or 0"),
        ("ssl-mode = SOMETIMES", "ssl_mode"),
        ("ssl-verify-server-cert = maybe", "ssl_verify_identity"),
        ("ssl-ca = /nowhere.pem", "ssl_ca: '/nowhere.pem' does not exist"),
        ("default-character-set = utf-8", "charset"),
        ("default-character-set = auto", "charset"),
        ("connect-timeout = soon", "connect_timeout"),
        ("connect-timeout = 0", "connect_timeout"),
        ("bind-address = nonsense", "bind_address"),
        ("protocol = pipe", "protocol is 'pipe'; here it is tcp or socket"),
        ("protocol = socket", "protocol=socket without socket"),
        ("host = a b", "'a b' is neither the name of a host nor an address"),
    ],
)
def test_a_line_with_a_mistake_is_named(line: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, BASE + line + "\n")

    message = refusal_of(file)

    assert message.startswith(f"{file}:6: ")
    assert said in message
    assert "geheim" not in message


@pytest.mark.parametrize(
    "line", ["no-auto-rehash", "prompt = '\\u> '", "max_allowed_packet=64M", "loose-foo=1", "quick"]
)
def test_options_of_other_programs_are_ignored(line: str, tmp_path: Path) -> None:
    assert options_of(write(tmp_path, BASE + line + "\n")).host == "db.example"


def test_a_file_without_a_host_says_so(tmp_path: Path) -> None:
    assert f"no host, here or in '{tmp_path}/my.cnf'" in refusal_of(write(tmp_path, "[client]\nuser=app\n"))
