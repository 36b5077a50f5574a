"""The promises of a cache to the threads of one process."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unit.conftest import Clock
from unit.fakes import PATIENCE, Gate, Task, eventually, run_python
from wsgipool import CacheDeadlock, CacheTimeout, SharedCache, pools
from wsgipool.cache.creation import Creation
from wsgipool.errors import ConfigError

Cache = SharedCache[Any, Any]
MakeCache = Callable[..., Cache]


@pytest.fixture
def make_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCache:
    monkeypatch.setattr(pools, "runtime_dir", lambda: tmp_path / "run")

    def make(maxsize: int = 10, ttl: float = 60, **settings: Any) -> Cache:
        return SharedCache(maxsize, ttl, **{"name": "books", **settings})

    return make


@pytest.fixture
def cache(make_cache: MakeCache) -> Cache:
    return make_cache()


class Resource:
    """A value that counts how often it was closed."""

    def __init__(self, key: object = None) -> None:
        self.key = key
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Maker:
    """A `create` that counts its calls and stops at a gate, each time or the first time."""

    def __init__(self, *, outcome: Callable[[int], object] = lambda number: number) -> None:
        self.gate = Gate()
        self.calls = 0
        self._outcome = outcome

    def __call__(self, _: object) -> object:
        self.calls += 1
        number = self.calls
        self.gate()
        return self._outcome(number)


def raising(error: BaseException) -> Callable[[object], object]:
    def create(_: object) -> object:
        raise error

    return create


# --- values ----------------------------------------------------------------------------------------------------------


def test_a_created_value_is_cached(cache: Cache) -> None:
    assert cache.get_or_create("a", str.upper) == "A"
    assert cache.get_or_create("a", raising(AssertionError("again"))) == "A"
    assert cache.get("a") == "A"


def test_a_cache_may_have_a_function_to_create_values(make_cache: MakeCache) -> None:
    cache = make_cache(create=str.upper)

    assert cache.get("a") is None
    assert cache.get_or_create("a") == "A"
    assert cache.get_or_create("b", str.title) == "B"


def test_a_missing_create_function_is_an_error(cache: Cache) -> None:
    cache.set("a", 1)

    with pytest.raises(TypeError, match="no function to create a value"):
        cache.get_or_create("a")


def test_get_creates_nothing(make_cache: MakeCache) -> None:
    cache = make_cache(create=raising(AssertionError("created")))

    assert cache.get("a") is None
    assert cache.get("a", "default") == "default"


def test_none_is_a_value(cache: Cache) -> None:
    assert cache.get_or_create("a", lambda _: None) is None
    assert cache.get_or_create("a", str.upper) is None
    assert cache.get("a", "default") is None


def test_a_set_value_is_cached(cache: Cache) -> None:
    cache.set("a", 1)
    cache.set("a", 2)

    assert cache.get("a") == 2


def test_an_unhashable_key_changes_nothing(cache: Cache) -> None:
    cache.set("a", 1)

    for use in (cache.get, cache.get_or_create, lambda key: cache.set(key, 1)):
        with pytest.raises(TypeError):
            use([])
    assert cache.get("a") == 1


def test_a_value_is_kept_for_ttl_seconds(make_cache: MakeCache) -> None:
    clock = Clock()
    cache = make_cache(ttl=60, timer=clock)
    cache.set("a", 1)

    clock.advance(59)
    assert cache.get("a") == 1
    clock.advance(1)
    assert cache.get("a") is None


def test_a_value_may_be_kept_for_ever(make_cache: MakeCache) -> None:
    clock = Clock()
    cache = make_cache(ttl=math.inf, timer=clock)
    cache.set("a", 1)

    clock.advance(1e12)
    assert cache.get("a") == 1


def test_the_least_recently_used_value_makes_room(make_cache: MakeCache) -> None:
    cache = make_cache(maxsize=2)
    cache.set("a", 1)
    cache.set("b", 2)
    cache.get("a")
    cache.set("c", 3)

    assert [cache.get(key) for key in "abc"] == [1, None, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"maxsize": 0}, "maxsize must be at least 1, is 0"), ({"ttl": 0}, "ttl must be more than 0")],
)
def test_sizes_out_of_range_are_refused(make_cache: MakeCache, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_cache(**settings)


# --- one creates, the others wait -------------------------------------------------------------------------------------


def test_one_thread_creates_and_the_others_wait_for_its_value(cache: Cache) -> None:
    create = Maker(outcome=lambda _: object())
    tasks = [Task(lambda: cache.get_or_create("a", create)) for _ in range(8)]
    create.gate.wait_until_reached()
    eventually(lambda: cache.stats().waits == 7)

    create.gate.open()

    assert len({id(task.result()) for task in tasks}) == 1
    assert create.calls == 1


def test_no_lock_is_held_while_a_value_is_created(cache: Cache) -> None:
    cache.set("b", 1)
    create = Maker()
    task = Task(lambda: cache.get_or_create("a", create))
    create.gate.wait_until_reached()

    assert cache.get("b") == 1
    assert cache.get_or_create("c", str.upper) == "C"
    cache.set("d", 2)
    assert cache.stats().creating == 1
    assert not task.done

    create.gate.open()
    task.result()


def test_an_exception_reaches_the_waiters_and_is_not_cached(cache: Cache) -> None:
    error = LookupError("no such book")
    create = Maker(outcome=lambda _: raising(error)(None))
    tasks = [Task(lambda: cache.get_or_create("a", create)) for _ in range(4)]
    create.gate.wait_until_reached()
    eventually(lambda: cache.stats().waits == 3)

    create.gate.open()

    for task in tasks:
        with pytest.raises(LookupError, match="no such book"):
            task.result()
    assert create.calls == 1
    assert cache.get_or_create("a", str.upper) == "A"


def test_the_traceback_of_an_exception_does_not_grow_with_each_waiter(cache: Cache) -> None:
    error = LookupError("no such book")
    create = Maker(outcome=lambda _: raising(error)(None))
    tasks = [Task(lambda: cache.get_or_create("a", create)) for _ in range(12)]
    create.gate.wait_until_reached()
    eventually(lambda: cache.stats().waits == 11)

    create.gate.open()

    eventually(lambda: all(task.done for task in tasks))
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert functions.count("wait") < 6, functions


def test_an_exception_leaves_nothing_behind_that_only_the_collector_could_free(cache: Cache) -> None:
    class Large:
        pass

    alive: list[Any] = []

    def create(_: object) -> object:
        large = Large()
        alive.append(__import__("weakref").ref(large))
        raise LookupError

    gc.disable()
    try:
        with pytest.raises(LookupError):
            cache.get_or_create("a", create)
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_asynchronous_exception_of_the_creator_does_not_reach_waiters(
    cache: Cache, error: type[BaseException]
) -> None:
    first, second = Maker(outcome=lambda _: raising(error())(None)), Maker(outcome=lambda _: "value")
    dying = Task(lambda: cache.get_or_create("a", first))
    first.gate.wait_until_reached()
    tasks = [Task(lambda: cache.get_or_create("a", second)) for _ in range(3)]
    eventually(lambda: cache.stats().waits == 3)

    first.gate.open()
    second.gate.wait_until_reached()
    eventually(lambda: cache.stats().waits == 5)
    second.gate.open()

    with pytest.raises(error):
        dying.result()
    assert [task.result() for task in tasks] == ["value"] * 3
    assert second.calls == 1, "one of the waiters is enough"


def test_a_waiter_gives_up_at_its_timeout_and_names_the_creation(cache: Cache) -> None:
    create = Maker()
    task = Task(lambda: cache.get_or_create("a", create))
    create.gate.wait_until_reached()

    with pytest.raises(CacheTimeout) as raised:
        cache.get_or_create("a", str.upper, timeout=0.01)

    assert "Maker, which creates a value of cache 'books', has not ended in time" in str(raised.value)
    assert f"thread {task.thread_id} began it" in str(raised.value)
    create.gate.open()
    assert task.result() == 1, "and it disturbed no other thread"
    assert cache.get("a") == 1


def test_a_timeout_of_0_matters_only_while_waiting(cache: Cache) -> None:
    assert cache.get_or_create("a", str.upper, timeout=0) == "A"
    assert cache.get_or_create("a", str.upper, timeout=0) == "A"


def test_a_thread_that_waits_for_its_own_creation_gets_cachedeadlock(cache: Cache) -> None:
    def create(key: str) -> object:
        return cache.get_or_create(key, create)

    with pytest.raises(CacheDeadlock, match=r"create, which creates a value of cache 'books'"):
        cache.get_or_create("a", create)
    assert cache.get_or_create("a", str.upper) == "A"


@pytest.mark.parametrize("caches", [1, 2])
def test_two_values_that_need_each_other_get_cachedeadlock(make_cache: MakeCache, caches: int) -> None:
    made = [make_cache(), make_cache(name="authors")][:caches]
    first, second = made[0], made[-1]
    both = threading.Barrier(2)

    def create_first(_: object) -> object:
        both.wait(PATIENCE)
        return second.get_or_create("b", create_second)

    def create_second(_: object) -> object:
        both.wait(PATIENCE)
        return first.get_or_create("a", create_first)

    tasks = [
        Task(lambda: first.get_or_create("a", create_first)),
        Task(lambda: second.get_or_create("b", create_second)),
    ]

    for task in tasks:
        with pytest.raises(CacheDeadlock, match=r"would wait for a value that it is creating itself"):
            task.result()


def test_a_value_may_need_other_values(cache: Cache) -> None:
    def create(number: int) -> int:
        return 1 if number < 2 else cache.get_or_create(number - 1, create) + cache.get_or_create(number - 2, create)

    assert [task.result() for task in [Task(lambda: cache.get_or_create(9, create)) for _ in range(4)]] == [55] * 4


def test_a_wait_that_timed_out_is_not_part_of_a_later_circle(cache: Cache) -> None:
    gate = Gate()

    def create_from_other(_: str) -> object:
        gate()
        return cache.get_or_create("b", str.upper)

    def create(_: str) -> object:
        gate.open()
        eventually(lambda: cache.stats().waits == 2)
        return "made here"

    task = Task(lambda: cache.get_or_create("a", create_from_other))
    gate.wait_until_reached()
    with pytest.raises(CacheTimeout):
        cache.get_or_create("a", str.upper, timeout=0)

    cache.get_or_create("b", create)

    assert task.result() == "made here"


def test_a_waiter_that_comes_just_after_the_end_does_not_wait() -> None:
    creation: Creation[str] = Creation("books", None, str.upper)
    creation.end()

    assert Task(lambda: creation.wait(None)).result() == []


# --- no longer true ---------------------------------------------------------------------------------------------------


def test_an_invalidation_drops_one_value_only(cache: Cache) -> None:
    cache.set("a", 1)
    cache.set("b", 2)

    cache.invalidate("a")

    assert cache.get("a") is None
    assert cache.get("b") == 2


def test_all_values_can_be_invalidated_at_once(cache: Cache) -> None:
    cache.set("a", 1)
    cache.set(frozenset("b"), 2)

    cache.invalidate()

    assert cache.stats().size == 0


def test_none_is_a_key_and_does_not_stand_for_all(cache: Cache) -> None:
    cache.set(None, 1)
    cache.set("b", 2)

    cache.invalidate(None)

    assert cache.get(None) is None
    assert cache.get("b") == 2


def test_a_cache_of_another_name_gets_no_invalidations(make_cache: MakeCache) -> None:
    books, authors, unnamed = make_cache(), make_cache(name="authors"), make_cache(name="")
    for each in (books, authors, unnamed):
        each.set("a", 1)

    books.invalidate("a")

    assert [each.get("a") for each in (books, authors, unnamed)] == [None, 1, 1]


def test_caches_of_one_name_share_invalidations(make_cache: MakeCache) -> None:
    one, other = make_cache(), make_cache()
    other.set("a", 1)

    one.invalidate("a")

    assert other.get("a") is None


@pytest.mark.parametrize("which", ["the key", "all", "in another cache of the name"])
def test_a_value_invalidated_during_creation_reaches_waiters_uncached(make_cache: MakeCache, which: str) -> None:
    cache, other = make_cache(), make_cache()
    create = Maker(outcome=lambda _: "old")
    tasks = [Task(lambda: cache.get_or_create("a", create)) for _ in range(3)]
    create.gate.wait_until_reached()
    eventually(lambda: cache.stats().waits == 2)

    if which == "all":
        cache.invalidate()
    else:
        (cache if which == "the key" else other).invalidate("a")
    assert cache.get_or_create("a", lambda _: "new") == "new", "it must not wait for what is old already"
    create.gate.open()

    assert [task.result() for task in tasks] == ["old"] * 3
    assert cache.get("a") == "new"


def test_a_value_invalidated_while_it_is_created_is_not_cached(cache: Cache) -> None:
    def create(key: str) -> str:
        cache.invalidate(key)
        return "old"

    assert cache.get_or_create("a", create) == "old"
    assert cache.get("a") is None


def test_an_invalidation_of_another_key_does_not_affect_a_creation(cache: Cache) -> None:
    def create(_: str) -> str:
        cache.invalidate("b")
        return "value"

    cache.get_or_create("a", create)

    assert cache.get("a") == "value"


def test_a_value_set_during_a_creation_stays(cache: Cache) -> None:
    create = Maker(outcome=lambda _: "created")
    task = Task(lambda: cache.get_or_create("a", create))
    create.gate.wait_until_reached()

    cache.set("a", "set")
    create.gate.open()

    assert task.result() == "created"
    assert cache.get("a") == "set"


# --- close ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def closing(make_cache: MakeCache) -> tuple[Cache, Clock]:
    clock = Clock()
    return make_cache(maxsize=2, ttl=60, timer=clock, create=Resource, close=Resource.close), clock


@pytest.mark.parametrize("how", ["evicted", "replaced", "expired", "invalidated", "invalidated with all", "cleared"])
def test_a_dropped_value_is_closed_once(closing: tuple[Cache, Clock], how: str) -> None:
    cache, clock = closing
    value = cache.get_or_create("a")
    goes: dict[str, Callable[[], object]] = {
        "evicted": lambda: [cache.get_or_create(key) for key in "bc"],
        "replaced": lambda: cache.set("a", Resource()),
        "expired": lambda: [clock.advance(60), cache.get("b")],  # type: ignore[func-returns-value]
        "invalidated": lambda: cache.invalidate("a"),
        "invalidated with all": cache.invalidate,
        "cleared": cache.clear,
    }

    goes[how]()
    assert value.closed == 1

    clock.advance(100)
    cache.invalidate()
    cache.clear()
    assert value.closed == 1


def test_a_value_that_is_too_old_is_closed_when_it_is_asked_for(closing: tuple[Cache, Clock]) -> None:
    cache, clock = closing
    old = cache.get_or_create("a")
    clock.advance(60)

    new = cache.get_or_create("a")

    assert (old.closed, new.closed) == (1, 0)


def test_a_value_that_replaces_itself_is_not_closed(closing: tuple[Cache, Clock]) -> None:
    cache, clock = closing
    value = cache.get_or_create("a")

    clock.advance(59)
    cache.set("a", value)
    clock.advance(59)

    kept = cache.get_or_create("a")
    assert kept is value, "it has its time again"
    assert value.closed == 0
    cache.clear()
    assert value.closed == 1


def test_a_value_that_was_never_cached_is_not_closed(closing: tuple[Cache, Clock]) -> None:
    cache, _ = closing

    def create(key: str) -> Resource:
        cache.invalidate(key)
        return Resource()

    value = cache.get_or_create("a", create)
    cache.clear()

    assert value.closed == 0


def test_an_exception_in_close_is_logged_and_not_raised(make_cache: MakeCache, log: pytest.LogCaptureFixture) -> None:
    cache = make_cache(close=raising(OSError("gone")))
    cache.set("a", 1)
    cache.set("b", 2)

    cache.clear()

    assert [record.getMessage() for record in log.records] == ["cache 'books': closing a value has failed"] * 2
    assert log.records[0].levelno == logging.ERROR


def test_close_may_use_the_cache(make_cache: MakeCache) -> None:
    seen: list[object] = []
    small: Cache = make_cache(maxsize=1, close=lambda _: seen.append(small.get("b")))
    small.set("a", 1)

    Task(lambda: small.set("b", 2)).result()

    assert seen == [2]


def test_a_value_that_ends_by_itself_does_so_outside_the_lock(make_cache: MakeCache) -> None:
    class Ending:
        def __del__(self) -> None:
            small.stats()

    small: Cache = make_cache(maxsize=1)
    small.set("a", Ending())

    Task(lambda: small.set("b", 2)).result()


# --- counts -----------------------------------------------------------------------------------------------------------


def test_the_counts_of_a_cache(make_cache: MakeCache) -> None:
    clock = Clock()
    cache = make_cache(maxsize=2, ttl=60, timer=clock)
    for key in "aabc":
        cache.get_or_create(key, str.upper)
    cache.get("none")
    cache.invalidate("c")
    with pytest.raises(LookupError):
        cache.get_or_create("d", raising(LookupError()))
    clock.advance(60)

    stats = cache.stats()

    assert (stats.name, stats.maxsize, stats.size, stats.creating) == ("books", 2, 0, 0)
    assert (stats.hits, stats.misses, stats.waits, stats.creations, stats.errors) == (1, 5, 0, 3, 1)
    assert (stats.evictions, stats.expirations, stats.invalidations) == (1, 1, 1)


# --- where the processes meet -----------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_used_is_an_error_when_the_cache_is_made(make_cache: MakeCache, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)

    with pytest.raises(ConfigError, match="is open to others"):
        make_cache()


@pytest.mark.usefixtures("_no_settings")
def test_the_folder_is_that_of_the_settings(tmp_path: Path) -> None:
    pools.configure({"databases": {"orders": {"url": "mysql://db/orders"}}, "runtime_dir": str(tmp_path / "named")})

    SharedCache(1, 1, name="books")

    assert [path.name.startswith("cache-2-books-") for path in (tmp_path / "named").iterdir()] == [True]


@pytest.mark.usefixtures("_no_settings")
def test_the_settings_are_found_where_the_pools_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text(f'runtime_dir = "{tmp_path}/named"\n[databases.orders]\nurl = "mysql://db/orders"\n')
    monkeypatch.setenv(pools.CONFIG_VARIABLE, str(file))

    SharedCache(1, 1)

    assert (tmp_path / "named").is_dir()


@pytest.mark.usefixtures("_no_settings")
def test_wrong_settings_are_an_error_and_not_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pools.CONFIG_VARIABLE, str(tmp_path / "none.toml"))

    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        SharedCache(1, 1)


@pytest.mark.usefixtures("_no_settings")
def test_without_settings_it_is_the_folder_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SYSTEM_CONFIG", tmp_path / "none.toml")
    monkeypatch.setattr("wsgipool._collection.default_folder", lambda: tmp_path / f"wsgipool-{os.geteuid()}")

    SharedCache(1, 1)

    assert (tmp_path / f"wsgipool-{os.geteuid()}").is_dir()


def test_a_process_ends_while_values_are_created_and_waited_for() -> None:
    program = """
import tempfile, threading
from pathlib import Path
from wsgipool import SharedCache, pools
folder = tempfile.TemporaryDirectory()
pools.runtime_dir = lambda: Path(folder.name) / "run"
cache = SharedCache(10, 60, name="books", close=print)
cache.set("b", "never closed")
reached = threading.Event()
def create(_):
    reached.set()
    threading.Event().wait()
for _ in range(3):
    threading.Thread(target=cache.get_or_create, args=("a", create), daemon=True).start()
reached.wait()
print("done")
"""
    assert run_python(program) == "done\n"
