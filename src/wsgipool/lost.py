"""Which connections has an exception from outside lost? Their slots are on the books, and nobody will give them back.

It strikes between any two steps: after a pop and before what was popped is stored, on the way into a block or out of
it. The reference counts tell. A slot on its way from one place to another is held by the thread that carries it, a
block by whoever runs it, and a connection in use by its user; what is lost is held by the pool's own records alone.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import Any

from wsgipool.drivers import C
from wsgipool.loan import Slot


def find_lost(slots: Collection[Slot[C]]) -> tuple[list[Slot[C]], list[Slot[C]]]:
    """Return the slots that were dropped on their way, and those that are lent to a block that has ended.

    `slots` are the values of a dictionary, under the lock of the pool. Lending and taking back take none, so a slot
    that was lent and given back between two looks here is in use.
    """
    used = _forget_use(slots)
    free = [not slot.borrower for slot in slots]
    alone = _references({0: object()}.values())[0]
    references = _references(slots)
    left = _lent_to_nobody(slots)
    dropped: list[Slot[C]] = []
    for slot, was_used, was_free, count in zip(list(slots), used, free, references, strict=True):
        if was_free and count == alone and not slot.borrower and not slot.used:
            dropped.append(slot)
        slot.used = slot.used or was_used
    return dropped, left


def find_lost_waiters(waiters: Collection[object]) -> list[Any]:
    """Return those of a pool's records that no thread has any more: each waits, or connects, in a frame of its own."""
    alone = _references([object()])[0]
    references = _references(waiters)
    return [waiter for waiter, count in zip(list(waiters), references, strict=True) if count == alone]


# Functions of their own, since a variable that is left over from a loop is a reference, too.


def _references(slots: Iterable[object]) -> list[int]:
    return [sys.getrefcount(slot) for slot in slots]


def _forget_use(slots: Iterable[Slot[C]]) -> list[int]:
    used = []
    for slot in slots:
        used.append(slot.used)
        slot.used = False
    return used


def _lent_to_nobody(slots: Iterable[Slot[C]]) -> list[Slot[C]]:
    """Return those that are lent to a block that nobody runs, and whose connection is in nobody's hands."""
    return [
        slot
        for slot in slots
        if not isinstance(slot.borrower, int)
        and sys.getrefcount(slot.borrower) == _ONE_REFERENCE
        # As a key it is the dictionary's, too.
        and sys.getrefcount(slot.connection) == _ONE_REFERENCE + 2 * (slot.key is slot.connection)
    ]


def _one_reference() -> int:
    slot: Slot[Any] = Slot(None, 0.0)
    slot.watch = object()
    return sys.getrefcount(slot.watch)


_ONE_REFERENCE = _one_reference()
"""What `sys.getrefcount()` says of something that only a slot has, once."""
