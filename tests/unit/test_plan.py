"""`wsgipool plan` without httpd, and the lines that it prints and writes; tests/httpd has it with httpd."""

from __future__ import annotations

import json
import os
import pwd
import resource
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import wsgipool
from wsgipool import ConfigError, config, drivers
from wsgipool.cli import main, plan_lines
from wsgipool.cli.plan import is_writable
from wsgipool.cli.site_settings import preload_drivers, settings_files
from wsgipool.httpd.configuration import Configuration, Mpm
from wsgipool.httpd.dump import Directive
from wsgipool.httpd.placement import Site
from wsgipool.impersonation import as_user
from wsgipool.plan.sizing import ProcessGroup

DROP_IN = Path(wsgipool.__file__).parent / "apache" / "wsgipool.conf"
SAMPLE = Path(wsgipool.__file__).parent / "apache" / "wsgipool.toml"
SERVER = Configuration(
    program="httpd",
    live=None,
    mpm=Mpm("worker", 2, 2, 8),
    groups=[],
    interpreters=[],
    daemons={},
    defines={},
    drop_in=None,
    sites=[],
    notes=[],
)


def plan(*arguments: str | Path | float) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def without_httpd(mode: str, processes: int, threads: int, max_connections: int, *more: str | float) -> Result:
    return plan(
        "--mpm", mode, "--processes", processes, "--threads", threads, "--max-connections", max_connections, *more
    )


def cells(result: Result, first: str) -> list[str]:
    """Return the cells of the table row with this beginning."""
    (line,) = (line for line in result.stdout.splitlines() if line.strip().startswith(first) and ":" not in line)
    return line.replace(first, "").split()


def error(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- without httpd ----------------------------------------------------------------------------------------------------


def test_the_table_has_the_worst_case_the_limit_and_the_headroom() -> None:
    result = without_httpd("worker", 4, 16, 151)

    assert result.exit_code == 0
    assert cells(result, "Apache (worker)") == ["NAME", "8", "16", "1", "16", "128", "151", "-", "5", "18"]
    assert "4 processes at work, up to 8 alive: each graceful restart leaves processes behind" in result.stdout
    assert "It fits: 128 connections in the worst case, and max_connections of the database is 151" in result.stdout


def test_too_many_connections_are_exit_status_1_and_the_lines_that_fit() -> None:
    result = without_httpd("event", 4, 16, 40)

    assert result.exit_code == 1
    assert result.stderr == ""
    assert "64 connections in the worst case" in result.stdout
    assert "29 would be refused (error 1040, Too many connections)" in result.stdout
    assert "    [databases.NAME]\n    max_size = 8\n" in result.stdout
    assert (
        "    Define WSGIPOOL_SIZING\n    Define WSGIPOOL_PROCESSES 4\n    Define WSGIPOOL_THREADS 16\n"
        "    Define WSGIPOOL_REQUEST_WORKERS 64\n"
    ) in result.stdout


def test_the_last_connection_of_the_headroom_can_be_used() -> None:
    assert without_httpd("daemon", 4, 16, 69).exit_code == 0
    assert without_httpd("daemon", 4, 16, 68).exit_code == 1
    assert without_httpd("daemon", 4, 16, 64, "--reserve", 0).exit_code == 0


def test_hosts_multiply_and_restarts_count_for_worker() -> None:
    assert (
        json.loads(without_httpd("prefork", 50, 1, 151, "--hosts", 3, "--json").stdout)["limits"][0]["worst_case"]
        == 150
    )
    found = json.loads(without_httpd("worker", 2, 8, 151, "--graceful-restarts", 3, "--json").stdout)
    assert found["limits"][0]["worst_case"] == 64


def test_json_has_the_numbers_of_the_table() -> None:
    result = without_httpd("daemon", 4, 16, 40, "--rate", 100, "--hold", 0.04, "--json")

    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["fits"] is False
    assert (found["httpd"], found["settings"], found["unlimited"]) == (None, [], [])
    assert found["rows"] == [{"group": "wsgipool", "database": "NAME", "pool_size": 16, "worst_case": 64}]
    (limit,) = found["limits"]
    assert (limit["connections"], limit["reserve"], limit["usable"], limit["headroom"], limit["refused"]) == (
        40, 5, 35, -29, 29,
    )  # fmt: skip
    assert found["fit"]["max_size"] == {"NAME": 8}
    assert [(wait["size"], wait["busy"]) for wait in found["waiting"]] == [(8, 1.0), (16, 1.0)]


def test_the_wait_in_smaller_pools_is_shown() -> None:
    assert "A pool of 8 in each process" in without_httpd("daemon", 4, 16, 40, "--rate", 800, "--hold", 0.02).stdout
    result = without_httpd("daemon", 4, 16, 40, "--rate", 2000, "--hold", 0.02)
    assert "A pool of 8 in each process (wsgipool, NAME) is too small: 10 connections would be busy" in result.stdout


def test_if_nothing_fits_the_needed_connections_are_shown() -> None:
    result = without_httpd("prefork", 50, 1, 5)

    assert result.exit_code == 1
    assert "No sizes fit" in result.stdout
    assert "55 for the current sizes" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--processes", 3], "--processes and --threads need --mpm"),
        (["--mpm", "event", "--processes", 3], "--mpm event needs --threads"),
        (["--mpm", "prefork"], "--mpm prefork needs --processes"),
        (["--mpm", "prefork", "--processes", 3, "--threads", 2], "prefork has one thread a process"),
        (["--mpm", "prefork", "--processes", 3, "--rate", 2], "--rate and --hold need each other"),
        (["--mpm", "prefork", "--processes", 3, "--write"], "name the wsgipool.toml with --config"),
        (
            ["--mpm", "prefork", "--processes", 3, "--", "-f", "h.conf"],
            "--mpm replaces httpd's configuration: leave out -f h.c",
        ),
        (
            ["--mpm", "prefork", "--processes", 3, "--httpd", "apache2"],
            "--mpm replaces httpd's configuration: leave out --h",
        ),
        (["--httpd", "no-such-httpd"], "no-such-httpd was not found; name httpd's program with --httpd"),
    ],
)
def test_a_missing_option_is_a_one_line_error(arguments: list[str | int], remedy: str) -> None:
    assert remedy in error(plan(*arguments))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "0"])
