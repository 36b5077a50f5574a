"""Asynchronous exceptions, such as RequestTimeout and Ctrl-C: at a chosen place, or at any moment."""

from __future__ import annotations

import contextlib
import ctypes
import dis
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import wsgipool
from unit.fakes import PATIENCE, Task
from wsgipool import PoolDeadlock
from wsgipool.pool._slot import Waiter

PACKAGE = str(Path(wsgipool.__file__).parent)


class Interrupt(BaseException):
    """A stand-in for KeyboardInterrupt and mod_wsgi's RequestTimeout."""


class Alarm(Exception):
    """An ordinary exception at any place, as many handlers of SIGALRM raise it."""


class PoolAlarm(Alarm, PoolDeadlock):
    """The exception of a handler of SIGALRM that does not catch the error of its own `getconn`."""


def interrupt(thread_id: int) -> None:
    """Make a thread raise Interrupt at the next place at which the interpreter delivers exceptions."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(Interrupt))


def interrupt_at_work(work: Callable[[], object], seconds: float) -> int:
    """Have a thread repeat some work, interrupt it after `seconds`, and return its identifier at its end."""
    begun = threading.Event()

    def work_on() -> None:
        try:
            begun.set()
            while True:
                work()
        except BaseException as error:
            if not _comes_of_interrupt(error):
                raise

    task = Task(work_on)
    assert begun.wait(PATIENCE), "the thread does not begin to work"
    time.sleep(seconds)
    # An exception in a destructor or in a bare `except` of a driver is swallowed: then raise another one.
    for _ in range(10):
        interrupt(task.thread_id)
        if task.is_done_within(2.0):
            break
    task.result()
    return task.thread_id


@contextlib.contextmanager
def debris_ignored(*others: type[BaseException]) -> Iterator[None]:
    """Ignore warnings about files and sockets that an asynchronous exception left to the collector.

    `others`: further errors of destructors to ignore, from objects that were not fully created.
    """
    report = sys.unraisablehook

    def report_others(missed: Any) -> None:
        if missed.exc_type not in (Interrupt, Alarm, PoolAlarm, ResourceWarning, *others):
            report(missed)

    sys.unraisablehook = report_others
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = report


def _comes_of_interrupt(error: BaseException | None) -> bool:
    """Return whether this is an Interrupt or an Alarm, or an error of a clean-up after one."""
    while error is not None and not isinstance(error, Interrupt | Alarm):
        error = error.__context__
    return error is not None


class ExceptionInjector:
    """Raises exceptions in operations of this thread, at places in the package and in one more file or folder.

    A place is between two instructions, where the interpreter delivers asynchronous exceptions: at the start of a
    function, after a call, before a jump back. No exception can come elsewhere. Between the end of a `with lock:` block
    and the release, for example, it would leave the lock locked.
    """

    def __init__(
        self, also: str, when_waiting: Callable[[], object], exception: type[Interrupt | Alarm] = Interrupt
    ) -> None:
        self._exception = exception
        self._files = (PACKAGE, also)
        self._when_waiting = when_waiting
        # By id(), because the hash of a code object is computed again each time.
        self._places: dict[int, tuple[CodeType, frozenset[int]]] = {}

    def places(self, operation: Callable[[], object]) -> int:
        """Run an operation to its end; return the number of its places."""
        return self._run(operation, 0)

    def at(self, place: int, operation: Callable[[], object], just_before: Callable[[], object] | None = None) -> bool:
        """Raise the exception at the n-th place of an operation, from 1; return False if it ended before.

        `just_before` is called at that place, for the work of other threads at that moment.
        """
        try:
            return (
                self._run(operation, place, just_before) >= place
            )  # a pool that checks a connection catches and logs an Alarm
        except BaseException as error:
            if _comes_of_interrupt(error):
                return True
            raise

    def _run(self, operation: Callable[[], object], place: int, just_before: Callable[[], object] | None = None) -> int:
        passed = 0

        def on_call(frame: FrameType, _event: str, _: object) -> Any:
            places = self._places_in(frame.f_code)
            if not places:
                return None
            if frame.f_code is Waiter.wait.__code__:
                self._when_waiting()

            def on_instruction(frame: FrameType, event: str, _: object) -> Any:
                nonlocal passed
                if event == "opcode" and frame.f_lasti in places:
                    passed += 1
                    if passed == place:
                        if just_before is not None:
                            just_before()
                        raise self._exception
                return on_instruction

            frame.f_trace = on_instruction  # must be set before f_trace_opcodes: Python 3.13
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
            return on_instruction

        previous = sys.gettrace()
        sys.settrace(on_call)
        try:
            operation()
        finally:
            sys.settrace(previous)
        return passed

    def _places_in(self, code: CodeType) -> frozenset[int]:
        known = self._places.get(id(code))
        if known is None:
            is_traced = code.co_filename.startswith(self._files)
            known = self._places[id(code)] = (code, _places(code) if is_traced else frozenset())
        return known[1]


def _places(code: CodeType) -> frozenset[int]:
    instructions = list(dis.get_instructions(code))
    after = {
        following.offset
        for instruction, following in itertools.pairwise(instructions)
        if instruction.opname.startswith(("RESUME", "CALL"))
    }
    jumps = {int(instruction.argval) for instruction in instructions if "JUMP_BACKWARD" in instruction.opname}
    return frozenset(after | jumps)
