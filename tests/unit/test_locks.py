"""Locks by name: taken all at once, in one order, and always released."""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from unit.fakes import PATIENCE, Gate, Task, eventually, run_python
from wsgipool import LockOrderError, Locks, LockTimeout, PoolError, WrongThread
from wsgipool.locks import holding
from wsgipool.locks.holding import this_holder
from wsgipool.locks.rwlock import ReadWriteLock, Turn


@pytest.fixture
def locks() -> Locks:
    return Locks()


def waiting(locks: Locks, name: str) -> int:
    """Return the number of threads that wait for a lock."""
    resource = locks._resources.get(name)
    return len(resource.lock.queue) if resource else 0


def is_free(locks: Locks, *names: str) -> bool:
    """Return whether another thread can take these locks without waiting."""

    def take() -> bool:
        try:
            with locks.hold(*names, timeout=0):
                return True
        except LockTimeout:
            return False

    return Task(take).result()


class OtherThread:
    """Another thread that holds locks until `release`."""

    def __init__(self, locks: Locks, *names: str, **options: Any) -> None:
        self._gate = Gate()
        self._task = Task(lambda: self._hold(locks, *names, **options))

    def _hold(self, locks: Locks, *names: str, **options: Any) -> None:
        with locks.hold(*names, **options):
            self._gate()

    def wait_until_it_holds(self) -> OtherThread:
        self._gate.wait_until_reached()
        return self

    def release(self) -> None:
        self._gate.open()
        self._task.result()


def other_thread(locks: Locks, *names: str, **options: Any) -> OtherThread:
    return OtherThread(locks, *names, **options).wait_until_it_holds()


# --- at once ---------------------------------------------------------------------------------------------------------


def test_a_function_holds_its_locks_while_it_runs(locks: Locks) -> None:
    @locks.requires("stock", "orders")
    def place_order(book: str, n: int = 1) -> tuple[str, int, bool]:
        return book, n, is_free(locks, "stock") or is_free(locks, "orders")

    assert place_order("Emma", n=2) == ("Emma", 2, False)
    assert is_free(locks, "stock", "orders")


def test_a_block_holds_its_locks(locks: Locks) -> None:
    with locks.hold("stock", read=["catalogue"]):
        assert not is_free(locks, "stock")
        assert not is_free(locks, "catalogue")
    assert is_free(locks, "stock", "catalogue")


def test_a_decorated_method_keeps_its_name_and_docstring(locks: Locks) -> None:
    class Shop:
        @locks.requires("stock")
        def sell(self, book: str) -> str:
            """Sell a book."""
            return f"{book} sold"

        @staticmethod
        @locks.requires("stock")
        def count() -> int:
            return 3

    assert Shop().sell("Emma") == "Emma sold"
    assert Shop.count() == 3
    assert inspect.getdoc(Shop.sell) == "Sell a book."


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_releases_all_locks(locks: Locks, kind: type[BaseException]) -> None:
    @locks.requires("stock", read="catalogue")
    def fail() -> None:
        raise kind("on purpose")

    with pytest.raises(kind, match="on purpose"):
        fail()
    with pytest.raises(kind, match="on purpose"), locks.hold("stock"):
        raise kind("on purpose")

    assert is_free(locks, "stock", "catalogue")


def test_the_opposite_order_in_two_functions_is_no_deadlock(locks: Locks) -> None:
    @locks.requires("stock", "orders")
    def one() -> None:
        time.sleep(0)

    @locks.requires("orders", "stock")
    def other() -> None:
        time.sleep(0)

    def often(function: Callable[[], None]) -> None:
        for _ in range(2000):
            function()

    tasks = [Task(lambda: often(one)), Task(lambda: often(other))]

    for task in tasks:
        task.result()


# --- shared ----------------------------------------------------------------------------------------------------------


def test_readers_share(locks: Locks) -> None:
    reader = other_thread(locks, read="catalogue")

    with locks.hold(read="catalogue", timeout=0):
        assert not is_free(locks, "catalogue")
    reader.release()
    assert is_free(locks, "catalogue")


def test_a_lock_to_read_and_write_is_taken_for_writing(locks: Locks) -> None:
    locks.group("catalogue", "books", "prices")

    with locks.hold("books", read=("prices", "catalogue")), pytest.raises(LockTimeout):
        Task(lambda: locks.hold(read="catalogue", timeout=0).__enter__()).result()


