"""What a program takes by name: all at once, in one order, and given back whatever happens."""

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
    """Return how many threads wait for a lock."""
    resource = locks._resources.get(name)
    return len(resource.lock.queue) if resource else 0


def is_free(locks: Locks, *names: str) -> bool:
    """Tell whether another thread could have these locks at once."""

    def take() -> bool:
        try:
            with locks.hold(*names, timeout=0):
                return True
        except LockTimeout:
            return False

    return Task(take).result()


class Somebody:
    """Another thread that holds locks until it is told."""

    def __init__(self, locks: Locks, *names: str, **options: Any) -> None:
        self._gate = Gate()
        self._task = Task(lambda: self._hold(locks, *names, **options))

    def _hold(self, locks: Locks, *names: str, **options: Any) -> None:
        with locks.hold(*names, **options):
            self._gate()

    def wait_until_it_holds(self) -> Somebody:
        self._gate.wait_until_reached()
        return self

    def give_back(self) -> None:
        self._gate.open()
        self._task.result()


def somebody(locks: Locks, *names: str, **options: Any) -> Somebody:
    return Somebody(locks, *names, **options).wait_until_it_holds()


# --- at once ---------------------------------------------------------------------------------------------------------


def test_a_function_has_what_it_requires_while_it_runs_and_no_longer(locks: Locks) -> None:
    @locks.requires("stock", "orders")
    def place_order(book: str, n: int = 1) -> tuple[str, int, bool]:
        return book, n, is_free(locks, "stock") or is_free(locks, "orders")

    assert place_order("Emma", n=2) == ("Emma", 2, False)
    assert is_free(locks, "stock", "orders")


def test_a_block_has_what_it_holds(locks: Locks) -> None:
    with locks.hold("stock", read=["catalogue"]):
        assert not is_free(locks, "stock")
        assert not is_free(locks, "catalogue")
    assert is_free(locks, "stock", "catalogue")


def test_a_method_and_what_it_says_of_itself(locks: Locks) -> None:
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
def test_what_raises_leaves_nothing_behind(locks: Locks, kind: type[BaseException]) -> None:
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


def test_those_who_read_share(locks: Locks) -> None:
    reader = somebody(locks, read="catalogue")

    with locks.hold(read="catalogue", timeout=0):
        assert not is_free(locks, "catalogue")
    reader.give_back()
    assert is_free(locks, "catalogue")


def test_what_is_read_and_written_in_one_call_is_written(locks: Locks) -> None:
    locks.group("catalogue", "books", "prices")

    with locks.hold("books", read=("prices", "catalogue")), pytest.raises(LockTimeout):
        Task(lambda: locks.hold(read="catalogue", timeout=0).__enter__()).result()


def test_one_who_writes_comes_before_those_who_read_later(locks: Locks) -> None:
    reader = somebody(locks, read="catalogue")
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
    reader.give_back()
    for task in [writer, *late]:
        task.result()

    assert order == ["write", "read", "read", "read"]


def test_one_who_writes_and_has_just_come_between_two_who_read_waits_for_both() -> None:
    lock, thread = ReadWriteLock(), this_holder()
    first, writer, second = Turn(thread, shared=True), Turn(thread, shared=False), Turn(thread, shared=True)
    assert lock.take(first)
    lock.owners.append(writer)  # and has not looked yet
    assert lock.take(second)

    lock.give_back(first, 0)
    assert not lock.has_it(writer)
    lock.give_back(second, 0)
    assert lock.has_it(writer)


def test_readers_without_end_do_not_keep_a_writer_waiting(locks: Locks) -> None:
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


def test_writers_without_end_do_not_keep_another_waiting(locks: Locks) -> None:
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


def test_who_waits_is_served_in_the_order_of_coming(locks: Locks) -> None:
    holder = somebody(locks, "stock")
    order: list[int] = []

    def wait(number: int) -> None:
        with locks.hold("stock"):
            order.append(number)

    tasks = []
    for number in range(8):
        tasks.append(Task(lambda number=number: wait(number)))  # type: ignore[misc]
        eventually(lambda number=number: waiting(locks, "stock") == number + 1)  # type: ignore[misc]
    holder.give_back()
    for task in tasks:
        task.result()

    assert order == list(range(8))


