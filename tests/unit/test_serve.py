"""The parts of `wsgipool serve` that need no server."""

from __future__ import annotations

import importlib
import os
import pwd
import signal
import socket
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result

from servers.ports import kernel_port
from wsgipool import ConfigError, config
from wsgipool.cli import main
from wsgipool.cli.running import Shape, Stop, shape, temporary_folder
from wsgipool.cli.serve import database_urls, write_config
from wsgipool.httpd.express import HttpdFailed, free_port, refuse_taken_port, umask_of_httpd
from wsgipool.impersonation import as_user

# --- the databases of the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        (("mysql://shop:s3cret@db/orders",), {"orders": "mysql://shop:s3cret@db/orders"}),
        (("shop=mysql://db/orders",), {"shop": "mysql://db/orders"}),
        (("mysql://db/orders?charset=utf8mb4",), {"orders": "mysql://db/orders?charset=utf8mb4"}),
        (("shop=mysql://db/orders?charset=utf8mb4",), {"shop": "mysql://db/orders?charset=utf8mb4"}),
        (("sqlite:////var/lib/shop.db",), {"shop": "sqlite:////var/lib/shop.db"}),
        (("mysql://db/a", "b=mysql://db/a"), {"a": "mysql://db/a", "b": "mysql://db/a"}),
    ],
)
def test_a_database_has_the_name_of_its_url_or_the_given_name(
    arguments: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert database_urls(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("mysql://db",), "the URL names no database; add its name, or write NAME=URL"),
        (("=mysql://db/orders",), "the URL names no database; add its name, or write NAME=URL"),
        (("mysql://a/orders", "mysql://b/orders"), "two databases have the name orders; write NAME=URL"),
        (("a=mysql://a/orders", "a=mysql://b/orders"), "two databases have the name a; write NAME=URL"),
        (("orders",), "no scheme; write mysql://"),
        (("mysql://shop:s3cret/@db/orders",), "/ is %2F"),
    ],
)
def test_a_wrong_database_is_an_error_with_a_remedy(arguments: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        database_urls(arguments)

    assert str(caught.value).startswith("--database: ")
    assert remedy in str(caught.value)


# --- the settings that are written for httpd -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        "s3cret",
        "",
        "/:?#[]@!$&'()*+,;=%",
        "quote \" backslash \\ tick '",
        "\\u0041 \\n",
        "a b\tc\nd",
        "\x01\x1f\x7f",
        "pässwörd €",
        "\N{GRINNING FACE}",
    ],
)
def test_a_password_survives_being_written(tmp_path: Path, password: str) -> None:
    url = f"mysql://shop:{quote(password, safe='')}@db/orders"

    path = tmp_path / "wsgipool.toml"
    variables = write_config(path, {"orders": url})

    assert config.load(path, variables).databases["orders"].url.password == (password or "")
    assert not password or password not in path.read_text()


