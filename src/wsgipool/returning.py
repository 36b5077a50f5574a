"""Giving back: what becomes of a connection that its borrower has done with, and who is served by that.

A returned connection is cleaned, or closed, outside the lock. Then it is brought together with those who wait. What an
exception from outside interrupts looks once more at all this before it goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from threading import get_ident
from time import monotonic
from typing import Any

from wsgipool.connector import Connector
from wsgipool.drivers import C, Reset
from wsgipool.farewell import Farewell
from wsgipool.housekeeping import housekeeping
from wsgipool.ledger import Ledger
from wsgipool.loan import Ending, Opening, Slot, Waiter
from wsgipool.permits import Permit, Permits

logger = logging.getLogger("wsgipool")

_FAREWELL_PATIENCE = 0.1
"""Seconds for which a thread waits for the server's end of a connection with a place in a budget. After that the budget
looks for it by itself; mostly it comes within a millisecond, and then whoever waits for the place has it at once."""

_LOOKS, _BETWEEN_LOOKS = 20, 0.0005
"""How often a thread looks for what an interruption has lost, and the seconds between; housekeeping goes on with it."""


class Returning(Ledger[C]):
    """What a pool does with what comes back."""

    __slots__ = ("_driver", "_is_plain")

    def __init__(self, connector: Connector[C], *, permits: Permits | None, **sizes: Any) -> None:
        self._connector = connector
        self._driver = connector.driver
        self._is_plain = connector.is_plain and permits is None
        super().__init__(permits=permits, **sizes)

    def _take_back(self, slot: Slot[C], how: Reset | None, *, keep: bool = True) -> None:
        carrier = slot.carrier = get_ident()
        watch = slot.watch
        slot.borrower = 0
        try:
            if slot.retired or not keep:
                self._close(slot, slot.ending if slot.retired else "broken")
                return
            if self.permits is not None and slot.permit is not None and self.permits.others_hunger():
                if slot.permit.is_wanted():
                    self._close(slot, "budget")
                    return
                if self.permits.is_news():
                    housekeeping.call()
            try:
                if not self._is_plain:
                    self._connector.check_in(slot, how)
                    slot.idle_since = monotonic()
                elif how is not None:
                    slot.connection.rollback()
            except Exception as error:
                self._connector.explain_closing(error, "it could not be given back clean")
                self._close(slot, "broken")
                return
            slot.watch = None
            slot.carrier = 0
            self._idle.append(slot)
            if self._by_lock:
                self._hand_over()
        except BaseException:
            self._note_interruption(carrier, watch)
            if slot.carrier == carrier:
                self._close(slot, "broken")
            self._settle()
            raise

    def _close(self, slot: Slot[C], ending: Ending) -> None:
        slot.ending = ending
        slot.is_leaving = True
        try:
            # Before its place is free: the server never sees one connection more than max_size.
            self._end(slot)
        finally:
            slot.carrier = 0
            self._gone.append(slot)
            self._settle()

    def _end(self, slot: Slot[C]) -> None:
        farewell: Farewell | None = None
        try:
            farewell = self._say_goodbye(slot, slot.permit)
        finally:
            release_permit(slot, farewell)

    def _say_goodbye(self, slot: Slot[C], permit: Permit | None) -> Farewell:
        """Close a connection, and with a permit see whether the server does so at once: until then it counts it."""
        farewell = self._driver.close(slot.connection)
        if permit is None:
            farewell.close()
        else:
            farewell.wait(_FAREWELL_PATIENCE)
        return farewell

    def _hand_over(self) -> None:
        """Bring together what was given back with those who wait, and let the one that was woken run.

        It would wait for the GIL until this thread waits for something, or for the interpreter's switch interval, while
        its connection does nothing.
        """
        if self._settle():
            time.sleep(0)

    def _settle(self) -> bool:
        """Bring together what has been given back or closed with those who wait; close what shall not be kept.

        Tells whether somebody was woken. The garbage collector ends the block of a forgotten generator, and it runs
        wherever something is allocated: in this very thread while it holds the lock, too. Then this is left to others.
        """
        has_woken = False
        while not self._lock._is_owned():  # type: ignore[attr-defined]
            try:
                if self._winding_down:
                    self.wind_down()
                with self._lock:
                    has_freed = bool(self._gone)
                    has_woken = self._decide() or has_woken
                if has_freed:
                    self._call_for_those_who_wait()
                if self._doomed:
                    self._close_the_doomed()
            except BaseException:
                self._settle()  # what an interruption has left undone: perhaps nobody else comes by
                raise
            if not self._is_unsettled():
                return has_woken
        housekeeping.call()  # in case that whoever holds the lock does not look again
        return has_woken

    def _close_the_doomed(self) -> None:
        while self._doomed:
            try:
                slot = self._doomed.popleft()
            except IndexError:
                return
            try:
                self._end(slot)
            finally:
                self._gone.append(slot)

    def wind_down(self) -> None:
        """Close the idle connections and keep none from now on, yet go on lending: the process is about to end.

        Takes no lock and writes no log. Under prefork, mod_wsgi calls this from a signal handler on top of whatever
        the thread was doing, and that may be holding our lock.
        """
        self._winding_down = True
        self._lend_by_lock(True)
        while (slot := self._pop_idle()) is not None:
            self._end(slot)
            self._gone.append(slot)

    def _find_the_lost(self) -> list[Slot[C]]:
        """Close what nobody will give back any more, and return those of it that were still lent."""
        leaked: list[Slot[C]] = []
        for _ in range(_LOOKS):
            with self._lock:
                leaked += self._doom_the_lost()
            self._settle()
            if not self._may_have_lost():
                return leaked
            time.sleep(_BETWEEN_LOOKS)  # another thread may have hold of one still that is lost
        housekeeping.call()
        return leaked

    def _tell_of_interrupted_blocks(self, leaked: Iterable[Slot[C]]) -> None:
        self._tell_of_leaks(leaked, "and nobody has it any more: its `with` block was interrupted")

    def _tell_of_leaks(self, leaked: Iterable[Slot[C]], how: str) -> None:
        for slot in leaked:
            logger.warning(
                "a connection of pool %r was not given back %s; it was borrowed %s%s",
                self.name,
                how,
                slot.origin(monotonic()),
                slot.stack and f":\n{slot.stack}",
            )

    def _call_for_those_who_wait(self) -> None:
        """Have a connection opened in the background if there is room: until one comes back may be long."""
        if self._waiting and self._has_room():
            housekeeping.call()


def release_permit(one: Slot[Any] | Waiter[Any] | Opening, farewell: Farewell | None = None) -> None:
    permit, one.permit = one.permit, None
    if permit is not None:
        permit.release(farewell)
