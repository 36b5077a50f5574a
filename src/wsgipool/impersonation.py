"""Functions that run as another user, in a child process without root's rights, files and environment."""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from wsgipool.errors import ConfigError, Error
from wsgipool.httpd.users import account, group_id

T = TypeVar("T")

_TIMEOUT = 30.0
_MAX_ANSWER = 64 * 1024 * 1024
"""Maximum length of an answer. The reports of a thousand processes with four pools each have some 6 million bytes."""

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONUTF8")
"""Variables of root's environment that contain no secrets."""


class NoAnswer(ConfigError):
    """The process of another user did not answer in time."""


def as_user(
    user: str,
    question: Callable[[], T],
    *,
    group: str | None = None,
    environment: Mapping[str, str] | None = None,
    root: Path | None = None,
    timeout: float = _TIMEOUT,
) -> T:
    """Return the result of a function that a child process calls as `user`, with the group that httpd gives it.

    The result consists of JSON's plain values. If `user` is not the user of this process, the child gets `environment`
    and the kept variables only, and neither this terminal nor any open file. It also gets `root` as its root folder:
    /proc/PID/root has what is mounted for that process only. Raises ConfigError if the user does not exist,
    if the function raises, or if there is no answer within `timeout` seconds.
    """
    known = account(user)
    if known is None:
        raise ConfigError(f"this host has no user {user}")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # The child ends in time even if this process is killed.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout + 1)
        _answer(known, group, environment, root, question, writer)
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
    root: Path | None,
    question: Callable[[], object],
    writer: int,
) -> NoReturn:
    # Only calls that cannot change the parent's state, and no handlers at the exit.
    try:
        try:
            if os.geteuid() != known.pw_uid:
                _become(known, group, environment or {}, root, writer)
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


def _become(
    known: pwd.struct_passwd, group: str | None, environment: Mapping[str, str], root: Path | None, writer: int
) -> None:
    # Code that is loaded from here on may belong to the user, such as a plugin of a database client. So it gets neither
    # root's terminal, to which it could type, nor open files, nor passwords in the environment.
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    # Groups are looked up in this root's files.
    group_number = known.pw_gid if group is None else group_id(group)
    groups = os.getgrouplist(known.pw_name, group_number)
    if root is not None:
        os.chroot(root)
    os.chdir("/")
    os.umask(0o077)
    os.setgroups(groups)
    os.setresgid(group_number, group_number, group_number)
    os.setresuid(known.pw_uid, known.pw_uid, known.pw_uid)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    os.environ.clear()
    os.environ.update({**kept, "HOME": known.pw_dir, "USER": known.pw_name, "LOGNAME": known.pw_name, **environment})
    tempfile.tempdir = None  # it depends on the environment


def _read_answer(reader: int, deadline: float) -> bytes | None:
    """Return the whole output of the child; None if it does not end in time."""
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
    # The user may control the child, so its output is parsed into plain values only.
    try:
        content = json.loads(answer)
        if "error" not in content:
            return content["answer"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(f"a process of {user} ended without an answer") from None
    raise ConfigError(str(content["error"]))
