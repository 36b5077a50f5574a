"""Draining the pools of one process, and of all processes of the host by a file in their shared folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import wsgipool
from unit.fakes import FakeDatabase, run_python
from wsgipool import ConfigError, pools
from wsgipool.cli import main
from wsgipool.shared import drains
from wsgipool.shared.drains import DrainRequests

pytestmark = pytest.mark.usefixtures("_no_settings")

NOBODY = pwd.getpwnam("nobody")
SHOP = {"databases": {name: {"url": "mysql://db/x"} for name in ("orders", "archive")}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


# --- in one process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"), [("orders", {"orders": 0, "archive": 1}), (None, {"orders": 0, "archive": 0})]
)
def test_a_process_drains_one_of_its_pools_or_all(
    databases: dict[str, FakeDatabase], name: str | None, left: dict[str, int]
) -> None:
    wsgipool.configure(SHOP)
    for each in SHOP["databases"]:
        with wsgipool.connection(each):
            pass

    wsgipool.drain(name)

    assert {name: database.sessions for name, database in databases.items()} == left


def test_a_registered_pool_is_drained_too(database: FakeDatabase) -> None:
    with wsgipool.register("legacy", database).connection():
        pass

    wsgipool.drain()

    assert database.sessions == 0


def test_draining_unused_pools_does_nothing() -> None:
    wsgipool.drain()


@pytest.mark.usefixtures("databases")
def test_an_unknown_name_cannot_be_drained() -> None:
    wsgipool.configure(SHOP)

    with pytest.raises(ConfigError, match="no database 'order'; did you mean orders"):
        wsgipool.drain("order")


# --- requests in the shared folder -----------------------------------------------------------------------------------


@pytest.fixture
def requests(folder: Path) -> DrainRequests:
    """The drain requests for a process with two pools."""
    requests = DrainRequests(folder)
    for name in SHOP["databases"]:
        requests.register(name)
    return requests


@pytest.mark.parametrize("name", [None, "orders", "archive"])
def test_a_request_is_seen_once(requests: DrainRequests, folder: Path, name: str | None) -> None:
    assert requests.take() == []

    drains.request(folder, name)

    assert requests.take() == [name]
    assert requests.take() == []


def test_requests_in_quick_succession_are_all_seen(requests: DrainRequests, folder: Path) -> None:
    for _ in range(100):
        drains.request(folder)
        assert requests.take() == [None]


def test_a_request_from_before_the_pool_was_created_is_ignored(folder: Path) -> None:
    drains.request(folder)
    requests = DrainRequests(folder)

    requests.register("orders")

    assert requests.take() == []


def test_a_removed_request_is_ignored_and_the_next_one_is_seen(requests: DrainRequests, folder: Path) -> None:
    drains.request(folder)
    requests.take()

    for file in folder.iterdir():
        file.unlink()

    assert requests.take() == []
    drains.request(folder)
    assert requests.take() == [None]


def test_names_that_look_alike_in_a_path_are_different_requests(folder: Path) -> None:
    requests = DrainRequests(folder)
    for name in ("a/b", "a-b", "ä", "x" * 100, "x" * 99):
        requests.register(name)

    drains.request(folder, "a/b")
    drains.request(folder, "x" * 100)

    assert requests.take() == ["a/b", "x" * 100]


OTHER_KINDS: dict[str, Callable[[Path], None]] = {
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
}


@pytest.mark.parametrize("plant", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_request_must_be_a_regular_file(requests: DrainRequests, folder: Path, plant: Callable[[Path], None]) -> None:
    folder.mkdir(mode=0o700)

    plant(folder / "drain-1")

    assert requests.take() == []


def test_a_link_in_the_place_of_a_request_is_replaced_and_not_followed(
    requests: DrainRequests, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "precious").write_text("kept")
    (folder / "drain-1").symlink_to(tmp_path / "precious")

    drains.request(folder)

    assert requests.take() == [None]
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_folder_in_the_place_of_a_request_is_an_error_that_leaves_nothing(folder: Path) -> None:
    (folder / "drain-1").mkdir(parents=True)
    folder.chmod(0o700)

    with pytest.raises(ConfigError, match=r"drain-1 cannot be written: .*, so no pool is drained"):
        drains.request(folder)

    assert [path.name for path in folder.iterdir()] == ["drain-1"]


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)

    with pytest.raises(ConfigError, match="is open to others"):
        drains.request(folder)


# --- processes of a host ---------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys
import wsgipool
from unit.fakes import FakeDatabase, eventually
from wsgipool import drivers
databases = {{}}
drivers.for_database = lambda settings: databases.setdefault(settings.name, FakeDatabase())
wsgipool.configure({{"runtime_dir": {folder!r}, "databases": {{
    name: {{"url": "mysql://db/x"}} for name in ("orders", "archive")}}}})

def sessions():
    return " ".join(str(databases[name].sessions) for name in ("orders", "archive"))

def use():
    for name in databases:
        with wsgipool.connection(name):
            pass
    print(sessions(), flush=True)

def see(expected):
    eventually(lambda: sessions() == expected)
    print(sessions(), flush=True)

{work}
"""