def test_who_has_waited_its_patience_is_not_overtaken(locks: Locks) -> None:
    first = somebody(locks, "stock")
    waiter = Somebody(locks, "stock")
    eventually(lambda: waiting(locks, "stock") == 1)
    time.sleep(0.002)  # longer than PATIENCE of wsgipool.locks.rwlock

    first.give_back()

    assert not is_free(locks, "stock")
    waiter.wait_until_it_holds().give_back()


# --- nested ----------------------------------------------------------------------------------------------------------


def test_a_nested_hold_follows_the_order(locks: Locks) -> None:
    with locks.hold("orders"), locks.hold("stock"):
        assert not is_free(locks, "orders")
        assert not is_free(locks, "stock")
    assert is_free(locks, "orders", "stock")


def test_a_nested_hold_against_the_order_is_an_error_at_the_first_try_with_both_places(locks: Locks) -> None:
    @locks.requires("orders")
    def inner() -> None:
        raise AssertionError("it must not run")

    with locks.hold("stock"), pytest.raises(LockOrderError) as caught:
        inner()

    assert f"{__file__}:{inspect.getsourcelines(inner)[1]} in inner" in str(caught.value)
    here = "test_a_nested_hold_against_the_order_is_an_error_at_the_first_try_with_both_places"
    line = inspect.currentframe().f_lineno - 5  # type: ignore[union-attr]
    assert f"{__file__}:{line} in {here}" in str(caught.value)
    assert "'orders' is wanted" in str(caught.value)
    assert is_free(locks, "orders", "stock")


def test_what_the_thread_holds_already_is_free(locks: Locks) -> None:
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


def test_only_what_is_not_held_has_to_follow_the_order(locks: Locks) -> None:
    with locks.hold("a", "b"), locks.hold("a", "b", "c"):
        assert not is_free(locks, "c")
    assert is_free(locks, "a", "b", "c")


def test_from_reading_to_writing_is_an_error_and_no_deadlock(locks: Locks) -> None:
    with locks.hold(read="stock"):
        with pytest.raises(LockOrderError, match=r"has it for reading only.*Take it for writing from the start"):
            locks.hold("stock").__enter__()
        assert not is_free(locks, "stock")
    assert is_free(locks, "stock")


def test_blocks_that_end_in_another_order_leave_each_other_what_they_rely_on(locks: Locks) -> None:
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


def test_a_timeout_names_who_holds_where_and_since_when(locks: Locks) -> None:
    ready, told = threading.Event(), threading.Event()

    @locks.requires("stock")
    def count_stock() -> None:
        ready.set()
        assert told.wait(PATIENCE)

    task = Task(count_stock)
    assert ready.wait(PATIENCE)

    with pytest.raises(LockTimeout) as caught:
        locks.hold("stock", timeout=0.01).__enter__()
    told.set()
    task.result()

    message = str(caught.value)
    assert f"held by thread {task.thread_id} (Thread-" in message
    assert f"taken at {__file__}:{inspect.getsourcelines(count_stock)[1]} in count_stock, for 0." in message
    assert "not to be had within 0.01 s at" in message


def test_a_timeout_is_one_deadline_for_all(locks: Locks) -> None:
    holders = [somebody(locks, name) for name in ("a", "b", "c")]
    start = time.monotonic()
    for release in (0, 1):
        threading.Timer(0.1 * (release + 1), holders[release].give_back).start()

    with pytest.raises(LockTimeout, match=r"'c' was not to be had within 0\.3 s"):
        locks.hold("a", "b", "c", timeout=0.3).__enter__()

    assert 0.3 <= time.monotonic() - start < 0.3 + PATIENCE
    holders[2].give_back()
    assert is_free(locks, "a", "b", "c")