@pytest.mark.parametrize("option", ["--rate", "--hold"])
def test_numbers_out_of_range_are_refused(option: str, number: str) -> None:
    other = {"--rate": "--hold", "--hold": "--rate"}[option]

    result = without_httpd("daemon", 4, 16, 40, option, number, other, 1)

    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


def test_without_a_limit_nothing_is_exceeded() -> None:
    result = plan("--mpm", "prefork", "--processes", 300)

    assert result.exit_code == 0
    assert "without --max-connections there is no limit to compare with" in result.stdout


# --- with a wsgipool.toml --------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "wsgipool.toml"
    path.write_text(
        "# ours\n[databases.orders]  # the shop\n"
        'url = "mysql://shop:s3cret@127.0.0.1:1/orders"\nmax_size = "threads/2"  # half\n\n'
        '[databases."my files"]\nurl = "sqlite:////var/lib/files.db"\n'
    )
    path.chmod(0o640)
    return path


def test_a_database_that_does_not_answer_is_shown_without_its_password(settings: Path) -> None:
    result = plan("--mpm", "daemon", "--processes", 2, "--threads", 8, "--config", settings)

    assert result.exit_code == 1
    assert "the limit of orders is not known: mysql://shop@127.0.0.1:1/orders does not answer" in result.stdout
    assert "Nothing listens at 127.0.0.1:1: start the server" in result.stdout
    assert result.stdout.endswith("incomplete: 1 database did not answer (orders), see the notes\n")
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysqld://u:s3cret@h/d", "no driver for mysqld://"),
        ("mysql://u:s3cret@h/d?bogus=1", "bogus is not an option of mysql://"),
        ("sqlite:////x.db?bogus=1", "bogus is not an option of sqlite://"),
    ],
)
@pytest.mark.parametrize("limit", [[], ["--max-connections", 100]])
def test_a_url_that_no_process_can_use_is_refused(
    url: str, remedy: str, limit: list[str | int], tmp_path: Path
) -> None:
    settings = tmp_path / "wsgipool.toml"
    settings.write_text(f'[databases.orders]\nurl = "{url}"\n')

    message = error(plan("--mpm", "prefork", "--processes", 2, "--config", settings, *limit))

    assert f"{settings}: databases.orders.url: {remedy}" in message
    assert "s3cret" not in message


def test_a_file_has_no_limit(settings: Path) -> None:
    result = plan("--mpm", "daemon", "--processes", 2, "--threads", 8, "--config", settings, "--max-connections", 10)

    assert result.stdout.startswith(f"settings: {settings}\n")
    (files,) = (line for line in result.stdout.splitlines() if "my files" in line and "none" in line)
    assert files.split()[-1] == "none"
    assert '    [databases."my files"]\n    max_size = "threads"\n' in result.stdout


