"""The `with` block that borrows a connection and gives it back as it ends."""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING, Generic

from wsgipool.drivers import C
from wsgipool.loan import Slot

if TYPE_CHECKING:
    from wsgipool.pool import Pool


class Block(Generic[C]):
    """Committed at its end, rolled back when it raises or is readonly; given back in any case.

    Its maker sets `pool`, `timeout`, `readonly` and `read_timeout`: an `__init__` would be one more call a checkout.
    """

    __slots__ = ("pool", "read_timeout", "readonly", "slot", "thread_id", "timeout")

    pool: Pool[C]
    timeout: float | None
    read_timeout: float | None
    readonly: bool
    slot: Slot[C]
    thread_id: int

    def __enter__(self) -> C:
        pool = self.pool
        self.thread_id = thread_id = get_ident()
        # As in Pool.getconn: a call less.
        if pool._lends_as_is:
            try:
                slot = pool._free.pop()
            except IndexError:
                pass
            else:
                slot.used = True
                slot.borrower = self
                self.slot = slot
                return slot.connection
        self.slot = slot = pool._borrow(self, thread_id, self.timeout, sys._getframe(1))
        if self.read_timeout is not None:
            try:
                pool._driver.set_read_timeout(slot.connection, self.read_timeout)
            except BaseException as error:
                self._undo(error)
                raise
        return slot.connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        slot, pool = self.slot, self.pool
        # It may have been taken back already, by the end of the request, when this is a generator that was dropped in
        # the middle of its block.
        if slot.borrower is not self:
            if error is None:
                raise pool._not_lent()
            return
        if error is not None:
            self._undo(error)
        elif self.readonly:
            pool._take_back(slot, pool._reset or "rollback")
        else:
            try:
                slot.connection.commit()
            except BaseException as failure:
                self._undo(failure)
                raise
            # The COMMIT has just ended the transaction.
            if pool._is_plain:
                slot.borrower = 0
                try:
                    pool._idle.append(slot)
                    if pool._by_lock:
                        pool._hand_over()
                except BaseException:
                    pool._settle()  # what an interruption has left undone
                    raise
            else:
                pool._take_back(slot, "session" if pool._reset == "session" else None)

    def _undo(self, error: BaseException) -> None:
        if is_interruption(error):
            # Such a connection looks healthy and gives the next borrower this one's rows.
            self.pool._take_back(self.slot, None, keep=False)
        elif self.pool._driver.is_out_of_service(error):
            self.pool._connector.explain_closing(error, "its server can do no work")
            self.pool._take_back(self.slot, None, keep=False)
        else:
            self.pool._take_back(self.slot, self.pool._reset or "rollback")


def is_interruption(error: BaseException | None) -> bool:
    """Tell whether an error has struck from outside, as mod_wsgi's RequestTimeout does, or is the outcome of one.

    They strike anywhere, in the middle of reading an answer too. The clean-up that follows, a cursor's say, may trip
    over what it finds and raise an ordinary error instead.
    """
    while isinstance(error, Exception | GeneratorExit):
        error = error.__context__
    return error is not None
