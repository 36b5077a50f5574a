"""Invalidations between real processes, by a real file: others see them at their next access."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.fakes import PATIENCE, Gate, Task, eventually, run_python
from wsgipool import CacheTimeout, SharedCache, pools
from wsgipool.errors import ConfigError
from wsgipool.shared import invalidations
from wsgipool.shared.bytelocks import ByteLocks
from wsgipool.shared.invalidations import EVERYTHING, LENGTH, Invalidations, token

PREAMBLE = """
import os, sys, threading
sys.path.insert(0, {tests!r})
from pathlib import Path
from wsgipool import SharedCache, pools
from wsgipool.shared import invalidations
pools.runtime_dir = lambda: Path({folder!r})
cache = SharedCache({maxsize}, 600, name="books")
"""


class Process:
    """A separate Python with `cache`, which runs one statement after the other; each prints at least one line."""

    def __init__(self, folder: Path, *, maxsize: int = 10) -> None:
        preamble = PREAMBLE.format(tests=str(Path(__file__).parents[1]), folder=str(folder), maxsize=maxsize)
        program = f"{preamble}\nfor line in sys.stdin:\n    exec(line)\n    print('done', flush=True)\n"
        # Each process has its own hashes of strings.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, statement: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        """Return the output of the statement."""
        assert self.process.stdout is not None
        lines: list[str] = []
        while (line := self.process.stdout.readline().strip()) != "done":
            assert line, "the process has ended"
            lines.append(line)
        return lines

    def run(self, statement: str) -> list[str]:
        self.begin(statement)
        return self.lines()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pools, "runtime_dir", lambda: tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def cache(folder: Path) -> SharedCache[Any, Any]:
    assert not folder.exists()
    return SharedCache(10, 600, name="books")


@pytest.fixture
def other(cache: SharedCache[Any, Any], folder: Path) -> Iterator[Process]:  # noqa: ARG001 - ours is made first
    other = Process(folder)
    yield other
    other.kill()


Cache = SharedCache[Any, Any]


def test_every_process_sees_an_invalidation_at_its_next_access(cache: Cache, other: Process) -> None:
    for key in ("a", "b"):
        cache.set(key, "old")
        other.run(f"cache.set({key!r}, 'old')")

    other.run("cache.invalidate('a')")
    assert (cache.get("a"), cache.get("b")) == (None, "old")
    assert other.run("print(cache.get('a'), cache.get('b'))") == ["None old"]

    cache.invalidate("b")
    assert other.run("print(cache.get('b'))") == ["None"]


def test_every_process_sees_an_invalidation_of_all_values(cache: Cache, other: Process) -> None:
    other.run("cache.set('a', 'old'); cache.set(frozenset('b'), 'old')")

    cache.invalidate()

    assert other.run("print(cache.stats().size)") == ["0"]


EQUAL_KEYS = [
    ("1", "1.0"),
    ("0", "False"),
    ("('a', 1, None)", "('a', True, None)"),
    ("'ü\\udc80'", "'ü\\udc80'"),
    ("b'a'", "b'a'"),
    ("2.5", "__import__('fractions').Fraction(5, 2)"),
    ("'a'", "type('Text', (str,), {})('a')"),
    ("frozenset('ab')", "frozenset('ba')"),
    ("__import__('datetime').date(2000, 1, 1)", "__import__('datetime').date(2000, 1, 1)"),
]


def test_equal_keys_are_the_same_everywhere(cache: Cache, other: Process) -> None:
    for ours, theirs in EQUAL_KEYS:
        key = eval(ours)  # noqa: S307 - those above
        other.run(f"cache.set({theirs}, 'old')")
        cache.invalidate(key)
        assert other.run(f"print(cache.get({theirs}))") == ["None"], theirs

        cache.set(key, "old")
        other.run(f"cache.invalidate({theirs})")
        assert cache.get(key) is None, ours


def test_different_keys_have_different_tokens() -> None:
    keys = [
        "",
        b"",
        None,
        (),
        ("",),
        ((), ()),
        0,
        1,
        0.5,
        "0",
        "i0;",
        ("a", "b"),
        ("ab",),
        (("a",), "b"),
        ("a", ("b",)),
        ("a", "bsc"),
        ("asb", "c"),
    ]

    assert len({token(key) for key in keys}) == len(keys)


def test_a_creation_that_an_invalidation_overtakes_is_not_cached(cache: Cache, other: Process) -> None:
    other.run("begun, go_on = threading.Event(), threading.Event()")
    other.run("create = lambda _: (begun.set(), go_on.wait(), 'old')[2]")
    other.run("thread = threading.Thread(target=lambda: print(cache.get_or_create('a', create))); thread.start()")
    other.run("begun.wait()")

    cache.invalidate("a")

    assert other.run("go_on.set(); thread.join()") == ["old"]
    assert other.run("print(cache.get('a'))") == ["None"]


@pytest.mark.parametrize(("missed", "kept"), [(LENGTH, True), (LENGTH + 1, False)])
def test_a_process_that_missed_too_many_invalidations_drops_everything(
    cache: Cache, other: Process, missed: int, kept: bool
) -> None:
    cache.set("a", 1)

    other.run(f"for number in range({missed}): cache.invalidate(number)")

    assert (cache.get("a") == 1) is kept


def test_a_damaged_entry_drops_everything(folder: Path, cache: Cache) -> None:
    writer = Invalidations(folder, "books")
    cache.set("a", 1)
    writer.post(5)
    with writer.path.open("r+b") as file:
        content = file.read()
        file.seek(content.index((5).to_bytes(8, sys.byteorder)))
        file.write((7).to_bytes(8, sys.byteorder))

    assert cache.get("a") is None


@pytest.mark.parametrize("written", ["nothing", "the entry"])
def test_a_writer_that_is_killed_does_no_harm(cache: Cache, other: Process, folder: Path, written: str) -> None:
    cache.invalidate("before")
    cache.set("a", 1)
    other.run(f"left = [None] * {['nothing', 'the entry'].index(written)}; write = os.pwrite")
    other.run("die_or_write = lambda *given: (left.pop(), write(*given)) if left else os.kill(os.getpid(), 9)")
    other.begin("os.pwrite = die_or_write; cache.invalidate('a')")
    assert other.process.wait() == -signal.SIGKILL

    third = Process(folder)
    assert cache.get("a") == 1, "it was not invalidated"
    third.run("cache.invalidate('b')")
    assert cache.get("a") == 1
    third.run("cache.invalidate('a')")
    assert cache.get("a") is None
    third.kill()


def test_a_suspended_writer_leads_to_cachetimeout(
    cache: Cache, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "_WRITER_TIMEOUT", 0.05)
    other.run("descriptor = cache._invalidations._open(); locks = invalidations.ByteLocks(descriptor); locks.lock(0)")

    with pytest.raises(CacheTimeout, match=r"has been writing .* so nothing was invalidated"):
        cache.invalidate("a")

    other.kill()
    cache.invalidate("a")


def test_writers_lose_nothing_of_each_other(folder: Path, cache: Cache) -> None:
    writers = [Process(folder) for _ in range(3)]
    seen = cache._invalidations.number
    cache.set("kept", 1)

    for number, writer in enumerate(writers):
        writer.begin(f"for number in range(200): cache.invalidate(({number}, number))")
    for writer in writers:
        writer.lines()

    last, tokens = cache._invalidations.since(seen)
    assert last == seen + 600
    assert tokens == {token((number, each)) for number in range(3) for each in range(200)}
    assert cache.get("kept") == 1
    for writer in writers:
        writer.kill()


READER = """
import mmap
file = open(pools.runtime_dir() / "data", "r+b")
data = memoryview(mmap.mmap(file.fileno(), 32)).cast("Q")
stale, seen = [], set()
def create(key):
    value = data[0]
    os.sched_yield()
    return value
