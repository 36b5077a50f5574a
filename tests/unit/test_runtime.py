"""The functions that run after a fork and at the end of a process."""

from __future__ import annotations

import pytest

from unit.fakes import run_python

PREAMBLE = """
import logging, os, signal, sys
from wsgipool import _runtime
logging.basicConfig(stream=sys.stdout, format="%(message)s")

def say(word):
    return lambda: print(word, flush=True)

def fork(function):
    child = os.fork()
    if child == 0:
        function()
        sys.exit()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def fail():
    raise {error}
"""


def lines_of(program: str, error: str = "ValueError") -> list[str]:
    return run_python(PREAMBLE.format(error=error) + program).splitlines()


def test_at_the_end_the_last_registered_function_runs_first() -> None:
    assert lines_of('_runtime.at_end(say("first")); _runtime.at_end(say("last"))') == ["last", "first"]


def test_the_end_runs_once_although_httpd_and_the_interpreter_call_it() -> None:
    assert lines_of('_runtime.at_end(say("end")); _runtime.end(); _runtime.end(); print("on")') == ["end", "on"]


def test_a_function_registered_after_httpds_shutdown_runs_at_the_interpreters_end() -> None:
    assert lines_of('_runtime.end(); _runtime.at_end(say("end")); print("on")') == ["on", "end"]


def test_a_signal_handler_may_end_the_process_in_the_middle_of_its_end() -> None:
    program = """
signal.signal(signal.SIGTERM, lambda *_: _runtime.end())
_runtime.at_end(say("first"))
_runtime.at_end(lambda: (print("terminated"), os.kill(os.getpid(), signal.SIGTERM)))
_runtime.end()
"""
    assert lines_of(program) == ["terminated", "first"]


@pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt", "SystemExit"])
def test_a_function_that_raises_does_not_stop_the_others_at_the_end(error: str) -> None:
    lines = lines_of('_runtime.at_end(say("first")); _runtime.at_end(fail)', error)

    assert "<function fail" in lines[0]
    assert [lines[1], *lines[-2:]] == ["Traceback (most recent call last):", error, "first"]


def test_after_a_fork_functions_run_in_order_and_only_in_the_child() -> None:
    program = 'for word in ("first", "last"): _runtime.after_fork(say(word))\nfork(say("child")); print("parent")'

    assert lines_of(program) == ["first", "last", "child", "parent"]


def test_a_function_that_raises_does_not_stop_the_others_after_a_fork() -> None:
    lines = lines_of('_runtime.after_fork(fail); _runtime.after_fork(say("last")); fork(say("child"))')

    assert "<function fail" in lines[0]
    assert lines[-3:] == ["ValueError", "last", "child"]


def test_the_functions_of_the_end_run_again_in_the_child_of_a_fork() -> None:
    program = """
_runtime.at_end(lambda: print("end of", os.getpid() - parent, _runtime.is_ending(), flush=True))
parent = os.getpid()
_runtime.end()
def child():
    global parent
    parent = os.getpid()
    print("child", _runtime.is_ending(), flush=True)
fork(child)
print("parent", _runtime.is_ending())
"""
    assert lines_of(program) == ["end of 0 True", "child False", "end of 0 True", "parent True"]


def test_a_fork_that_python_has_not_seen_is_noticed_once() -> None:
    program = """
import ctypes
_runtime.after_fork(say("noticed"))
child = ctypes.PyDLL(None).fork()  # as uWSGI forks: the functions of os.register_at_fork are not called
_runtime.notice_fork()
_runtime.notice_fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
fork(_runtime.notice_fork)
print("parent")
"""
    assert lines_of(program) == ["noticed", "noticed", "parent"]