def test_each_call_has_a_deadline_of_its_own(locks: Locks) -> None:
    @locks.requires("stock", timeout=0.2)
    def take() -> None: ...

    for _ in range(2):
        holder = somebody(locks, "stock")
        with pytest.raises(LockTimeout):
            take()
        threading.Timer(0.02, holder.give_back).start()
        locks.requires("stock", timeout=PATIENCE)(lambda: None)()
        holder = somebody(locks, "stock")
        threading.Timer(0.02, holder.give_back).start()
        take()


def test_who_gives_up_wakes_those_behind(locks: Locks) -> None:
    reader = somebody(locks, read="catalogue")
    writer = Task(lambda: locks.hold("catalogue", timeout=0.2).__enter__())
    eventually(lambda: waiting(locks, "catalogue") == 1)
    late = Somebody(locks, read="catalogue")
    eventually(lambda: waiting(locks, "catalogue") == 2)

    with pytest.raises(LockTimeout, match="read by thread"):
        writer.result()

    late.wait_until_it_holds().give_back()
    reader.give_back()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none_is_an_error(locks: Locks, timeout: float) -> None:
    with pytest.raises(ValueError, match="it is a number of seconds from 0"):
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
    with pytest.raises(ValueError, match="'prices' is in the group 'catalogue' already"):
        locks.group("money", "prices")
    with locks.hold("stock"):
        pass
    with pytest.raises(ValueError, match="'stock' is a lock that was used already"):
        locks.group("goods", "stock")


def test_declared_names_are_all_that_there_are() -> None:
    locks = Locks("stock", "orders")
    locks.group("catalogue", "books")

    with pytest.raises(ValueError, match="'stok' is none of the names of these Locks; did you mean stock"):
        locks.requires("orders", "stok")
    with pytest.raises(ValueError, match="'boks' is none"):
        locks.hold(read="boks")
    with locks.hold("orders", "stock", "books"):
        pass


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda locks: locks.hold(), ValueError, "no name: say what to lock"),
        (lambda locks: locks.requires(lambda: None), TypeError, "the name of a lock is a string"),
        (lambda locks: locks.group("a", scope="galaxy"), ValueError, 'it is "process", "host" or "database"'),
        (lambda locks: locks.group("a", scope="database"), ValueError, "needs database="),
        (lambda locks: locks.group("a", scope="host", database="shop"), ValueError, "goes with scope"),
    ],
)
def test_a_mistake_says_what_would_do(
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
def test_what_cannot_hold_for_a_call_is_refused(locks: Locks, function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        locks.requires("stock")(function)


# --- threads and processes -------------------------------------------------------------------------------------------


def test_another_thread_cannot_give_back(locks: Locks) -> None:
    block = locks.hold("stock")
    block.__enter__()

    with pytest.raises(WrongThread, match=r"'stock', which it has not taken; who takes gives back"):
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


def test_what_a_request_leaves_behind_is_given_back(locks: Locks, log: pytest.LogCaptureFixture) -> None:
    block = locks.hold("stock")
    block.__enter__()

    assert holding.reclaim(threading.get_ident()) == 1

    assert is_free(locks, "stock")
    assert "'stock', taken at " in log.text
    assert "was still held at the end of the request" in log.text
    with pytest.raises(WrongThread):
        block.__exit__(None, None, None)


def in_a_child(function: Callable[[], object]) -> None:
    """Run a function in the child of a fork, and see that it returns."""
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

    holder, waiter = somebody(locks, "orders"), Somebody(locks, "orders")
    eventually(lambda: waiting(locks, "orders") == 1)

    with locks.hold("stock"):
        in_a_child(take)
        with pytest.raises(LockTimeout):
            Task(take).result()
    holder.give_back()
    waiter.wait_until_it_holds().give_back()
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

    fork(False)  # the first call is another: it makes the plan
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
    """Protected data that notices who comes too near: two writers, or one beside those who read."""

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
        present.add(reader)  # one step, where several are
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
    """Have 32 threads take these locks, given in their order, nested and not; return how many shared one at most.

    Asserts that none hangs, that all have turns, and that the data were whole.
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
    assert run_at_random(locks, NAMES, seconds=4 if effort == 1 else 60) > 1

    assert is_free(locks, *NAMES)
