"""Root's changes in folders where another user may write; the user `nobody` is the attacker."""

from __future__ import annotations

import os
import pwd
import random
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsgipool import ConfigError
from wsgipool.cli import main
from wsgipool.privileged import create_text, owner_of, read_text, refuse_shared, rename, replace_text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")

NOBODY = pwd.getpwnam("nobody")
SETTINGS = '[databases.shop]\nurl = "mysql://shop@127.0.0.1:1/shop"\nmax_size = 8\n'


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of the user `nobody`, with settings in it."""
    with tempfile.TemporaryDirectory(prefix="wsgipool-theirs-") as name:
        folder = Path(name)
        (folder / "wsgipool.toml").write_text(SETTINGS)
        for path in (folder, folder / "wsgipool.toml"):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that only root may read."""
    path = tmp_path / "secret"
    path.write_text("root's own\n")
    path.chmod(0o600)
    return path


def is_untouched(secret: Path) -> bool:
    status = secret.stat()
    return (secret.read_text(), status.st_mode & 0o7777, status.st_uid) == ("root's own\n", 0o600, 0)


@contextmanager
def attacking(attack: Callable[[], object]) -> Iterator[None]:
    """Repeat a function as the user `nobody`, as fast as possible."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY.pw_gid)
        os.setuid(NOBODY.pw_uid)
        while True:
            try:
                attack()
            except OSError:
                time.sleep(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def plan_write(settings: Path) -> None:
    command = ["plan", "--mpm", "daemon", "--processes", "2", "--threads", "8", "--max-connections", "9", "--write"]
    CliRunner().invoke(main, [*command, "--config", str(settings)])


# --- files -----------------------------------------------------------------------------------------------------------


def exchange(*files: Path, target: Path) -> None:
    """Replace each path by a link, a hard link, a FIFO, a folder or a file, in turn."""
    for file in files:
        what = random.choice(["link", "fifo", "folder", "file", "file"])
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        if what == "link":
            file.symlink_to(target)
        elif what == "fifo":
            os.mkfifo(file)
        elif what == "folder":
            file.mkdir()
        else:
            file.write_text(SETTINGS)


@pytest.mark.parametrize("names", [("wsgipool.toml.bak",), ("wsgipool.toml",), ("wsgipool.toml", "wsgipool.toml.bak")])
def test_root_writes_no_file_through_a_link_of_a_user(names: tuple[str, ...], theirs: Path, secret: Path) -> None:
    files = [theirs / name for name in names]

    with attacking(lambda: exchange(*files, target=secret)):
        for _ in range(12):
            plan_write(theirs / "wsgipool.toml")

    assert is_untouched(secret)
    left = [path for path in theirs.iterdir() if path.lstat().st_uid == 0 and path not in files]
    assert left == [], "root made files in another's folder"


def test_root_follows_no_folder_that_a_user_replaces(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "wsgipool.toml").write_text(SETTINGS)
    site, aside = theirs / "site", theirs / "aside"
    site.mkdir()
    (site / "wsgipool.toml").write_text(SETTINGS)
    os.chown(site, NOBODY.pw_uid, NOBODY.pw_gid)

    def swap() -> None:
        site.rename(aside)
        site.symlink_to(tmp_path)
        site.unlink()
        aside.rename(site)

    with attacking(swap):
        for _ in range(12):
            plan_write(site / "wsgipool.toml")

    assert (tmp_path / "wsgipool.toml").read_text() == SETTINGS
    assert [path.name for path in tmp_path.iterdir()] == ["wsgipool.toml"]


def test_settings_in_a_users_folder_are_written_as_that_user(theirs: Path) -> None:
    plan_write(theirs / "wsgipool.toml")

    for path in (theirs / "wsgipool.toml", theirs / "wsgipool.toml.bak"):
        assert path.stat().st_uid == NOBODY.pw_uid
    assert "max_size = 2" in (theirs / "wsgipool.toml").read_text()
    assert (theirs / "wsgipool.toml.bak").read_text() == SETTINGS


def test_a_file_with_hard_links_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other\n")
    os.link(tmp_path / "other", tmp_path / "file")

    with pytest.raises(ConfigError, match=r"/file has 2 hard links"):
        replace_text(tmp_path / "file", "new\n")

    assert (tmp_path / "other").read_text() == "other\n"


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_other_files_than_regular_ones_are_refused_without_a_wait(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    else:
        os.mknod(path, (stat.S_IFIFO if kind == "fifo" else stat.S_IFSOCK) | 0o600)

    for action in (read_text, lambda path: replace_text(path, "new\n"), lambda path: rename(path, "new")):
        with pytest.raises(ConfigError, match=str(path)):
            action(path)


def test_a_file_is_not_renamed_through_a_link_of_a_user(theirs: Path, secret: Path) -> None:
    (theirs / "wsgipool.conf").symlink_to(secret)
    os.lchown(theirs / "wsgipool.conf", NOBODY.pw_uid, NOBODY.pw_gid)

    with pytest.raises(ConfigError, match="Permission denied"):
        rename(theirs / "wsgipool.conf", "wsgipool.conf.bak")

    assert is_untouched(secret)


def test_a_backup_that_is_a_link_is_not_written(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "file").write_text("old\n")
    (tmp_path / "file.bak").symlink_to(secret)

    with pytest.raises(ConfigError, match=r"file.bak is not a regular file"):
        replace_text(tmp_path / "file", "new\n")

    assert (tmp_path / "file").read_text() == "old\n"
    assert is_untouched(secret)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_text("old\n")
    folder.chmod(mode)

    with pytest.raises(ConfigError, match=f"other users may write to {folder} .*; chmod go-w {folder}"):
        replace_text(folder / "file", "new\n")

    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_folder_of_two_users_is_refused(theirs: Path) -> None:
    inner = theirs / "inner"
    inner.mkdir()
    (inner / "file").write_text("old\n")
    os.chown(inner, pwd.getpwnam("daemon").pw_uid, -1)

    with pytest.raises(ConfigError, match="below folders or links of daemon and nobody"):
        replace_text(inner / "file", "new\n")


def test_a_link_of_roots_own_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "available").mkdir()
    (tmp_path / "available" / "file").write_text("old\n")
    (tmp_path / "enabled").symlink_to("available/file")

    assert replace_text(tmp_path / "enabled", "new\n") == tmp_path / "available" / "file.bak"

    assert (tmp_path / "enabled").is_symlink()
    assert (tmp_path / "available" / "file").read_text() == "new\n"


def test_circular_links_are_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize(("mode", "kept"), [(0o640, 0o640), (0o600, 0o600), (0o4755, 0o755)])
def test_a_backup_has_the_readers_of_the_file(mode: int, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    path.chmod(mode)

    before = os.umask(0)
    try:
        backup = replace_text(path, "new\n")
    finally:
        os.umask(before)

    assert backup.read_text() == "old\n"
    assert (backup.stat().st_uid, backup.stat().st_mode & 0o7777) == (NOBODY.pw_uid, kept)
    assert path.stat().st_mode & 0o7777 == mode & 0o777 | (mode & 0o7000 and path.stat().st_mode & 0o7000)


def test_a_new_file_never_replaces_another(secret: Path) -> None:
    with pytest.raises(ConfigError, match=f"{secret} cannot be written by root: File exists"):
        create_text(secret, "new\n", 0o644)

    assert is_untouched(secret)


def test_install_into_a_users_folder_is_done_as_that_user(theirs: Path, tmp_path: Path) -> None:
    (theirs / "wsgipool.toml").unlink()

    command = ["apache", "install", "--directory", str(tmp_path), "--config", str(theirs / "wsgipool.toml")]
    result = CliRunner().invoke(main, command)

    assert result.exit_code == 0, result.output
    status = (theirs / "wsgipool.toml").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (NOBODY.pw_uid, 0o640)
    assert f"let httpd read it: chgrp www-data {theirs}/wsgipool.toml" in result.stdout
    assert (tmp_path / "wsgipool.conf").stat().st_uid == 0


def test_install_writes_nothing_through_a_users_link(theirs: Path, secret: Path) -> None:
    (theirs / "wsgipool.conf").symlink_to(secret)
    os.chown(theirs / "wsgipool.conf", NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)

    command = ["apache", "install", "--directory", str(theirs), "--config", str(theirs / "wsgipool.toml")]
    result = CliRunner().invoke(main, command)

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert is_untouched(secret)


@pytest.mark.parametrize("command", ["drain", "status", "top"])
def test_the_settings_of_a_user_name_no_folder_of_another(command: str, theirs: Path, tmp_path: Path) -> None:
    (theirs / "wsgipool.toml").write_text(f'runtime_dir = "{tmp_path}"\n{SETTINGS}')
    tmp_path.chmod(0o700)

    result = CliRunner().invoke(main, [command, "--config", str(theirs / "wsgipool.toml")])

    assert result.exit_code == 1
    assert f"runtime_dir = {tmp_path} belongs to root, but the file is read by nobody" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_below_another_users_is_refused(theirs: Path) -> None:
    (theirs / "inner").mkdir()

    with pytest.raises(ConfigError, match="is below a folder of nobody"):
        refuse_shared(theirs / "inner")


def test_the_owner_of_a_file_depends_on_all_folders_and_links(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(theirs)
    (tmp_path / "own").write_text("")

    assert owner_of(tmp_path / "own") == "#0"
    assert owner_of(theirs / "wsgipool.toml") == f"#{NOBODY.pw_uid}"
    assert owner_of(tmp_path / "link" / "not there") == f"#{NOBODY.pw_uid}"
    os.chown(tmp_path / "own", NOBODY.pw_uid, -1)
    assert owner_of(tmp_path / "own") == f"#{NOBODY.pw_uid}"
