"""Recognition of the httpd that a PidFile names; processes of another user are impostors."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsgipool.httpd import live
from wsgipool.httpd.dump import Dump

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

NOBODY = pwd.getpwnam("nobody")


def configuration(pid_file: Path, program: str | Path = "apachectl") -> Dump:
    return Dump(str(program), directives=[], modules={}, defines={}, user="nobody", pid_file=pid_file, warnings=[])


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wsgipool-live-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(program: Path, user: str | None = None) -> Iterator[int]:
    """Run a program that is not httpd, under any name."""
    with subprocess.Popen([program, "60"], user=user, env={"SHOP": "open"}) as process:
        # The process has its name, and its user by the set-user-ID bit, a moment after exec() has begun.
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != program.name:
            time.sleep(0.001)
        try:
            yield process.pid
        finally:
            process.kill()


def program_named(folder: Path, name: str) -> Path:
    return Path(shutil.copy("/bin/sleep", folder / name))


def test_an_httpd_of_this_user_is_found_with_its_environment(folder: Path) -> None:
    program = program_named(folder, "apache2")
    with running(program) as pid:
        (folder / "pid").write_text(f"{pid}\n")
        found = live.find(configuration(folder / "pid", program))

    assert found is not None
    assert (found.pid, found.user, found.environment["SHOP"]) == (pid, f"#{os.geteuid()}", "open")


def test_another_program_with_its_pid_is_ignored(folder: Path) -> None:
    with running(program_named(folder, "other")) as pid:
        (folder / "pid").write_text(f"{pid}\n")

        assert live.find(configuration(folder / "pid")) is None


def test_another_binary_of_that_name_is_ignored(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    program = program_named(folder, "apache2")
    with running(program_named(folder / "elsewhere", "apache2")) as pid:
        (folder / "pid").write_text(f"{pid}\n")

        assert live.find(configuration(folder / "pid", program)) is None


@as_root
def test_a_process_of_another_user_is_ignored(folder: Path) -> None:
    program = program_named(folder, "apache2")
    with running(program, "nobody") as pid:
        (folder / "pid").write_text(f"{pid}\n")

        assert live.find(configuration(folder / "pid", program)) is None


@as_root
def test_a_set_user_id_program_of_another_user_is_ignored(folder: Path) -> None:
    program = program_named(folder, "apache2")
    program.chmod(0o4755)
    with running(program, "nobody") as pid:
        assert f"\nUid:\t{NOBODY.pw_uid}\t0\t" in Path(f"/proc/{pid}/status").read_text()
        (folder / "pid").write_text(f"{pid}\n")

        assert live.find(configuration(folder / "pid", program)) is None


@as_root
def test_a_pid_file_of_another_user_is_ignored(folder: Path) -> None:
    program = program_named(folder, "apache2")
    with running(program) as pid:
        (folder / "pid").write_text(f"{pid}\n")
        os.chown(folder / "pid", NOBODY.pw_uid, NOBODY.pw_gid)

        assert live.find(configuration(folder / "pid", program)) is None


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "text", "long", "missing"])
def test_an_invalid_pid_file_is_ignored_without_a_wait(kind: str, folder: Path) -> None:
    path = folder / "pid"
    if kind == "link":
        (folder / "target").write_text(f"{os.getpid()}\n")
        path.symlink_to("target")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text({"text": "one", "long": "9" * 10_000}[kind])

    assert live.find(configuration(path)) is None
