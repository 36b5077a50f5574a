"""Questions asked as another user, by a child process that is that user and has nothing of root's."""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from wsgipool.errors import ConfigError, Error
from wsgipool.httpd.users import account, group_id

T = TypeVar("T")

_TIMEOUT = 30.0
_MAX_ANSWER = 4 * 1024 * 1024

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONUTF8")
"""Of root's environment: what says nothing secret."""


class NoAnswer(ConfigError):
    """The process of another user was not done in time."""


def as_user(
    user: str,
    question: Callable[[], T],
    *,
    group: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = _TIMEOUT,
) -> T:
    """Return the answer to a question, asked by a child process of `user`, with the group that httpd gives it.

    The answer is of plain values that JSON has. Where the child is another user than this process, its environment is
    `environment` alone, and it has neither this terminal nor any open file. Raises ConfigError where there is no such
    user, where the question raises anything, and where there is no answer within `timeout` seconds.
    """
    known = account(user)
    if known is None:
        raise ConfigError(f"this host has no user {user}")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # It ends in time, too, where this process was killed meanwhile.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout + 1)
        _answer(known, group, environment, question, writer)
    try:
        os.close(writer)
        answer = _read_answer(reader, time.monotonic() + timeout)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if answer is None:
        raise NoAnswer(f"a process of {known.pw_name} gave no answer within {timeout:g} s")
    result: T = _unpacked(answer, known.pw_name)
    return result


def _answer(
    known: pwd.struct_passwd,
    group: str | None,
    environment: Mapping[str, str] | None,
    question: Callable[[], object],
    writer: int,
) -> NoReturn:
    # Only what cannot touch the parent's state, and out by the shortest way.
    try:
        try:
            if os.geteuid() != known.pw_uid:
                _become(known, group, environment or {}, writer)
            answer = {"answer": question()}
        except Error as error:
            answer = {"error": str(error)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}
        text = json.dumps(answer).encode()
        while text:
            text = text[os.write(writer, text) :]
    finally:
        os._exit(0)


def _become(known: pwd.struct_passwd, group: str | None, environment: Mapping[str, str], writer: int) -> None:
    # What is loaded from here on may be the user's own, a plugin of a database client, say: it gets nothing of root's,
    # neither the terminal, to which it could type, nor open files, nor passwords in the environment.
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    os.umask(0o077)
    group_number = known.pw_gid if group is None else group_id(group)
    os.initgroups(known.pw_name, group_number)
    os.setresgid(group_number, group_number, group_number)
    os.setresuid(known.pw_uid, known.pw_uid, known.pw_uid)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    os.environ.clear()
    os.environ.update({**kept, "HOME": known.pw_dir, "USER": known.pw_name, "LOGNAME": known.pw_name, **environment})


def _read_answer(reader: int, deadline: float) -> bytes | None:
    """Return what the child wrote until its end, or None where that did not come in time."""
    parts, size = [], 0
    while size <= _MAX_ANSWER:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(reader, 65536)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _unpacked(answer: bytes, user: str) -> Any:
    # The child may be in the user's hands: whatever it says, this process only ever gets plain values of it.
    try:
        content = json.loads(answer)
        if "error" not in content:
            return content["answer"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(f"a process of {user} ended without an answer") from None
    raise ConfigError(str(content["error"]))
