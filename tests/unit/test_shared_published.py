"""The documents that processes publish in the shared folder: replaced as a whole, and added up when processes end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wsgipool import ConfigError
from wsgipool.shared import published
from wsgipool.shared.published import Document, Publication

KILLED = """
import os, signal, sys
from pathlib import Path
from wsgipool.shared import published
from wsgipool.shared.published import Publication

folder = Path(sys.argv[1])


def add(known, documents):
    return {"number": known.get("number", 0) + sum(document["number"] for _, document in documents)}


def total():
    found = published.read(folder)
    return found.sum.get("number", 0) + sum(document["number"] for _, document in [*found.live, *found.ended])


def was_killed(function, step):
    '''Call a function in a child that is killed before a step that touches a file; return whether it was.'''
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    steps = 0

    def die(event, _):
        nonlocal steps
        steps += event in ("open", "os.rename", "os.remove", "fcntl.fcntl", "fcntl.flock", "os.scandir")
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    function()
    os._exit(0)


def ended(number):
    publication = Publication(folder)
    publication.write({"number": number})
    publication.close()


"""


def after_each_kill(folder: Path, code: str) -> list[int]:
    """Run code that prints the total after a kill before each step, the last time without a kill."""
    run = subprocess.run([sys.executable, "-c", KILLED + code, str(folder)], capture_output=True, text=True, check=True)
    return [int(line) for line in run.stdout.split()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def add(known: Document, documents: Sequence[tuple[Path, Document]]) -> Document:
    return {"number": known.get("number", 0) + sum(document["number"] for _, document in documents)}


def numbers(found: Sequence[tuple[Path, Document]]) -> list[int]:
    return [document["number"] for _, document in found]


def ended(folder: Path, number: int) -> Path:
    """Return the file of a process that has ended."""
    publication = Publication(folder)
    publication.write({"number": number})
    publication.close()
    return next(path for path, document in published.read(folder).ended if document["number"] == number)


def test_a_document_is_that_of_a_live_process_until_its_process_ends(folder: Path) -> None:
    publication = Publication(folder)
    publication.write({"number": 1})
    publication.write({"number": 2})
    assert (numbers(published.read(folder).live), numbers(published.read(folder).ended)) == ([2], [])

    publication.close()

    assert (numbers(published.read(folder).live), numbers(published.read(folder).ended)) == ([], [2])


def test_documents_of_ended_processes_are_added_up_and_removed(folder: Path) -> None:
    live = Publication(folder)
    live.write({"number": 1})
    files = [ended(folder, 10), ended(folder, 100)]

    published.add_up(folder, add)

    found = published.read(folder)
    assert (numbers(found.live), numbers(found.ended), found.sum) == ([1], [], {"number": 110})
    assert not any(file.exists() for file in files)


def test_a_process_killed_while_it_writes_leaves_a_whole_document(folder: Path) -> None:
    code = """
for step in range(1, 100):
    publication = Publication(folder)
    publication.write({"number": 1})
    go_on = was_killed(lambda: publication.write({"number": 2}), step)
    publication.close()
    print(total())
    ended(10 - total() % 10)
    published.add_up(folder, add)
    if not go_on:
        break
"""
    units = [total % 10 for total in after_each_kill(folder, code)]

    assert len(units) > 3
    assert (units[0], units[-1]) == (1, 2)
    assert set(units) == {1, 2}


def test_a_process_killed_while_it_adds_up_loses_nothing_and_counts_nothing_twice(folder: Path) -> None:
    code = """
for step in range(1, 100):
    ended(10)
    ended(100)
    go_on = was_killed(lambda: published.add_up(folder, add), step)
    print(total())
    published.add_up(folder, add)
    if not go_on:
        break
