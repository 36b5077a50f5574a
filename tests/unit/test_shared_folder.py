"""The folder that the processes of a host share: created when needed, and closed to other users."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wsgipool import pools
from wsgipool.errors import ConfigError
from wsgipool.shared import folder as host_folder
from wsgipool.shared.folder import default_folder, open_file, open_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def make(folder: Path) -> Path:
    """Open the folder and a file in it, like a budget, and return the file's path."""
    path = folder / "file"
    descriptor = open_folder(folder)
    try:
        os.close(open_file(descriptor, path, 4096))
    finally:
        os.close(descriptor)
    return path


def test_the_folder_and_the_file_are_made_for_this_user_alone(folder: Path) -> None:
    path = make(folder)

    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == bytes(4096)


def test_a_file_that_is_there_is_used_and_not_changed(folder: Path) -> None:
    path = make(folder)
    path.write_bytes(b"something" + bytes(4087))

    make(folder)

    assert path.read_bytes().startswith(b"something")


def test_no_descriptor_reaches_a_program_that_is_started(folder: Path) -> None:
    descriptor = open_folder(folder)
    file = open_file(descriptor, folder / "file", 4096)

    assert not os.get_inheritable(descriptor)
    assert not os.get_inheritable(file)

    os.close(file)
    os.close(descriptor)


def test_a_planted_link_in_place_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match=f"{folder} is a symbolic link, which is not followed"):
        make(folder)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_planted_link_in_place_of_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    folder.mkdir(mode=0o700)
    (folder / "file").symlink_to(target)

    with pytest.raises(ConfigError, match=r"file cannot be opened by .*: .*; remove it"):
        make(folder)
    assert target.read_text() == "precious"


def test_a_hard_link_in_place_of_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.touch(mode=0o600)
    folder.mkdir(mode=0o700)
    (folder / "file").hardlink_to(target)

    with pytest.raises(ConfigError, match="file has 2 hard links; remove it"):
        make(folder)
    assert target.stat().st_size == 0


def test_a_fifo_in_place_of_the_file_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "file", 0o600)

    with pytest.raises(ConfigError, match="file is of the wrong kind, prw-------; remove it"):
        make(folder)


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.touch(mode=0o600)

    with pytest.raises(ConfigError, match=r"cannot be created or opened by .*: Not a directory; name another folder"):
        make(folder)


@pytest.mark.parametrize("planted", ["folder", "file"])
def test_a_folder_or_file_of_another_user_is_refused(
    planted: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(folder)
    me = os.geteuid()
    descriptor = open_folder(folder)
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)  # the folder now belongs to another user

    with pytest.raises(ConfigError, match=r"belongs to .*, and this process runs as .*; run it as that user"):
        open_folder(folder) if planted == "folder" else open_file(descriptor, path, 4096)
    os.close(descriptor)


@pytest.mark.parametrize("planted", ["folder", "file"])
def test_a_folder_or_file_that_is_open_to_others_is_refused(planted: str, folder: Path) -> None:
    path = make(folder)
    (folder if planted == "folder" else path).chmod(0o722)

    with pytest.raises(ConfigError, match=r"is open to others, .*; chmod go= "):
        make(folder)


def test_the_error_for_a_folder_that_cannot_be_created_has_the_command_to_create_it(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere" / "the run"

    with pytest.raises(ConfigError, match="No such file or directory; create it once: install ") as caught:
        make(folder)

    command = str(caught.value).partition("create it once: ")[2].partition(", or name another folder in runtime_dir")[0]
    subprocess.run(shlex.split(command), check=True)
    make(folder)


def test_the_error_for_a_user_without_an_account_has_the_user_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987654321)

    with pytest.raises(ConfigError, match=r"by user id 987654321: .* install -d -m 700 -o 987654321 /"):
        make(tmp_path / "nowhere" / "run")


def test_a_full_disk_is_an_error_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(ConfigError, match=r"file cannot be written by .*: No space left on device"):
        make(folder)


def test_the_folder_is_in_run_if_it_exists_there_and_else_in_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_folder, "RUN", tmp_path / "run")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    name = f"wsgipool-{os.geteuid()}"

    assert default_folder() == tmp_path / "temporary" / name

    (tmp_path / "run" / name).mkdir(parents=True)
    assert default_folder() == tmp_path / "run" / name


PROBLEMS: dict[str, Callable[[Path], object]] = {
    "open to others": lambda folder: folder.mkdir(mode=0o755),
    "a symbolic link": lambda folder: folder.symlink_to("/tmp"),  # noqa: S108
    "is not a folder": lambda folder: folder.touch(),
    "cannot be created or opened by": lambda folder: folder.parent.rmdir(),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_error_names_the_key_that_names_the_folder(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_current", None)
    folder = tmp_path / "parent" / "run"
    folder.parent.mkdir()
    PROBLEMS[problem](folder)
    settings = tmp_path / "wsgipool.toml"
    settings.write_text(
        f"runtime_dir = {json.dumps(str(folder))}\n[budget]\nconnections = 5\n"
        '[databases.shop]\nurl = "mysql://app@127.0.0.1/shop"\n'
    )

    with pytest.raises(ConfigError, match=f"^{settings}: runtime_dir( =|:) {folder}.*{problem}"):
        pools.configure(settings)


def test_the_error_for_another_users_folder_in_tmp_recommends_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_folder, "RUN", tmp_path / "run")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 54321)
    folder = default_folder()
    folder.mkdir(mode=0o700)

    with pytest.raises(ConfigError) as caught:
        open_folder(folder)

    message = str(caught.value)
    run_folder = tmp_path / "run" / f"wsgipool-{me + 54321}"
    assert f"any user of this machine can create a folder of that name in {tmp_path} first" in message
    assert f"the line 'd {run_folder} 0700 {me + 54321} -' in /etc/tmpfiles.d/wsgipool.conf" in message
    assert f"RuntimeDirectory={run_folder.name} and RuntimeDirectoryMode=0700" in message
    assert "\n" not in message


def test_the_error_for_a_missing_descriptor_names_the_remedy(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ConfigError, match=r"Too many open files. It may have 0; raise that \(LimitNOFILE="):
            open_folder(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
