"""Finds orphaned slots and waiters: those that no running code refers to.

The promise that needs this: a program without requests, with long-lived threads, leaks no connection after an
asynchronous exception. Such an exception may come between two functions of the pool, or in the clean-up after another
one. Then no code will touch the slot or waiter again.

Reference counts find them. A frame of the thread refers to a slot or waiter in use. A `with` block refers to its slot.
A connection in use has further references.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from wsgipool.drivers import C
from wsgipool.pool._slot import CHECKED_OUT, Slot, Waiter
from wsgipool.pool._threads import NO_THREAD


def orphaned_slots(slots: Sequence[Slot[C]]) -> list[Slot[C]]:
    """Return the slots that belong to a thread by their state, but that no code of a thread refers to.

    `slots`: a tuple of the pool's slots, whose lock the caller holds. A slot checked out by a `with` block is orphaned
    if both the block and all references to the connection are gone. A slot checked out by `getconn` is never orphaned:
    there may be a cursor.
    """
    # A thread that holds a connection by `getconn` does not refer to its slot, and needs no lock to end a checkout or
    # to begin a return. The slot then has another state after the count than before. To get a former state back it
    # would need the lock.
    states = [slot.state for slot in slots]
    # A slot with a connection has one more reference: the pool finds it by its connection.
    expected = [_ALONE + (slot.connection is not None) for slot in slots]
    references, users = _references(slots), _references_of_connections(slots)
    return [
        slot
        for slot, state, count, alone, used in zip(slots, states, references, expected, users, strict=True)
        if count == alone
        and slot.state is state
        and slot.thread is not NO_THREAD
        and (state is not CHECKED_OUT or (slot.in_block and used == _UNUSED))
    ]


def orphaned_waiters(waiters: Sequence[Waiter[C]]) -> list[Waiter[C]]:
    """Return the waiters that no frame refers to. `waiters`: a tuple of the pool's queue."""
    return [waiter for waiter, count in zip(waiters, _references(waiters), strict=True) if count == _ALONE]


# Separate functions, because the variable of a loop would be one more reference.


def _references(records: Sequence[object]) -> list[int]:
    return [sys.getrefcount(record) for record in records]


def _references_of_connections(slots: Sequence[Slot[Any]]) -> list[int]:
    return [sys.getrefcount(slot.connection) for slot in slots]


def _alone() -> int:
    records = {object(): None}
    return _references(tuple(records))[0]


def _unused() -> int:
    slot: Slot[Any] = Slot(NO_THREAD)
    slot.connection = object()
    return _references_of_connections([slot])[0]


_ALONE = _alone()
"""The reference count of an object in one collection and in a tuple of it."""
_UNUSED = _unused()
"""The reference count of a connection that only its slot refers to."""
