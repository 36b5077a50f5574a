"""Errors for the misuse of a connection: by another thread, after its end, or with an unread answer."""

from __future__ import annotations

from threading import get_ident

import pymysql
from pymysql.constants import CR

from wsgipool.drivers import ENDED, IN_THE_POOL
from wsgipool.errors import WrongThread, errors_of

ERRORS = errors_of(pymysql.OperationalError, pymysql.InterfaceError)


def wrong_thread(session: int, holder: int) -> WrongThread:
    """Return the error for a thread that is not the holder; `session` is the server's number of the session."""
    return ERRORS.WrongThread(
        f"connection {session} was used by thread {get_ident()} and may be used {_by(holder)}; take one from the pool "
        "in each thread, and keep none after its return"
    )


def _by(holder: int) -> str:
    if holder == IN_THE_POOL:
        return "by nobody, since it is idle in the pool"
    if holder == ENDED:
        return "by nobody, since its pool has closed it, or it was closed by close() in place of putconn()"
    return f"by thread {holder}, which holds it"


def closed_by_holder() -> pymysql.InterfaceError:
    """Return the error for the use of a connection after its `close()`."""
    return pymysql.InterfaceError(
        0,
        "this connection was closed by close(). Return a connection of a pool instead, at the end of its "
        "`with` block or by putconn()",
    )


def ended_before() -> pymysql.OperationalError:
    """Return the error for the use of a connection after an error has closed it."""
    return pymysql.OperationalError(
        CR.CR_SERVER_GONE_ERROR,
        "an earlier error has closed this connection. Leave the `with` block or call putconn(), and take another "
        "connection from the pool",
    )


def unread_answer() -> pymysql.OperationalError:
    """Return the error for a connection whose last answer is not read to its end."""
    return pymysql.OperationalError(
        CR.CR_COMMANDS_OUT_OF_SYNC, "a command was interrupted before its answer was read to the end"
    )


def unexpected_answer() -> pymysql.OperationalError:
    """Return the error for a connection with an answer to no command."""
    return pymysql.OperationalError(
        CR.CR_COMMANDS_OUT_OF_SYNC,
        "the server has sent an unexpected answer, so answers no longer match commands",
    )
