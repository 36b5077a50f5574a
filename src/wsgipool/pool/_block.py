"""The `with` block of a checkout: it commits or rolls back, and returns the connection."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Generic, Protocol

from wsgipool.drivers import C, Reset
from wsgipool.pool._connector import Connector
from wsgipool.pool._slot import CHECKED_OUT, Slot


class CheckOut(Protocol[C]):
    """Check a slot out; see `Pool.getconn`."""

    def __call__(self, timeout: float | None, frame: FrameType, *, in_block: bool) -> Slot[C]: ...


class CheckIn(Protocol[C]):
    """Check a slot in; see `Pool.putconn`."""

    def __call__(self, slot: Slot[C], how: Reset | None, *, keep: bool = True) -> None: ...


class Block(Generic[C]):
    """A checkout that commits at its end, or rolls back if it raises or is readonly."""

    __slots__ = (
        "_check_in", "_check_out", "_checkout", "_connector", "_not_checked_out", "_read_timeout", "_readonly",
        "_reset", "_slot", "_stacklevel", "_timeout",
    )  # fmt: skip

    _slot: Slot[C]
    _checkout: int

    def __init__(
        self,
        check_out: CheckOut[C],
        check_in: CheckIn[C],
        connector: Connector[C],
        not_checked_out: Callable[[], Exception],
        reset: Reset | None,
        timeout: float | None,
        readonly: bool,
        read_timeout: float | None,
        stacklevel: int,
    ) -> None:
        self._check_out = check_out
        self._check_in = check_in
        self._connector = connector
        self._not_checked_out = not_checked_out
        self._reset = reset
        self._timeout = timeout
        self._readonly = readonly
        self._read_timeout = read_timeout
        self._stacklevel = stacklevel

    def __enter__(self) -> C:
        self._slot = slot = self._check_out(self._timeout, sys._getframe(self._stacklevel), in_block=True)
        self._checkout = slot.checkouts
        if self._read_timeout is not None:
            try:
                self._connector.driver.set_read_timeout(slot.connection, self._read_timeout)
            except BaseException as error:
                self._undo(error)
                raise
        return slot.connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        slot = self._slot
        if slot.state is not CHECKED_OUT or slot.checkouts != self._checkout:
            # Already returned: by the connection's close(), or by the end of the request, if a generator was dropped
            # in the middle of its block.
            if error is None and not self._readonly:
                raise self._not_checked_out()
        elif error is not None:
            self._undo(error)
        elif self._readonly:
            self._check_in(slot, self._reset or "rollback")
        else:
            try:
                slot.connection.commit()
            except BaseException as failure:
                self._undo(failure)
                raise
            # No rollback is needed: the COMMIT has ended the transaction.
            self._check_in(slot, "session" if self._reset == "session" else None)

    def _undo(self, error: BaseException) -> None:
        if is_asynchronous(error):
            # The connection may be in the middle of an answer, which the next holder would read.
            self._check_in(self._slot, None, keep=False)
        elif self._connector.driver.is_out_of_service(error):
            self._connector.log_closing(error, "its server is out of service")
            self._check_in(self._slot, None, keep=False)
        else:
            self._check_in(self._slot, self._reset or "rollback")


def is_asynchronous(error: BaseException | None) -> bool:
    """Return whether an error is an asynchronous exception, such as mod_wsgi's RequestTimeout, or caused by one.

    Such an exception may come in the middle of reading an answer. A clean-up, such as that of a cursor, may then fail
    and raise an ordinary error instead.
    """
    while isinstance(error, Exception | GeneratorExit):
        error = error.__context__
    return error is not None
