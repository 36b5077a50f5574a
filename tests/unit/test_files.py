from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from unit.fakes import Task
from wsgipool.files import read_text


@pytest.mark.parametrize("content", ["", "s3cret", " a\tb \r\nc\r\n", "ü€\N{GRINNING FACE}", "\0", "x" * 100])
def test_the_text_of_a_file_is_returned_unchanged(tmp_path: Path, content: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content.encode())

    assert read_text(file, 100) == content


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")

    assert read_text(tmp_path / "link", 100) == "text"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * 1025, "is larger than 1 KiB; is it the right file?"),
        (b"s3cret\xfc", "is not UTF-8 (byte 7); save it as UTF-8"),
        (b"\xed\xa0\x80", "is not UTF-8 (byte 1); save it as UTF-8"),
        (b"\xef\xbb\xbftext", "begins with a byte order mark; save it as UTF-8 without one"),
        ("text".encode("utf-16"), "begins with a byte order mark; save it as UTF-8 without one"),
    ],
)
def test_a_long_text_or_one_without_utf8_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its message is compared
        read_text(file, 1024)

    assert str(caught.value) == reason


def refusal(path: Path) -> str:
    """Return the reason why a path is refused. A separate thread reads it, in case reading blocks."""

    def ask() -> str:
        try:
            return read_text(path, 100)
        except ValueError as error:
            return str(error)

    return Task(ask).result()


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    assert refusal(tmp_path / "fifo") == "is a FIFO; name a regular file"


def test_a_fifo_behind_a_link_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")

    assert refusal(tmp_path / "link") == "is a FIFO; name a regular file"


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))

        assert refusal(tmp_path / "socket") == "is a socket; name a regular file"


def test_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a folder; name a regular file"
    assert refusal(Path("/dev/zero")) == "is a device; name a regular file"


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    assert refusal(Path("/tmp") / name) == "has a character in its name that no file name can have"  # noqa: S108


def test_an_error_of_the_system_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing", 100)
    with pytest.raises(OSError, match="too long"):
        read_text(tmp_path / ("x" * 300), 100)


def test_a_refused_file_does_not_stay_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        refusal(tmp_path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
