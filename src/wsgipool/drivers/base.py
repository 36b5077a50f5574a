"""The driver interface: everything in which DB-API modules differ.

A driver connects, checks whether a connection is alive, cleans it and ends its session. It knows no pool. The pool
calls it outside its lock, so each method may wait for the network. Only `adopt` is called under the lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Set
from threading import get_ident
from typing import Generic, Literal, Protocol, TypeVar

from wsgipool.drivers.codes import Codes, is_conflict, is_out_of_service, is_refusal
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.errors import PLAIN_ERRORS, ConfigError, PoolErrors


class DBAPIConnection(Protocol):
    """The methods of a PEP 249 connection that a pool needs."""

    def commit(self) -> object:
        """Commit the transaction."""

    def rollback(self) -> object:
        """Roll the transaction back."""

    def close(self) -> object:
        """End the session."""


C = TypeVar("C", bound=DBAPIConnection)

Hook = Callable[[], object]

IN_THE_POOL = 0
"""The holder of an idle connection. No thread has this number, nor the one of ``ENDED``."""
ENDED = -1
"""The holder of a connection that the driver has closed, or that belongs to the parent of a fork."""

DRIVER_PACKAGES = frozenset({"wsgipool", "pymysql", "MySQLdb", "psycopg", "psycopg_c", "psycopg_binary"})
"""Packages, beside the standard library, whose errors come from a database and not from the program."""

MIN_ANSWER_TIMEOUT = 0.01
"""Minimum wait in seconds for an answer that should have arrived already."""

CLEANING_TIMEOUT = 0.5
"""Seconds that a server has to clean a session, counted from the request.

This is far more than one round trip. A session that takes longer, for the rollback of a long transaction, is closed:
the next holder does not wait for it.
"""

DEFAULT_CONNECT_TIMEOUT = 10.0
"""Seconds until a session must be ready: PyMySQL's default, and the default of MySQL's connect_timeout."""

DEFAULT_READ_TIMEOUT = 60.0
"""Seconds to wait for a silent server.

It exceeds the server's innodb_lock_wait_timeout of 50 s, so the server's own error comes first. It equals httpd's
``Timeout``, after which the client's request is over.
"""

UNREAD_RESULT = "a result was not read to its end; after CALL read the rest by nextset(), or close the cursor"
"""The error for a connection that is returned in the middle of an answer."""

CLOSED_BY_HOLDER = (
    "the connection was closed by close(); do not close it: leave the `with` block, or return it by putconn"
)
CLOSED_BY_POOL = "the pool has closed the connection; use none after its return"

Reset = Literal["rollback", "session"]
"""How a returned connection is cleaned.