def test_a_writer_comes_before_later_readers(locks: Locks) -> None:
    reader = other_thread(locks, read="catalogue")
    order: list[str] = []

    def write() -> None:
        with locks.hold("catalogue"):
            order.append("write")

    def read() -> None:
        with locks.hold(read="catalogue"):
            order.append("read")

    writer = Task(write)
    eventually(lambda: waiting(locks, "catalogue") == 1)
    late = [Task(read) for _ in range(3)]
    eventually(lambda: waiting(locks, "catalogue") == 4)
    reader.release()
    for task in [writer, *late]:
        task.result()

    assert order == ["write", "read", "read", "read"]


def test_a_writer_that_comes_between_two_readers_waits_for_both() -> None:
    lock, thread = ReadWriteLock(), this_holder()
    first, writer, second = Turn(thread, shared=True), Turn(thread, shared=False), Turn(thread, shared=True)
    assert lock.take(first)
    lock.owners.append(writer)  # but it has not checked the owners yet
    assert lock.take(second)

    lock.release(first, 0)
    assert not lock.has_it(writer)
    lock.release(second, 0)
    assert lock.has_it(writer)


def test_endless_readers_do_not_starve_a_writer(locks: Locks) -> None:
    ended = threading.Event()

    @locks.requires(read="catalogue")
    def read() -> None:
        time.sleep(0.0005)

    def read_on() -> None:
        while not ended.is_set():
            read()

    readers = [Task(read_on) for _ in range(8)]
    try:
        for _ in range(20):
            with locks.hold("catalogue", timeout=PATIENCE):
                pass
    finally:
        ended.set()
    for reader in readers:
        reader.result()


def test_endless_writers_do_not_starve_another_one(locks: Locks) -> None:
    ended = threading.Event()

    @locks.requires("stock")
    def write() -> None:
        time.sleep(0)

    def write_on() -> None:
        while not ended.is_set():
            write()

    writers = [Task(write_on) for _ in range(4)]
    try:
        for _ in range(20):
            with locks.hold(read="stock", timeout=PATIENCE):
                pass
    finally:
        ended.set()
    for writer in writers:
        writer.result()


def test_waiters_are_served_in_the_order_of_arrival(locks: Locks) -> None:
    holder = other_thread(locks, "stock")
    order: list[int] = []

    def wait(number: int) -> None:
        with locks.hold("stock"):
            order.append(number)

    tasks = []
    for number in range(8):
        tasks.append(Task(lambda number=number: wait(number)))  # type: ignore[misc]
        eventually(lambda number=number: waiting(locks, "stock") == number + 1)  # type: ignore[misc]
    holder.release()
    for task in tasks:
        task.result()

    assert order == list(range(8))


def test_a_waiter_is_not_overtaken_after_its_patience(locks: Locks) -> None:
    first = other_thread(locks, "stock")
    waiter = OtherThread(locks, "stock")
    eventually(lambda: waiting(locks, "stock") == 1)
    time.sleep(0.002)  # longer than PATIENCE of wsgipool.locks.rwlock

    first.release()

    assert not is_free(locks, "stock")
    waiter.wait_until_it_holds().release()


# --- nested ----------------------------------------------------------------------------------------------------------


def test_a_nested_hold_follows_the_order(locks: Locks) -> None:
    with locks.hold("orders"), locks.hold("stock"):
        assert not is_free(locks, "orders")
        assert not is_free(locks, "stock")
    assert is_free(locks, "orders", "stock")


def test_a_nested_hold_against_the_order_is_an_error_that_names_both_places(locks: Locks) -> None:
    @locks.requires("orders")
    def inner() -> None:
        raise AssertionError("it must not run")

    with locks.hold("stock"), pytest.raises(LockOrderError) as caught:
        inner()

    assert f"{__file__}:{inspect.getsourcelines(inner)[1]} in inner" in str(caught.value)
    here = "test_a_nested_hold_against_the_order_is_an_error_that_names_both_places"
    line = inspect.currentframe().f_lineno - 5  # type: ignore[union-attr]
    assert f"{__file__}:{line} in {here}" in str(caught.value)
    assert "'orders' is wanted" in str(caught.value)
    assert is_free(locks, "orders", "stock")


def test_locks_that_the_thread_holds_need_no_wait(locks: Locks) -> None:
    @locks.requires("stock", read="orders")
    def inner() -> bool:
        return is_free(locks, "stock")

    with locks.hold("orders", "stock"):
        assert not inner()
        with locks.hold(read="stock", timeout=0), locks.hold("stock", timeout=0):
            pass
        assert not is_free(locks, "stock")
        with contextlib.suppress(KeyError), locks.hold("stock"):
            raise KeyError
        assert not is_free(locks, "stock")
        assert not is_free(locks, "orders")
    assert is_free(locks, "stock", "orders")


