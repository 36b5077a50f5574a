"""An exception from outside, as RequestTimeout and Ctrl-C are: at a place of one's choice, or at any moment."""

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
from wsgipool.loan import Waiter

PACKAGE = str(Path(wsgipool.__file__).parent)


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt and mod_wsgi's RequestTimeout."""


class Alarm(Exception):
    """What a handler of SIGALRM raises in many programs: an exception like any other, wherever the thread is."""


def interrupt(thread_id: int) -> None:
    """Have a thread raise Interrupt at the next place where the interpreter looks for it."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(Interrupt))


def interrupt_at_work(work: Callable[[], object], seconds: float) -> int:
    """Have a thread work again and again, interrupt it after so many seconds, and return its number at its end."""
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
    assert begun.wait(PATIENCE), "it does not begin to work"
    time.sleep(seconds)
    # One that strikes in a destructor, or in a driver's bare `except`, is not heard of: then it takes another.
    for _ in range(10):
        interrupt(task.thread_id)
        if task.is_done_within(2.0):
            break
    task.result()
    return task.thread_id


@contextlib.contextmanager
def debris_ignored(*others: type[BaseException]) -> Iterator[None]:
    """Say nothing of what interruptions leave to the collector: files and sockets that were just being opened.

    `others`: errors of destructors, besides, that come of what was only half made.
    """
    complain = sys.unraisablehook

    def complain_of_the_rest(missed: Any) -> None:
        if missed.exc_type not in (Interrupt, Alarm, ResourceWarning, *others):
            complain(missed)

    sys.unraisablehook = complain_of_the_rest
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = complain


def _comes_of_interrupt(error: BaseException | None) -> bool:
    """Return whether this is an Interrupt or an Alarm, or what some clean-up made of it."""
    while error is not None and not isinstance(error, Interrupt | Alarm):
        error = error.__context__
    return error is not None


class Strikes:
    """Interrupts operations of this thread in the code of the package, and of one more file: the driver's part.

    A place is between two instructions, where the interpreter looks for an exception from outside: as a function
    begins, after a call, before a jump back. Elsewhere it cannot strike, and so it does not here: a `with lock:` would
    stay locked if it struck between the end of its block and the release, which are one step to a real exception.
    """

    def __init__(
        self, also: str, when_waiting: Callable[[], object], exception: type[Interrupt | Alarm] = Interrupt
    ) -> None:
        self._exception = exception
        self._files = (PACKAGE, also)
        self._when_waiting = when_waiting
        # By id(), since a code object's hash is computed anew each time.
        self._places: dict[int, tuple[CodeType, frozenset[int]]] = {}

    def places(self, operation: Callable[[], object]) -> int:
        """Run an operation to its end, and return the number of places in it."""
        return self._run(operation, 0)

    def at(self, place: int, operation: Callable[[], object], just_before: Callable[[], object] | None = None) -> bool:
        """Run an operation until its n-th place, from 1; False if it has come to its end before.

        `just_before` is called there: what others do at that very moment.
        """
        try:
            return self._run(operation, place, just_before) >= place  # a pool that checks a connection logs an Alarm
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

            frame.f_trace = on_instruction  # before it wants instructions: Python 3.13
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
            is_meant = code.co_filename.startswith(self._files)
            known = self._places[id(code)] = (code, _places(code) if is_meant else frozenset())
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