``"rollback"`` ends the transaction. ``"session"`` also ends everything that a session keeps: user variables, SET,
temporary tables, locks.
"""


class Driver(Protocol[C]):
    """One database, reached through one DB-API module.

    Timeouts are in seconds. Errors are those of the DB-API module. After an error the connection cannot be used again,
    unless the method says otherwise.
    """

    @property
    def address(self) -> str:
        """The address of the database, without secrets."""

    @property
    def server(self) -> str | None:
        """The server's name, the same for all its databases (see ``server_of``); None for a file."""

    @property
    def account(self) -> str:
        """The account for which the server may have a limit (see ``account_of``)."""

    @property
    def errors(self) -> PoolErrors:
        """The error classes of a pool with this driver, each also a subclass of the DB-API module's error."""

    def connect(self, timeout: float, pipeline: bool = True) -> C:
        """Open a connection and note its state, as ``remember`` does.

        Args:
            timeout: Maximum seconds until the session is ready.
            pipeline: Whether commands may be sent before earlier ones are answered. Some proxies need False.

        Raises:
            ConfigError: The settings cannot work.
            Exception: The DB-API module's error.
        """

    def remember(self, connection: C) -> None:
        """Note the state of the Python object, which each ``check_in`` restores.

        A holder can change this state, for instance the class of the cursors, and no reset on the server undoes it. The
        pool calls this method after the program's ``configure``.
        """

    def set_close_hook(self, connection: C, hook: Hook) -> bool:
        """Make ``connection.close()`` call a hook instead of ending the session.

        The pool calls this method once, right after ``connect``. Only a ``close()`` by the holder, on the holder's
        thread, calls the hook. A ``close()`` by any other thread does nothing, or raises the DB-API module's error.

        Args:
            connection: The new connection.
            hook: The callback. It may call ``check_in``, or ``close``, which ends the session.

        Returns:
            Whether ``close()`` can be replaced.
        """

    def check_out(self, connection: C, thread_id: int, timeout: float) -> bool:
        """Make a thread the holder: from now on only this thread may use the connection.

        The answer to the cleaning that ``check_in`` began is read here. It proves that the connection is alive. It must
        arrive within ``CLEANING_TIMEOUT`` of the request. Without a cleaning, the state of the socket is checked.

        Args:
            connection: An idle or a new connection.
            thread_id: The thread's ``threading.get_ident()``.
            timeout: Maximum seconds to wait for the answer.

        Returns:
            Whether the connection can be used: alive, clean, and without unexpected input.

        Raises:
            Exception: The DB-API module's error; the connection cannot be used either.
        """

    def adopt(self, connection: C, thread_id: int) -> None:
        """Make the calling thread the holder of a connection that another thread has checked out.

        The pool calls this under its lock, so it must not wait.
        """

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:
        """Take the connection from its holder, restore its Python state and begin to clean its session.

        Args:
            connection: The returned connection.
            how: The kind of cleaning; None leaves the session as it is.
            pipeline: Whether the answer may be left to ``check_out``. With False it is waited for here, up to
                ``CLEANING_TIMEOUT``.

        Raises:
            Exception: The connection must not be used again. A result is unread, for instance, or the server can do no
                work (see ``is_out_of_service``).
        """

    def begin(self, connection: C) -> None:
        """Begin a transaction if the connection is in autocommit; otherwise do nothing.

        Raises:
            ConfigError: The driver cannot begin one.
        """

    def set_read_timeout(self, connection: C, seconds: float) -> None:
        """Change the read timeout until the return; ``check_in`` restores the former one.

        Raises:
            ConfigError: The driver cannot change it.
        """

    def ping(self, connection: C, timeout: float) -> None:
        """Check that the server answers.

        Raises:
            Exception: No answer came within ``timeout`` seconds.
        """

    def close(self, connection: C) -> SessionEnd:
        """End the session in the way the server expects, without calling the hook. Raise no ``Exception``.

        Returns:
            An object that observes when the server has ended the session, too. Close it if you do not need that.
        """

    def after_fork(self, connection: C) -> None:
        """Release an inherited connection in the child of a fork. Send nothing: the session is the parent's."""

    def reload(self) -> None:
        """Read the TLS files again, so that the next connect uses renewed certificates.

        The password is part of the settings and is not read again.

        Raises:
            ConfigError: The files cannot be used. The earlier ones stay in use.
        """

    def will_be_refused_again(self, error: BaseException) -> bool:
        """Return whether a failed connect will fail until somebody acts, for instance after a wrong password."""

    def can_run_again(self, error: BaseException) -> bool:
        """Return whether the failed transaction can be run again, for instance after a deadlock."""

    def is_out_of_service(self, error: BaseException) -> bool:
        """Return whether the error shows that the server can do no work.

        The pool then closes the connection instead of checking it out again.
        """


class Holder:
    """The thread that holds a connection, and the hook of its ``close()``.

    It is for modules whose connections any thread can use. It belongs to one connection.
    """

    __slots__ = ("hook", "thread_id")

    def __init__(self) -> None:
        """Begin without a holder and without a hook."""
        self.thread_id: int | None = None
        """The holder, ``IN_THE_POOL`` or ``ENDED``; None before the first checkout."""
        self.hook: Hook | None = None
        """The callback for the holder's ``close()``."""

    def close(self, end: Hook) -> None:
        """Act on a call of ``connection.close()``.

        With a hook, call it if the caller is the holder; for another thread do nothing. Without a hook, call ``end``.
        """
        if self.hook is None:
            end()
        elif self.thread_id == get_ident():
            self.hook()