def test_only_locks_that_are_not_held_must_follow_the_order(locks: Locks) -> None:
    with locks.hold("a", "b"), locks.hold("a", "b", "c"):
        assert not is_free(locks, "c")
    assert is_free(locks, "a", "b", "c")


def test_an_upgrade_from_reading_to_writing_is_an_error(locks: Locks) -> None:
    with locks.hold(read="stock"):
        with pytest.raises(LockOrderError, match=r"holds it for reading.*Take it for writing from the start"):
            locks.hold("stock").__enter__()
        assert not is_free(locks, "stock")
    assert is_free(locks, "stock")


def test_blocks_may_end_in_any_order(locks: Locks) -> None:
    outer, inner = locks.hold("stock"), locks.hold("stock", "orders")
    first, second = locks.hold("orders", "stock"), locks.hold("stock")
    del outer, inner

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)

    assert is_free(locks, "orders")
    assert not is_free(locks, "stock")
    second.__exit__(None, None, None)
    assert is_free(locks, "stock")


def test_two_locks_objects_have_one_order(locks: Locks) -> None:
    others = Locks()
    with locks.hold("b"):
        with others.hold("c"), pytest.raises(LockOrderError):
            locks.hold("a").__enter__()
        with pytest.raises(LockOrderError):
            others.hold("a").__enter__()
        with others.hold("b"):
            assert not is_free(others, "b")
    with others.hold("b"), pytest.raises(LockOrderError):
        locks.hold("b").__enter__()


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_timeout_names_the_holder_its_place_and_its_time(locks: Locks) -> None:
    ready, go_on = threading.Event(), threading.Event()

    @locks.requires("stock")
    def count_stock() -> None:
        ready.set()
        assert go_on.wait(PATIENCE)

    task = Task(count_stock)
    assert ready.wait(PATIENCE)

    with pytest.raises(LockTimeout) as caught:
        locks.hold("stock", timeout=0.01).__enter__()
    go_on.set()
    task.result()

    message = str(caught.value)
    assert f"held by thread {task.thread_id} (Thread-" in message
    assert f"taken at {__file__}:{inspect.getsourcelines(count_stock)[1]} in count_stock, for 0." in message
    assert "not free within 0.01 s at" in message


def test_a_timeout_is_one_deadline_for_all(locks: Locks) -> None:
    holders = [other_thread(locks, name) for name in ("a", "b", "c")]
    start = time.monotonic()
    for release in (0, 1):
        threading.Timer(0.1 * (release + 1), holders[release].release).start()

    with pytest.raises(LockTimeout, match=r"'c' was not free within 0\.3 s"):
        locks.hold("a", "b", "c", timeout=0.3).__enter__()

    assert 0.3 <= time.monotonic() - start < 0.3 + PATIENCE
    holders[2].release()
    assert is_free(locks, "a", "b", "c")


def test_each_call_has_a_deadline_of_its_own(locks: Locks) -> None:
    @locks.requires("stock", timeout=0.2)
    def take() -> None: ...

    for _ in range(2):
        holder = other_thread(locks, "stock")
        with pytest.raises(LockTimeout):
            take()
        threading.Timer(0.02, holder.release).start()
        locks.requires("stock", timeout=PATIENCE)(lambda: None)()
        holder = other_thread(locks, "stock")
        threading.Timer(0.02, holder.release).start()
        take()