def read(place):
    while data[0] < 2**63:
        published = data[1]
        value = cache.get_or_create("a", create)
        if value < published:
            stale.append((published, value))
        seen.add(value)
        data[place] = len(seen)
"""


def test_no_process_gets_a_value_from_before_an_invalidation(folder: Path, cache: Cache, effort: int) -> None:
    """The data is a growing number; its writer publishes up to which number all processes were invalidated."""
    data_file = folder / "data"
    data_file.write_bytes(bytes(32))
    readers = {place: Process(folder) for place in (2, 3)}
    for place, reader in readers.items():
        reader.run(f"exec({READER!r}, globals())")
        reader.run(f"threads = [threading.Thread(target=read, args=({place},)) for _ in range(3)]")
        reader.begin("[thread.start() for thread in threads]; [thread.join() for thread in threads]")
    with data_file.open("r+b") as file:
        data = memoryview(mmap.mmap(file.fileno(), 32)).cast("Q")

    number, deadline = 0, time.monotonic() + 3 * PATIENCE * effort
    while number < 500 * effort or min(data[2], data[3]) < 25 * effort:
        assert time.monotonic() < deadline, "the readers are not at work"
        number += 1
        data[0] = number
        cache.invalidate("a")
        data[1] = number
    data[0] = 2**63

    for reader in readers.values():
        reader.lines()
        assert reader.run("print(stale)") == ["[]"]
        reader.kill()


# --- fork -------------------------------------------------------------------------------------------------------------


def in_child(work: Any) -> object:
    """Fork, call the function in the child, and return its result as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(work()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forks_child_starts_empty_and_waits_for_no_thread_of_its_parent(folder: Path) -> None:
    closed: list[object] = []
    cache: Cache = SharedCache(10, 600, name="books", close=closed.append)
    assert folder.exists()
    cache.set("a", "parent's")
    gate = Gate()
    task = Task(lambda: cache.get_or_create("b", lambda _: gate()))
    gate.wait_until_reached()

    with cache._lock:  # as if another thread held it
        answer = in_child(
            lambda: [
                cache.get("a"),
                cache.get_or_create("b", lambda _: "child's", timeout=5),
                closed,
                cache.stats().size,
            ]
        )

    assert answer == '[None, "child\'s", [], 1]'
    gate.open()
    task.result()
    assert cache.get("a") == "parent's"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forks_child_sends_and_gets_invalidations(cache: Cache) -> None:
    cache.set("a", "old")

    in_child(lambda: cache.invalidate("a"))

    assert cache.get("a") is None


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_write_blocks_neither_parent_nor_child(
    cache: Cache, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_reader, end_writer = os.pipe()
    told_reader, told_writer = os.pipe()
    forked: list[int] = []
    place_of = invalidations._place

    def fork(number: int) -> int:
        if not forked:
            forked.append(os.fork())
            if not forked[0]:
                try:
                    os.close(end_writer)
                    cache.invalidate("of the child")
                    os.write(told_writer, b".")
                    os.read(end_reader, 1)  # until the parent kills it
                finally:
                    os._exit(0)
        return place_of(number)

    cache.set("of the child", "old")
    monkeypatch.setattr(invalidations, "_place", fork)
    cache.invalidate("a")

    os.read(told_reader, 1)
    assert cache.get("of the child") is None
    assert other.run("invalidations._WRITER_TIMEOUT = 1; cache.invalidate('b')") == []

    os.close(end_writer)
    os.waitpid(forked[0], 0)
    for descriptor in (end_reader, told_reader, told_writer):
        os.close(descriptor)


def test_a_child_forked_while_its_parent_writes_and_dies_blocks_no_process(
    cache: Cache, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "_WRITER_TIMEOUT", 5.0)
    other.run("import signal")
    other.run("live_on = lambda: (print(os.getpid(), flush=True), signal.pause())")
    other.run("invalidations._place = lambda number: live_on() if not os.fork() else signal.pause()")
    other.begin("cache.invalidate('a')")
    assert other.process.stdout is not None
    child = int(other.process.stdout.readline())
    try:
        other.process.kill()
        other.process.wait()

        cache.invalidate("b")
    finally:
        os.kill(child, signal.SIGKILL)


# --- sub-interpreters -------------------------------------------------------------------------------------------------

OTHER_INTERPRETER = """
import sys
if sys.version_info < (3, 13):
    from _xxsubinterpreters import create, destroy, run_string
    interpreter = create(isolated=False)
else:  # with a GIL of its own
    from _interpreters import create, destroy, run_string
    interpreter = create("isolated")

def run(step):
    if error := run_string(interpreter, step):  # older ones raise it
        raise RuntimeError(error.formatted)

run(f"import sys; sys.path[:] = {sys.path!r}")
run(preamble)
run("cache.set('a', 'old')")
cache.set("b", "old")
run("cache.invalidate('b')")
assert cache.get("b") is None
cache.invalidate("a")
run("assert cache.get('a') is None; del cache")
destroy(interpreter)
print("done")
"""


def test_a_sub_interpreter_sends_and_gets_invalidations(folder: Path) -> None:
    preamble = PREAMBLE.format(tests=str(Path(__file__).parents[1]), folder=str(folder), maxsize=10)

    assert run_python(f"{preamble}\npreamble = {preamble!r}\n{OTHER_INTERPRETER}") == "done\n"


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_that_was_removed_is_noticed_at_the_next_creation_and_invalidation(
    cache: Cache, other: Process, folder: Path
) -> None:
    cache.set("a", "old")
    other.run("cache.set('a', 'old')")
    for file in folder.iterdir():
        file.unlink()

    other.run("cache.invalidate('a')")
    cache.get_or_create("b", str.upper)

    assert cache.get("a") is None
    cache.set("a", "old")
    other.run("cache.invalidate('a')")
    assert cache.get("a") is None


def test_a_removed_file_is_noticed_by_a_process_that_only_reads(cache: Cache, folder: Path) -> None:
    cache.set("a", "old")
    (path,) = folder.iterdir()
    path.unlink()
    newcomer = Invalidations(folder, "books")
    newcomer.post(EVERYTHING)

    eventually(lambda: cache.get("a") is None)


def test_a_cache_whose_folder_was_removed_for_good_keeps_nothing(cache: Cache, folder: Path) -> None:
    cache.set("a", "old")
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()

    eventually(lambda: cache.get("a") is None)


def test_a_folder_that_became_unusable_is_an_error(cache: Cache, folder: Path) -> None:
    cache.set("a", "old")
    folder.chmod(0o755)

    with pytest.raises(ConfigError, match="is open to others"):
        cache.invalidate("a")


def test_a_file_system_without_locks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(*_: object) -> bool:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(ByteLocks, "lock", lock)

    with pytest.raises(ConfigError, match="without open-file-description locks"):
        Invalidations(folder, "books")


def test_names_of_all_kinds_have_files_of_their_own(folder: Path) -> None:
    names = ["", "a", "a/b", "a-b", "ä" * 500, "..", "\0"]

    files = {Invalidations(folder, name).path for name in names}

    assert len(files) == len(names)
    assert {path.parent for path in files} == {folder}


def test_a_new_cache_ignores_earlier_invalidations(folder: Path) -> None:
    writer = Invalidations(folder, "books")
    writer.post(EVERYTHING)

    reader = Invalidations(folder, "books")

    assert reader.since(reader.number) == (reader.number, set())


# --- what is in the file ---------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    with path.open("r+b", buffering=0) as file:
        if how == "cut":
            file.truncate(7)
        elif how == "empty":
            file.truncate(0)
        elif how == "huge":
            file.truncate(0)
            file.truncate(1 << 40)
        else:
            file.write({"zeros": b"\0", "ones": b"\xff", "noise": b"\x5a\xc3\x07"}[how] * 6000)


@pytest.mark.parametrize("how", ["cut", "empty", "huge", "zeros", "ones", "noise"])
def test_a_damaged_file_drops_everything_and_is_repaired(
    cache: Cache, other: Process, folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = folder.iterdir()
    other.run("cache.set('a', 'old'); cache.invalidate('x')")
    cache.set("a", "old")
    damage(path, how)

    assert cache.get("a") is None
    cache.set("a", "old")
    assert cache.get("a") == "old"
    for _ in range(2):
        cache.invalidate("a")
    assert cache.get("a") is None
    assert other.run("print(cache.get('a'))") == ["None"]
    cache.set("b", 1)
    other.run("cache.set('b', 1); cache.invalidate('a')")
    assert cache.get("b") == 1, "it is heard key by key again"
    assert caplog.text.count("was damaged by another program") <= 1


def test_numbers_from_before_the_damage_are_never_used_again(cache: Cache, folder: Path) -> None:
    """A reader that has not read in between would otherwise miss invalidations."""
    (path,) = folder.iterdir()
    cache.set("a", "old")
    writer = Invalidations(folder, "books")

    for how in ("empty", "zeros", "ones"):
        damage(path, how)
        writer.post(token("a") or 0)
        assert cache.get("a") is None
        cache.set("a", "old")


def test_a_cache_survives_that_its_file_is_cut_at_any_moment(cache: Cache, other: Process, folder: Path) -> None:
    (path,) = folder.iterdir()
    other.run("import itertools; cache.set('a', 1); go_on = True")
    other.run("exec('def work():\\n while go_on: cache.get(1); cache.invalidate(2); cache.get_or_create(3, str)')")
    other.run("thread = threading.Thread(target=work, daemon=True); thread.start()")

    for length in range(200):
        os.truncate(path, length)
        cache.get("a")
        cache.invalidate("a")

    assert other.run("print(thread.is_alive())") == ["True"]