class BaseDriver(Generic[C]):
    """The base class of drivers: what PEP 249 and the servers' error codes allow.

    A subclass sets ``address`` and implements ``connect``; see ``Driver`` for each method's promise. The other methods
    suit any DB-API module, and a subclass overrides those in which its module can do more.
    """

    address: str
    server: str | None = None
    account: str = ""
    errors: PoolErrors = PLAIN_ERRORS

    close_on_errors: Codes = frozenset()
    """Additional error codes after which a connection is not used again."""

    def remember(self, connection: C) -> None:
        """Do nothing: PEP 249 defines no state of the Python object."""

    def set_close_hook(self, connection: C, hook: Hook) -> bool:  # noqa: ARG002
        """Return False: ``close()`` cannot be replaced."""
        return False

    def adopt(self, connection: C, thread_id: int) -> None:
        """Do nothing: a PEP 249 connection does not know its holder."""

    def reload(self) -> None:
        """Do nothing: there are no files to read again."""

    def check_out(self, connection: C, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return True: PEP 249 has no way to check."""
        return True

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        """Roll back, unless ``how`` is None. PEP 249 can end nothing but the transaction."""
        if how is not None:
            connection.rollback()

    def begin(self, connection: C) -> None:
        """Do nothing: a PEP 249 connection is always in a transaction."""

    def set_read_timeout(self, connection: C, seconds: float) -> None:  # noqa: ARG002
        """Raise ConfigError."""
        raise ConfigError(f"read_timeout: {self.address} has no such timeout that could be changed for one checkout")

    def ping(self, connection: C, timeout: float) -> None:
        """Do nothing: PEP 249 has no way to ask."""

    def close(self, connection: C) -> SessionEnd:
        """Call ``connection.close()`` and count the session as ended at once: PEP 249 knows no server."""
        close_quietly(connection)
        return SessionEnd(assumed_after=0.0)

    def after_fork(self, connection: C) -> None:
        """Keep the object alive: its destructor could end the parent's session."""
        keep_forever(connection)

    def will_be_refused_again(self, error: BaseException) -> bool:
        """Decide by the error code."""
        return is_refusal(error)

    def can_run_again(self, error: BaseException) -> bool:
        """Decide by the error code."""
        return is_conflict(error)

    def is_out_of_service(self, error: BaseException) -> bool:
        """Decide by the error code, including ``close_on_errors``."""
        return is_out_of_service(error, self.close_on_errors)


class HeldConnection(DBAPIConnection, Protocol):
    """A subclass of a DB-API module's connection that knows its holder."""

    holder: Holder

    def remember(self) -> None:
        """Note the state that a return restores."""

    def end(self) -> None:
        """End the session without calling the hook."""


H = TypeVar("H", bound=HeldConnection)


class HolderDriver(BaseDriver[H]):
    """The base class of drivers whose connections have a ``Holder``.

    A subclass still sets ``holder.thread_id`` in its ``check_out`` and ``check_in``.
    """

    def remember(self, connection: H) -> None:
        """Call ``connection.remember()``."""
        connection.remember()

    def set_close_hook(self, connection: H, hook: Hook) -> bool:
        """Set the hook and return True."""
        connection.holder.hook = hook
        return True

    def adopt(self, connection: H, thread_id: int) -> None:
        """Set the holder."""
        connection.holder.thread_id = thread_id

    def close(self, connection: H) -> SessionEnd:
        """Call ``connection.end()`` and count the session as ended at once."""
        connection.holder.thread_id = ENDED
        with contextlib.suppress(Exception):  # it is broken, or was closed before
            connection.end()
        return SessionEnd(assumed_after=0.0)

    def after_fork(self, connection: H) -> None:
        """Refuse the connection to all threads and keep the object alive."""
        connection.holder.thread_id = ENDED
        super().after_fork(connection)


def delete_attributes(connection: object, but: Set[str]) -> None:
    """Delete the attributes of a connection, except the named ones: a holder has added them."""
    for name in vars(connection).keys() - but:
        delattr(connection, name)


def close_quietly(connection: DBAPIConnection) -> None:
    """Close a connection in any state and ignore its errors."""
    with contextlib.suppress(Exception):  # it is broken, or was closed before
        connection.close()


def keep_forever(connection: object) -> None:
    """Keep an object from being collected, because its destructor would end the parent's session.

    The reference count is raised: the interpreter would empty a list at its end, and run the destructors.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