def test_write_changes_the_sizes_and_nothing_else(settings: Path) -> None:
    before = settings.read_text()

    result = plan(
        "--mpm", "daemon", "--processes", 2, "--threads", 8, "--config", settings, "--max-connections", 9, "--write"
    )

    assert result.exit_code == 0
    assert settings.read_text() == before.replace('"threads/2"', "2")
    assert config.load(settings).databases["orders"].max_size == 2
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    backup = settings.with_name("wsgipool.toml.bak")
    assert backup.read_text() == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert f"wrote {settings} (backup: wsgipool.toml.bak):\n    [databases.orders] max_size = 2\n" in result.stdout
    assert "s3cret" not in result.output


def test_sizes_to_write_by_hand_are_exit_status_1(settings: Path) -> None:
    result = plan(
        "--mpm", "daemon", "--processes", 9, "--threads", 8, "--config", settings, "--max-connections", 9, "--write"
    )

    assert result.exit_code == 1
    assert "to write by hand, for wsgipool: WSGIDaemonProcess wsgipool processes=" in result.stdout
    assert config.load(settings).databases["orders"].max_size == 1


def test_write_changes_nothing_if_the_sizes_fit(settings: Path) -> None:
    result = plan(
        "--mpm", "daemon", "--processes", 2, "--threads", 8, "--config", settings, "--max-connections", 99, "--write"
    )

    assert result.exit_code == 0
    assert "nothing to write: the current sizes fit" in result.stdout
    assert not settings.with_name("wsgipool.toml.bak").exists()


def test_with_write_and_json_the_report_is_not_in_the_json(settings: Path) -> None:
    result = plan(
        "--mpm", "daemon", "--processes", 2, "--threads", 8, "--config", settings, "--max-connections", 9, "--write",
        "--json",
    )  # fmt: skip

    found = json.loads(result.stdout)
    assert (found["fits"], found["settings"], found["unlimited"]) == (False, [str(settings)], ["my files"])
    assert "max_size = 2" in result.stderr


def test_a_closed_folder_does_not_lead_to_other_settings(tmp_path: Path) -> None:
    script = tmp_path / "closed" / "app.wsgi"
    site = Site("shop", Directive("WSGIScriptAlias", f"/ {script}", (), "httpd.conf", 1), script, frozenset())

    def load() -> str:
        settings_files(None, replace(SERVER, sites=[site]))[0].load()
        return "loaded"

    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    (tmp_path / "closed").mkdir(mode=0o700)

    with pytest.raises(ConfigError, match=f"{tmp_path}/closed/wsgipool.toml cannot be read by user id"):
        as_user("nobody", load)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient", "postgresql"])
def test_drivers_are_loaded_before_the_change_of_user(scheme: str) -> None:
    """The package may be in a folder that only root can read, such as /root."""

    def connect() -> str:
        sys.meta_path.clear()
        url = f"{scheme}://shop@127.0.0.1:1/shop"
        driver = drivers.for_database(config.load({"databases": {"shop": {"url": url}}}).databases["shop"])
        try:
            driver.connect(1)
        except ImportError:
            raise
        except Exception as error:
            return str(error)
        return "connected"

    preload_drivers()

    assert "connect" in as_user(pwd.getpwuid(os.geteuid()).pw_name, connect)


# --- the lines -------------------------------------------------------------------------------------------------------


def test_the_sample_settings_can_be_written(tmp_path: Path) -> None:
    changed = plan_lines.with_max_sizes(SAMPLE.read_text(), {"orders": 3})

    path = tmp_path / "wsgipool.toml"
    path.write_text(changed)
    assert config.load(path).databases["orders"].max_size == 3
    assert changed.replace("max_size = 3\n", "", 1).split() == SAMPLE.read_text().split()


def test_defines_take_the_place_of_the_drop_ins_comments() -> None:
    group = ProcessGroup("", "event", processes=3, alive=3, threads=8)

    text = plan_lines.with_defines(DROP_IN.read_text(), plan_lines.defines(group))

    before = DROP_IN.read_text()
    for line, commented in (
        ("Define WSGIPOOL_SIZING\n", "#Define WSGIPOOL_SIZING\n"),
        ("Define WSGIPOOL_PROCESSES 3\n", "#Define WSGIPOOL_PROCESSES 4\n"),
        ("Define WSGIPOOL_THREADS 8\n", "#Define WSGIPOOL_THREADS 16\n"),
        ("Define WSGIPOOL_REQUEST_WORKERS 24\n", "#Define WSGIPOOL_REQUEST_WORKERS 64\n"),
    ):
        before = before.replace(commented, line)
    assert text == before
    assert plan_lines.with_defines(text, plan_lines.defines(group)) == text