def test_a_password_may_have_brackets(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"

    variables = write_config(path, {"orders": "mysql://shop:SE[CRET]x@db:3307/orders?charset=utf8mb4"})

    assert list(variables.values()) == ["SE[CRET]x"]
    assert 'url = "mysql://shop@db:3307/orders?charset=utf8mb4"' in path.read_text()


@pytest.mark.parametrize("character", ["'", "\\", '"', "!", "ü", "\N{GRINNING FACE}"])
def test_a_url_without_quotes_survives_being_written(tmp_path: Path, character: str) -> None:
    url = f"mysql://shop:a{character}b@db/orders"

    path = tmp_path / "wsgipool.toml"
    variables = write_config(path, {"orders": url})

    assert config.load(path, variables).databases["orders"].url == config.parse_url(url)


@pytest.mark.parametrize("name", ["orders", "my.orders", 'a "b"', "bücher", "\N{GRINNING FACE}", "a\\b"])
def test_a_name_survives_being_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "wsgipool.toml"
    write_config(path, {name: "mysql://db/orders", "other": "mysql://db/other"})

    assert list(config.load(path).databases) == [name, "other"]


def test_other_users_cannot_read_the_written_settings(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"
    write_config(path, {"orders": "mysql://shop:s3cret@db/orders"})

    assert path.stat().st_mode & 0o777 == (0o640 if os.geteuid() == 0 else 0o600)


# --- processes and threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "processes", "threads", "expected"),
    [
        ("prefork", None, None, Shape("prefork", 8, 1)),
        ("prefork", 3, 1, Shape("prefork", 3, 1)),
        ("worker", None, None, Shape("worker", 2, 8)),
        ("event", 1, None, Shape("event", 1, 8)),
        ("daemon", None, 5, Shape("daemon", 2, 5)),
    ],
)
def test_a_shape_has_defaults(mode: str, processes: int | None, threads: int | None, expected: Shape) -> None:
    assert shape(mode, processes, threads) == expected


def test_threads_under_prefork_are_refused() -> None:
    with pytest.raises(HttpdFailed, match="prefork has one thread a process"):
        shape("prefork", None, 4)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (Shape("prefork", 8, 1), "prefork, 8 processes"),
        (Shape("worker", 2, 8), "worker, 2 processes of 8 threads"),
    ],
)
def test_a_shape_as_text(chosen: Shape, text: str) -> None:
    assert str(chosen) == text


# --- the port --------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HttpdFailed) as caught:
            refuse_taken_port("127.0.0.1", port)

    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port with --port (make: PORT=)"
    )


def test_a_free_port_is_left_free() -> None:
    port = kernel_port()

    refuse_taken_port("127.0.0.1", port)

    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_of_another_host_is_refused(host: str) -> None:
    with pytest.raises(HttpdFailed, match=f"cannot listen on {host}:8080: "):
        refuse_taken_port(host, 8080)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def script(servers_folder: Path) -> Path:
    """A script that the Apache user can read."""
    folder = Path(tempfile.mkdtemp(dir=servers_folder))
    folder.chmod(0o755)
    path = folder / "app.wsgi"
    path.write_text("def application(environ, start_response): ...\n")
    return path


def serve(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["serve", "--port", str(free_port()), *map(str, arguments)])


def one_line_error(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_serve_refuses_threads_under_prefork(script: Path) -> None:
    assert "prefork has one thread" in one_line_error(serve(script, "--mpm", "prefork", "--threads", "4"))


def test_serve_refuses_a_port_in_use(script: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert f"cannot listen on 127.0.0.1:{port}" in one_line_error(serve(script, "--port", str(port)))


def test_serve_refuses_settings_given_twice(script: Path, tmp_path: Path) -> None:
    error = one_line_error(serve(script, "--database", "mysql://db/orders", "--config", tmp_path / "wsgipool.toml"))

    assert "exclude each other" in error


def test_serve_checks_the_settings_before_it_starts_httpd(script: Path) -> None:
    settings = script.parent / "wsgipool.toml"
    settings.write_text('[databases.orders]\nurl = "mysq://db/orders"\n')

    assert f"{settings}: databases.orders.url: no driver for mysq://" in one_line_error(serve(script))


def test_serve_without_databases_says_how_to_name_them(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("wsgipool.cli.serve"), "SYSTEM_CONFIG", tmp_path / "etc.toml")
    monkeypatch.delenv("WSGIPOOL_CONFIG", raising=False)

    assert f"give --database URL or --config FILE, or write {script.parent}/wsgipool.toml" in one_line_error(
        serve(script)
    )


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_temporary_folder_can_be_entered_but_not_listed_and_is_removed() -> None:
    with temporary_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o711
        (folder / "wsgipool.toml").touch()

    assert not folder.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_sets_stop_and_interrupts_nothing(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    with Stop().on_signals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop.wait(10)

    assert stop()
    assert signal.getsignal(number) is before


def test_only_the_httpd_of_root_gets_another_umask() -> None:
    # Otherwise the files of an application would be less private than the umask of its user makes them.
    user = pwd.getpwuid(os.geteuid()).pw_name

    if user == "root":
        assert umask_of_httpd() == 0o022
    assert as_user("nobody" if user == "root" else user, umask_of_httpd) == -1
