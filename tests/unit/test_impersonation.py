"""Questions asked as another user: `nobody` controls the child process, and gets nothing of root's."""

from __future__ import annotations

import os
import pwd
import select
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from wsgipool import ConfigError, impersonation
from wsgipool.impersonation import as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that only root may read."""
    path = tmp_path / "secret"
    path.write_text("root's own\n")
    path.chmod(0o600)
    return path


def test_a_question_has_no_more_rights_than_the_user(secret: Path) -> None:
    def state() -> list[object]:
        return [os.getresuid(), os.getresgid(), os.getgroups(), str(Path.cwd()), os.access(secret, os.R_OK)]

    nobody = [NOBODY.pw_uid] * 3, [NOBODY.pw_gid] * 3
    assert as_user("nobody", state) == [*nobody, [NOBODY.pw_gid], "/", False]


def test_a_question_has_none_of_roots_variables_and_files(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    monkeypatch.setenv("PGPASSWORD", "s3cret")

    def state() -> list[object]:
        has_secret = any(os.path.samestat(os.fstat(number), opened) for number in open_files())
        return ["PGPASSWORD" in os.environ, os.environ["SHOP"], os.environ["HOME"], has_secret]

    opened = secret.stat()
    with secret.open():
        assert as_user("nobody", state, environment={"SHOP": "open"}) == [False, "open", NOBODY.pw_dir, False]


def test_a_question_sees_the_files_of_another_root_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").touch()

    assert as_user("nobody", lambda: [path.name for path in Path("/").iterdir()], root=tmp_path) == ["file"]


def test_an_endless_question_is_ended_and_leaves_no_process() -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    began = time.monotonic()

    with pytest.raises(ConfigError, match=r"a process of nobody gave no answer within 0\.2 s"):
        as_user("nobody", lambda: time.sleep(60), timeout=0.2)

    assert time.monotonic() - began < 10
    assert children.read_text() == before


def test_a_question_ends_in_time_after_its_parent_was_killed() -> None:
    reader, writer = os.pipe()
    asking = os.fork()
    if asking == 0:
        try:
            os.close(reader)
            as_user(pwd.getpwuid(os.geteuid()).pw_name, lambda: time.sleep(60), timeout=0.5)
        finally:
            os._exit(0)
    os.close(writer)
    time.sleep(0.1)
    os.kill(asking, signal.SIGKILL)
    os.waitpid(asking, 0)

    with os.fdopen(reader, "rb") as end:
        ready, _, _ = select.select([end], [], [], 30)
        assert ready, "the process that asks lives on"
        assert end.read() == b""


@pytest.mark.parametrize("how", ["killed", "nonsense", "endless"])
def test_a_process_that_the_user_controls_gets_only_an_error_from_root(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impersonation, "_MAX_ANSWER", 100_000)

    def question() -> object:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        (writer,) = (number for number in open_files() if stat.S_ISFIFO(os.fstat(number).st_mode))
        os.write(writer, b"[" * 60_000)
        while how == "endless":
            os.write(writer, b"[" * 60_000)
        os._exit(0)

    with pytest.raises(ConfigError, match="a process of nobody ended without an answer"):
        as_user("nobody", question, timeout=10)


def open_files() -> list[int]:
    """Return the descriptors beyond the standard ones."""
    numbers = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    return [number for number in numbers if number > 2 and os.path.lexists(f"/proc/self/fd/{number}")]


def test_an_answer_is_returned_unchanged() -> None:
    value = {"a": [1, 2.5, None, True, "ü\udcff", "\x00"], "b": {}}

    assert as_user("nobody", lambda: value) == value


def test_a_missing_user_is_an_error() -> None:
    with pytest.raises(ConfigError, match="this host has no user no-such-user"):
        as_user("no-such-user", lambda: "")