def test_a_drop_in_without_the_lines_is_refused() -> None:
    with pytest.raises(ConfigError, match="no line for WSGIPOOL_OTHER"):
        plan_lines.with_defines("# mine\n", {"WSGIPOOL_OTHER": ""})


@pytest.mark.parametrize(
    ("group", "lines"),
    [
        (ProcessGroup("", "prefork", 9, 9, 1), ["ServerLimit 9", "MaxRequestWorkers 9"]),
        (ProcessGroup("", "worker", 2, 4, 8), ["ServerLimit 2", "ThreadsPerChild 8", "MaxRequestWorkers 16"]),
        (ProcessGroup("shop", "daemon", 2, 2, 8), ["WSGIDaemonProcess shop processes=2 threads=8"]),
    ],
)
def test_without_the_drop_in_the_lines_are_httpds_own(group: ProcessGroup, lines: list[str]) -> None:
    assert plan_lines.directives(group) == lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "WSGIDaemonProcess shop processes=9 threads=9 user=shop",
            "WSGIDaemonProcess shop processes=2 threads=5 user=shop",
        ),
        ('  WSGIDaemonProcess shop user=shop threads="9"', "  WSGIDaemonProcess shop user=shop threads=5 processes=2"),
        ("wsgidaemonprocess shop", "wsgidaemonprocess shop processes=2 threads=5"),
        ("WSGIDaemonProcess shop processes=${N}", None),
        ("WSGIDaemonProcess shop \\", None),
        ("Use Site shop", None),
    ],
)
def test_the_sizes_of_a_daemon_group_take_the_place_of_its_own(line: str, expected: str | None) -> None:
    daemon = Directive("WSGIDaemonProcess", "shop", (), "shop.conf", 2)
    group = ProcessGroup("shop", "daemon", processes=2, alive=2, threads=5)

    text = plan_lines.with_daemon_sizes(f"# first\n{line}\n# last\n", daemon, group)

    assert text == (expected and f"# first\n{expected}\n# last\n")


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files with a line each."""
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        path.write_text(f"# {path.name}\n")
    return paths


def contents(files: list[Path]) -> list[str]:
    return [path.read_text() for path in files]


def accept() -> None: ...


def test_all_files_are_replaced(files: list[Path]) -> None:
    backups = plan_lines.replace_files(dict.fromkeys(files, "new\n"), accept)

    assert contents(files) == ["new\n", "new\n"]
    assert contents([backups[path] for path in files]) == ["# first\n", "# second\n"]


@pytest.mark.parametrize("error", [ConfigError, KeyboardInterrupt])
def test_refused_files_are_restored(error: type[BaseException], files: list[Path]) -> None:
    def refuse() -> None:
        assert contents(files) == ["new\n", "new\n"]
        raise error

    with pytest.raises(error):
        plan_lines.replace_files(dict.fromkeys(files, "new\n"), refuse)

    assert contents(files) == ["# first\n", "# second\n"]


def test_a_half_written_file_is_restored(files: list[Path]) -> None:
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, sizes[1]))
    try:
        with pytest.raises(ConfigError, match=f"{files[1]} cannot be written by .*: File too large; nothing was"):
            plan_lines.replace_files({files[0]: "new\n", files[1]: "new\n" * 10}, accept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)

    assert contents(files) == ["# first\n", "# second\n"]


def test_a_file_that_cannot_be_restored_is_named_with_its_backup(files: list[Path]) -> None:
    def make_impossible() -> None:
        files[0].unlink()
        files[0].mkdir()
        raise ConfigError

    expected = f"{files[0]} cannot be restored: .* is not a regular file .*; its backup is {files[0]}.bak"
    with pytest.raises(ConfigError, match=expected):
        plan_lines.replace_files(dict.fromkeys(files, "new\n"), make_impossible)

    assert contents([files[0].with_name("first.bak"), files[1]]) == ["# first\n", "# second\n"]


# --- whose file it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drop_in", "expected"),
    [
        ("site.conf", True),
        (str(DROP_IN), False),  # `wsgipool serve` includes the package's own
        (None, False),
    ],
)
def test_only_the_drop_in_of_the_site_is_written(drop_in: str | None, expected: bool) -> None:
    server = replace(SERVER, drop_in=None if drop_in is None else Path(drop_in))

    assert is_writable(server) is expected
