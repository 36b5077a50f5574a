"""The command line and wrong input: a one-line error and no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wsgipool.cli import main
from wsgipool.httpd.express import HttpdFailed, free_port, refuse_taken_port

BY_HAND = ["plan", "--mpm", "prefork", "--processes", "2"]
COMMAND = [sys.executable, "-m", "wsgipool"]


@pytest.fixture
def folder(servers_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with unusual files in it."""
    folder = Path(tempfile.mkdtemp(dir=servers_folder))
    folder.chmod(0o755)
    (folder / "app.wsgi").write_text("def application(environ, start_response): ...\n")
    (folder / "folder").mkdir()
    (folder / "bytes").write_bytes(b"\xff\xfe")
    (folder / "empty").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "odd.toml").write_text('[databases."a\\nb\\u001b[31m"]\nurl = "mysql://u:s3cret@h/d"\nbogus = 1\n')
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [each.replace("PORT", str(free_port())) for each in arguments])


def one_line(result: Result) -> str:
    """Return the line with the error."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage:", "Try ", " "))]
    assert len(lines) == 1, result.stderr
    assert len(lines[0]) < 2500 or result.exit_code == 2, "click shows what was typed"
    assert lines[0].isprintable()
    assert "s3cret" not in result.output
    return lines[0]


PATHS = [
    "nowhere", "folder", "bytes", "empty", "loop", "odd.toml", "empty/x", "x" * 5000, "\udcff", "\x1b[31m", "-",
    "/dev/null",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "command",
    [
        [*BY_HAND, "--config"],
        [*BY_HAND, "--max-connections", "9", "--write", "--config"],
        ["locks", "--config"],
        ["drain", "--config"],
        ["serve", "app.wsgi", "--port", "PORT", "--config"],
        ["plan", "--httpd"],
        ["apache", "show"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_an_impossible_path_is_a_one_line_error(command: list[str], path: str) -> None:
    one_line(run(*command, path))


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path not in ("nowhere", "folder", "\udcff", "\x1b[31m", "-")]
)
@pytest.mark.usefixtures("folder")
def test_an_impossible_runtime_dir_is_a_one_line_error(path: str) -> None:
    one_line(run("locks", "--runtime-dir", path))


@pytest.mark.parametrize("number", ["0", "-1", "1e3", "nan", "9" * 30, "abc", "", "1.5", "\x1b[31m"])
@pytest.mark.parametrize(
    "command",
    [
        [*BY_HAND, "--threads"],
        ["plan", "--mpm", "worker", "--threads", "2", "--processes"],
        [*BY_HAND, "--max-connections"],
        [*BY_HAND, "--hosts"],
        ["serve", "app.wsgi", "--port"],
        ["serve", "app.wsgi", "--processes"],
        ["demo", "--threads"],
        ["doctor", "--hosts"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_a_number_out_of_range_names_its_option(command: list[str], number: str) -> None:
    assert command[-1] in one_line(run(*command, number))


def test_a_plan_without_databases_says_who_knows_them(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text("[budget]\nconnections = 20\n")

    result = run("plan", "--config", str(file), "--mpm", "prefork", "--processes", "4")

    assert result.exit_code == 1
    assert f"{file} has no databases: the program gives them" in result.stderr


def test_an_empty_database_names_its_option(folder: Path) -> None:  # noqa: ARG001
    line = one_line(run("serve", "app.wsgi", "--port", str(free_port()), "--database", ""))

    assert line.startswith("wsgipool: --database")
    assert "no scheme" in line


@pytest.mark.parametrize(
    ("database", "remedy"),
    [
        ("x", "no scheme"),
        ("mysql://", "names no database"),
        ("mysqll://u:s3cret@h/d", "did you mean mysql?"),
        ("mysql://u:s3cret@h/d?chraset=utf8", "did you mean charset?"),
        ("mysql://u:s3cret@h:port/d", "its port is not a number"),
        ("mysql://u:s3cret@[::1/d", "write mysql://user:password@host"),
        ("mysql://u:s3cret%00@h/d", "--database"),
        ("a=mysql://u:s3cret@h/d#f", "fragment"),
        ("sqlite:///relative.db", "the path is not absolute"),
    ],
)
@pytest.mark.parametrize("given", ["option", "variable"])
@pytest.mark.usefixtures("folder")
def test_an_invalid_database_names_its_origin(
    given: str, database: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["serve", "app.wsgi", "--port", str(free_port())]
    if given == "option":
        line = one_line(run(*command, "--database", database))
    else:
        monkeypatch.setenv("WSGIPOOL_DATABASE", database)
        line = one_line(run(*command)).replace("WSGIPOOL_DATABASE", "--database")

    assert line.startswith("wsgipool: --database")
    assert remedy in line
    assert "wsgipool.toml:" not in line
    assert "mapping given" not in line


# --- host and port ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["203.0.113.1", "no.such.host.invalid", "::zz", "*", "a..b", "x" * 300, "127.0.0.1:80", "256.1.1.1", " "]
)
@pytest.mark.parametrize("command", [["serve", "app.wsgi", "--database", "mysql://h/d"], ["demo", "--db", "sqlite"]])
@pytest.mark.usefixtures("folder")
def test_an_impossible_host_names_its_option(host: str, command: list[str]) -> None:
    line = one_line(run(*command, "--port", "PORT", "--host", host))

    assert f"cannot listen on {host}:" in line
    assert "--host must be an address or a name of this host" in line
    assert "choose another port" not in line


def test_a_port_that_needs_root_names_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(HttpdFailed, match="port 80 needs root; choose one from 1024 on, with --port"):
        refuse_taken_port("127.0.0.1", 80)


# --- what the terminal does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["doctor", "--help"], ["serve", "--help"]])
def test_help_names_the_exit_status(arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 0
    assert arguments == ["--help"] or "Exit status: 0" in " ".join(result.stdout.split())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_with_another_character_set_is_no_traceback(encoding: str, folder: Path) -> None:
    (folder / "bücher.toml").write_text('[databases."b\\u00fccher \\U0001F600"]\nurl = "mysql://u@127.0.0.1:1/d"\n')
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}

    outcome = subprocess.run(
        [*COMMAND, *BY_HAND, "--config", "bücher.toml"], capture_output=True, env=environment, check=False, cwd=folder
    )

    assert outcome.returncode == 1
    assert b"incomplete: " in outcome.stdout
    assert outcome.stderr == b""


def test_a_closed_output_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        outcome = subprocess.run(
            [*COMMAND, "apache", "show"], stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )

    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr


def test_ctrl_c_ends_the_questions_of_root_and_leaves_no_process(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = folder / "silent.toml"
        settings.write_text(f'[databases.shop]\nurl = "mysql://u@127.0.0.1:{silent.getsockname()[1]}/d"\n')
        process = subprocess.Popen(
            [*COMMAND, *BY_HAND, "--config", str(settings)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
            connection.settimeout(30)
            assert connection.recv(1) == b"", "the process that asks lives on"

    assert process.returncode == 1
    assert "Traceback" not in stderr


def test_only_the_owner_can_write_new_files_under_any_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        result = run("apache", "install", "--directory", str(folder / "folder"), "--config", str(folder / "new.toml"))
        assert os.umask(0) == 0, "the umask of the shell's process was changed"
    finally:
        os.umask(before)

    assert result.exit_code == 0, result.output
    for path in (folder / "folder" / "wsgipool.conf", folder / "new.toml"):
        assert path.stat().st_mode & 0o022 == 0