def test_a_waiter_that_gives_up_wakes_the_next(locks: Locks) -> None:
    reader = other_thread(locks, read="catalogue")
    writer = Task(lambda: locks.hold("catalogue", timeout=0.2).__enter__())
    eventually(lambda: waiting(locks, "catalogue") == 1)
    late = OtherThread(locks, read="catalogue")
    eventually(lambda: waiting(locks, "catalogue") == 2)

    with pytest.raises(LockTimeout, match="read by thread"):
        writer.result()

    late.wait_until_it_holds().release()
    reader.release()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_an_invalid_timeout_is_an_error(locks: Locks, timeout: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0 seconds"):
        locks.hold("stock", timeout=timeout)


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_group_is_one_lock(locks: Locks) -> None:
    locks.group("catalogue", "books", "prices")

    with locks.hold("books"):
        assert not is_free(locks, "prices")
        assert not is_free(locks, "catalogue")
        with locks.hold("prices", "catalogue"):
            pass


def test_a_group_may_follow_the_functions_that_need_it(locks: Locks) -> None:
    @locks.requires("books")
    def read() -> bool:
        return is_free(locks, "prices")

    locks.group("catalogue", "books", "prices")

    assert not read()


def test_a_name_has_one_lock(locks: Locks) -> None:
    locks.group("catalogue", "books", "prices")
    with pytest.raises(ValueError, match="'prices' is already in the group 'catalogue'"):
        locks.group("money", "prices")
    with locks.hold("stock"):
        pass
    with pytest.raises(ValueError, match="'stock' was already used as a lock"):
        locks.group("goods", "stock")


def test_only_declared_names_are_valid() -> None:
    locks = Locks("stock", "orders")
    locks.group("catalogue", "books")

    with pytest.raises(ValueError, match="'stok' is not a name of these Locks; did you mean stock"):
        locks.requires("orders", "stok")
    with pytest.raises(ValueError, match="'boks' is not"):
        locks.hold(read="boks")
    with locks.hold("orders", "stock", "books"):
        pass


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda locks: locks.hold(), ValueError, "no name is given"),
        (lambda locks: locks.requires(lambda: None), TypeError, "the name of a lock is a string"),
        (lambda locks: locks.group("a", scope="galaxy"), ValueError, 'must be "process", "host" or "database"'),
        (lambda locks: locks.group("a", scope="database"), ValueError, "needs database="),
        (lambda locks: locks.group("a", scope="host", database="shop"), ValueError, "database= needs scope"),
    ],
)
def test_a_mistake_is_an_error_with_a_remedy(
    locks: Locks, use: Callable[[Locks], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        use(locks)


def generator() -> Iterator[int]:
    yield 1


async def asynchronous() -> None: ...


class Callee: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (generator, "generator is a generator, which would hold its locks between its steps"),
        (asynchronous, "asynchronous is an async function"),
        (staticmethod(len), "decorates functions, not staticmethod; write @staticmethod"),
        (Callee, "decorates functions, not type"),
    ],
)
def test_only_functions_can_be_decorated(locks: Locks, function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        locks.requires("stock")(function)


# --- threads and processes -------------------------------------------------------------------------------------------


def test_another_thread_cannot_release(locks: Locks) -> None:
    block = locks.hold("stock")
    block.__enter__()

    with pytest.raises(WrongThread, match=r"'stock', which it has not taken; only the thread that takes"):
        Task(lambda: block.__exit__(None, None, None)).result()

    assert not is_free(locks, "stock")
    block.__exit__(None, None, None)
    assert is_free(locks, "stock")


def test_a_block_can_be_kept_and_used_by_all_threads(locks: Locks) -> None:
    stock = locks.hold("stock")
    inside: list[int] = []

    def work() -> None:
        for _ in range(200):
            with stock, stock:
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    for task in [Task(work) for _ in range(4)]:
        task.result()


def test_a_thread_that_ends_leaves_nothing_behind(locks: Locks) -> None:
    kept: list[object] = []

    def end() -> None:
        block = locks.hold("stock")
        block.__enter__()
        kept.append(block)

    Task(end).result()

    eventually(lambda: is_free(locks, "stock"))


def test_locks_left_by_a_request_are_released(locks: Locks, log: pytest.LogCaptureFixture) -> None:
    block = locks.hold("stock")
    block.__enter__()

    assert holding.reclaim(threading.get_ident()) == 1

    assert is_free(locks, "stock")
    assert "'stock', taken at " in log.text
    assert "was still held at the end of the request" in log.text
    with pytest.raises(WrongThread):
        block.__exit__(None, None, None)


def in_a_child(function: Callable[[], object]) -> None:
    """Run a function in the child of a fork; assert that it returns."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.005)
    assert ended[1] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forks_child_has_free_locks_and_the_parent_keeps_its_own(locks: Locks) -> None:
    @locks.requires("stock", "orders", timeout=0)
    def take() -> None: ...

    holder, waiter = other_thread(locks, "orders"), OtherThread(locks, "orders")
    eventually(lambda: waiting(locks, "orders") == 1)

    with locks.hold("stock"):
        in_a_child(take)
        with pytest.raises(LockTimeout):
            Task(take).result()
    holder.release()
    waiter.wait_until_it_holds().release()
    take()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_block_that_was_entered_before_a_fork_ends_in_the_child_without_harm(locks: Locks) -> None:
    def leave() -> None:
        with locks.hold("stock", timeout=0):
            block.__exit__(None, None, None)
            assert not is_free(locks, "stock")

    block = locks.hold("stock")
    block.__enter__()
    in_a_child(leave)
    assert not is_free(locks, "stock")
    block.__exit__(None, None, None)


@pytest.mark.parametrize("names", [["stock"], ["stock", "orders"]])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_function_that_forks_returns_in_the_child_too(locks: Locks, names: list[str]) -> None:
    @locks.requires(*names)
    def fork(is_wanted: bool) -> int:
        return os.fork() if is_wanted else 0

    fork(False)  # the first call differs, since it creates the lock set
    child, ended = -1, 1
    try:
        child = fork(True)
        with locks.hold(*names):
            ended = 0
    finally:
        if child == 0:
            os._exit(ended)

    assert os.waitpid(child, 0)[1] == 0


def test_a_program_may_end_while_it_holds() -> None:
    run_python(
        "import threading, wsgipool\n"
        "locks = wsgipool.Locks()\n"
        "block = locks.hold('stock'); block.__enter__()\n"
        "thread = threading.Thread(target=locks.hold('stock').__enter__, daemon=True); thread.start()\n"
    )


# --- all of it -------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d", "e")


class Shelf:
    """Protected data that detects two writers at once, or a writer beside readers."""

    def __init__(self) -> None:
        self.writers = self.readers = self.most_readers = self.value = 0
        self.misuses: list[str] = []

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        self.writers += 1
        if self.writers != 1 or self.readers:
            self.misuses.append(f"{self.writers} write, {self.readers} read")
        value = self.value
        try:
            yield
        finally:
            self.value = value + 1
            self.writers -= 1

    @contextlib.contextmanager
    def read(self, reader: object, present: set[object]) -> Iterator[None]:
        present.add(reader)  # a step that several threads can interleave
        self.most_readers = max(self.most_readers, len(present))
        if self.writers:
            self.misuses.append("read while it was written")
        value = self.value
        try:
            yield
        finally:
            if self.value != value:
                self.misuses.append("written while it was read")
            present.discard(reader)


def run_at_random(locks: Locks, order: Sequence[str], seconds: float) -> int:
    """Have 32 threads take these locks, nested and not; return the maximum number of threads that shared one.

    The locks are given in their order. Asserts that no thread hangs, all get turns, and the data stays consistent.
    """
    shelves = {name: Shelf() for name in order}
    present: dict[str, set[object]] = {name: set() for name in order}
    deadline = time.monotonic() + seconds

    @contextlib.contextmanager
    def at(names: list[str], reads: list[str], me: object) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in names:
                if present[name]:
                    shelves[name].misuses.append("written while others read")
                stack.enter_context(shelves[name].written())
            for name in set(reads) - set(names):
                stack.enter_context(shelves[name].read(me, present[name]))
            yield

    def program(seed: int) -> int:
        numbers = random.Random(seed)
        turns = 0
        while time.monotonic() < deadline:
            chosen = numbers.sample(order, numbers.randint(1, 3))
            reads = [name for name in chosen if numbers.random() < 0.5]
            names = [name for name in chosen if name not in reads]
            later = order[1 + max(map(order.index, chosen)) :]
            me = object()
            try:
                timeout = numbers.choice([None, None, 0.001])
                with locks.hold(*names, read=reads, timeout=timeout), at(names, reads, me):
                    time.sleep(numbers.choice([0, 0, 0.0001]))
                    if later and numbers.random() < 0.5:
                        inner = numbers.choice(later)
                        with locks.hold(inner, *names), at([inner], [], me):
                            turns += 1
                    assert numbers.random() < 0.9, "on purpose"
                turns += 1
            except (AssertionError, LockTimeout, PoolError):
                pass
        return turns

    tasks = [Task(lambda seed=seed: program(seed)) for seed in range(32)]  # type: ignore[misc]
    for task in tasks:
        assert task.is_done_within(deadline + 3 * PATIENCE - time.monotonic()), "a thread hangs"
    turns = [task.result() for task in tasks]

    assert [shelf.misuses for shelf in shelves.values()] == [[]] * len(order)
    assert min(turns) > 0, turns
    assert not this_holder().holds
    return max(shelf.most_readers for shelf in shelves.values())


def test_32_threads_at_random_never_hang_and_keep_their_data(locks: Locks, effort: int) -> None:
    assert run_at_random(locks, NAMES, seconds=1 if effort == 1 else 60) > 1

    assert is_free(locks, *NAMES)