"""
    totals = after_each_kill(folder, code)

    assert 5 < len(totals) < 99
    assert totals == [110 * (step + 1) for step in range(len(totals))]


def test_only_one_process_adds_up_at_a_time(folder: Path) -> None:
    ended(folder, 1)

    def add_and_try_again(known: Document, documents: Sequence[tuple[Path, Document]]) -> Document:
        published.add_up(folder, lambda *_: pytest.fail("added up twice"))
        return add(known, documents)

    published.add_up(folder, add_and_try_again)

    assert published.read(folder).sum == {"number": 1}


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 0), Path.unlink, lambda path: path.write_text("{")])
def test_a_document_that_another_program_damaged_is_mended_by_the_next_write(folder: Path, change: object) -> None:
    publication = Publication(folder)
    publication.write({"number": 1})
    (file,) = folder.iterdir()
    assert callable(change)
    change(file)

    publication.write({"number": 2})

    assert numbers(published.read(folder).live) == [2]


def test_a_removed_folder_is_created_by_the_next_write(folder: Path) -> None:
    publication = Publication(folder)
    publication.write({"number": 1})
    next(folder.iterdir()).unlink()
    folder.rmdir()

    publication.write({"number": 2})

    assert numbers(published.read(folder).live) == [2]


FOREIGN = [b"", b"{", b"5", b"null", b"[]", b"\xff\xfe", b"\0" * 100, b"[" * 100_000, b"1" * 5000, bytes(5 << 20),
           b'{"number": NaN}', b'{"number": Infinity}']  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_is_skipped_and_logged_once(folder: Path, log: pytest.LogCaptureFixture, content: bytes) -> None:
    Publication(folder).write({"number": 1})
    file = ended(folder, 2)
    file.write_bytes(content)

    for _ in range(2):
        found = published.read(folder)
        assert (numbers(found.live), numbers(found.ended)) == ([], [1])
    published.add_up(folder, add)

    assert published.read(folder).sum == {"number": 1}
    assert log.text.count(f"{file} is skipped") == 1


@pytest.mark.parametrize("name", ["ended-2.json", "record-2.json"])
@pytest.mark.parametrize("content", [*FOREIGN, b'{"files": 5, "sum": {}}', b'{"files": [5], "sum": 5}'])
def test_a_damaged_sum_or_record_begins_again(folder: Path, name: str, content: bytes) -> None:
    ended(folder, 1)
    (folder / name).write_bytes(content)

    published.add_up(folder, add)
    published.record(folder, {"new": 1})

    assert published.read(folder).sum == {"number": 1}
    assert published.recorded(folder) == {"new": 1}


def test_a_sum_that_names_other_files_removes_only_documents(folder: Path) -> None:
    victim = folder / "victim"
    outside = folder.parent / "process-2-outside.json"
    ended(folder, 1)
    victim.touch()
    outside.touch()
    (folder / "ended-2.json").write_text('{"files": ["victim", "../process-2-outside.json"], "sum": {}}')

    published.add_up(folder, add)

    assert victim.exists()
    assert outside.exists()


def test_folders_pipes_and_links_among_the_files_are_skipped(folder: Path) -> None:
    publication = Publication(folder)
    publication.write({"number": 1})
    (folder / "process-2-1-a.json").mkdir()
    os.mkfifo(folder / "process-2-1-b.json")
    (folder / "process-2-1-c.json").symlink_to("/etc/passwd")
    (folder / "process-2-").touch()
    (folder / "process-1-5-x.json").touch()

    assert numbers(published.read(folder).live) == [1]


def test_a_lone_surrogate_becomes_printable(folder: Path) -> None:
    publication = Publication(folder)
    publication.write({"name": "a\udc80b \N{GRINNING FACE}"})

    ((_, document),) = published.read(folder).live

    assert document == {"name": "a?b \N{GRINNING FACE}"}


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)

    with pytest.raises(ConfigError, match="is open to others"):
        Publication(folder).write({})
    with pytest.raises(ConfigError, match="is open to others"):
        published.read(folder)


def test_one_process_replaces_the_record_in_an_interval(folder: Path) -> None:
    assert [published.claim_record(folder, 60.0) for _ in range(2)] == [True, False]
    assert published.recorded(folder) == {}

    published.record(folder, {"last": 1})

    assert published.recorded(folder) == {"last": 1}
    assert published.seconds_since_record(folder) < 60
    assert published.claim_record(folder, 60.0) is False


def test_a_pipe_in_the_place_of_a_file_does_not_stop_readers(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in ("readers-2", "ended-2.json", "record-2.json"):
        os.mkfifo(folder / name)

    published.announce_reader(folder)

    assert published.read(folder).sum == {}
    assert published.recorded(folder) == {}


def test_unfinished_files_of_killed_processes_are_removed_after_a_minute(folder: Path) -> None:
    ended(folder, 1)
    files = [folder / "process-2-1-a.json.new", folder / "ended-2.json-1.new", folder / "other.new"]
    for file in files:
        file.touch()
        os.utime(file, (0, 0))
    (folder / "process-2-2-b.json.new").touch()

    published.add_up(folder, add)

    assert [file.exists() for file in files] == [False, False, True]
    assert (folder / "process-2-2-b.json.new").exists()


def test_a_shortage_of_descriptors_loses_no_sum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(folder, 1)
    published.add_up(folder, add)
    ended(folder, 10)
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "ended-2.json":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    for function in (lambda: published.add_up(folder, add), lambda: published.read(folder)):
        with pytest.raises(OSError, match="Too many open files"):
            function()
    monkeypatch.undo()

    published.add_up(folder, add)
    assert published.read(folder).sum == {"number": 11}


def test_a_removed_document_is_not_in_place(folder: Path) -> None:
    publication = Publication(folder)
    publication.write({"number": 1})
    assert publication.is_in_place()

    next(folder.iterdir()).unlink()

    assert not publication.is_in_place()


def test_a_reader_is_announced(folder: Path) -> None:
    assert published.seconds_since_reader(folder) == float("inf")

    published.announce_reader(folder)

    assert published.seconds_since_reader(folder) < 60