@contextlib.contextmanager
def process(folder: Path, work: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the site, which prints the sessions of its databases as soon as they have the expected numbers."""
    preamble = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    program = preamble + PROGRAM.format(folder=str(folder), work=work)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().strip()


def settings_file(folder: Path) -> Path:
    """Return the site's settings file, after creating its shared folder like an administrator."""
    folder.mkdir(mode=0o700)
    path = folder.parent / "wsgipool.toml"
    tables = "".join(f'[databases.{name}]\nurl = "mysql://db/x"\n' for name in SHOP["databases"])
    path.write_text(f'runtime_dir = "{folder}"\n{tables}')
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["drain", *arguments])


def test_the_command_drains_every_process_of_the_host_one_pool_or_all(folder: Path) -> None:
    work = 'use(); see("0 1"); use(); see("0 0")'
    config = str(settings_file(folder))
    with process(folder, work) as first, process(folder, work) as second:
        assert [line(first), line(second)] == ["1 1", "1 1"]

        assert run("orders", "--config", config).exit_code == 0

        assert [line(first), line(second)] == ["0 1", "0 1"]
        assert [line(first), line(second)] == ["1 1", "1 1"]

        result = run("--config", config)

        me = pwd.getpwuid(os.geteuid()).pw_name
        assert result.stdout.startswith(
            f"all pools: the processes of {me} that share {folder} replace their connections"
        )
        assert [line(first), line(second)] == ["0 0", "0 0"]


def test_a_drain_request_reaches_the_child_of_a_fork(folder: Path) -> None:
    work = """
child = os.fork()
if child == 0:
    use()
    see("0 0")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    with process(folder, work) as parent:
        assert line(parent) == "1 1"

        drains.request(folder)

        assert line(parent) == "0 0"


def test_a_process_without_connections_has_no_thread_for_drain_requests(folder: Path) -> None:
    program = f"""
import wsgipool
from wsgipool._background import background
wsgipool.configure({{"runtime_dir": {str(folder)!r}, "databases": {{"shop": {{"url": "sqlite:////tmp/never"}}}}}})
wsgipool.pool("shop")
print(background.is_running)
"""
    assert run_python(program) == "False\n"
    assert not folder.exists()


def test_a_process_without_connections_drains_before_it_opens_one(
    folder: Path, databases: dict[str, FakeDatabase], log: pytest.LogCaptureFixture
) -> None:
    wsgipool.configure({**SHOP, "runtime_dir": str(folder)})
    wsgipool.pool("orders")
    drains.request(folder)
    seen: list[str] = []
    databases["orders"].hooks["connect"] = lambda: seen.extend(log.messages)

    with wsgipool.connection("orders"):
        pass

    assert seen[-1] == "pool 'orders' is drained, as `wsgipool drain` requests"
    assert databases["orders"].sessions == 1


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_name_that_the_settings_do_not_have_is_a_warning(folder: Path) -> None:
    result = run("order", "--config", str(settings_file(folder)))

    assert result.exit_code == 0
    assert "has no database 'order' (did you mean orders?); only processes that registered" in result.stderr


@pytest.mark.usefixtures("_on_path")
def test_without_settings_the_error_for_root_names_the_user_of_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "SYSTEM_CONFIG", tmp_path / "none.toml")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    result = run()

    assert result.exit_code == 1
    assert result.stderr == (
        "wsgipool: no settings name a runtime_dir, and no httpd of this host runs Python, so the folder of the "
        "processes is unknown; run `wsgipool drain` as their user\n"
    )


def test_root_creates_no_folder_for_other_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(settings_file(folder))
    folder.rmdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    result = run("--config", config)

    assert result.exit_code == 1
    assert f"runtime_dir = {folder}: No such file or directory; run the command as the user" in result.stderr
    assert not folder.exists()


# --- root, in a folder of another user -------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")


@pytest.fixture
def theirs(servers_folder: Path) -> Iterator[Path]:
    """The shared folder of the user nobody."""
    with tempfile.TemporaryDirectory(dir=servers_folder) as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "run"
        folder.mkdir(mode=0o700)
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
        yield folder


def site_of(folder: Path) -> str:
    path = folder.parent / "wsgipool.toml"
    path.write_text(f'runtime_dir = "{folder}"\n[databases.orders]\nurl = "mysql://db/x"\n')
    return str(path)


@as_root
def test_root_requests_as_the_owner_of_the_folder(theirs: Path) -> None:
    result = run("--config", site_of(theirs))

    assert result.exit_code == 0, result.stderr
    assert "the processes of nobody that share" in result.stdout
    assert [path.stat().st_uid for path in theirs.iterdir()] == [NOBODY.pw_uid]


@as_root
@pytest.mark.parametrize("planted", ["drain-1", "."])
def test_root_follows_no_link_of_another_user(theirs: Path, tmp_path: Path, planted: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    config = site_of(theirs)
    if planted == ".":
        theirs.rmdir()
        theirs.symlink_to(precious)
        os.lchown(theirs, NOBODY.pw_uid, NOBODY.pw_gid)
    else:
        (theirs / planted).symlink_to(precious / "file")

    result = run("--config", config)

    assert result.exit_code == (1 if planted == "." else 0)
    assert list(precious.iterdir()) == []


@as_root
def test_a_request_of_another_user_is_ignored(folder: Path, requests: DrainRequests) -> None:
    folder.mkdir()
    (folder / "drain-1").touch()
    os.chown(folder / "drain-1", NOBODY.pw_uid, NOBODY.pw_gid)

    assert requests.take() == []
