"""A file in which the pools of one host tell each other who wants a permit and which permits seem free.

It is a notice board and not the truth: that is with the locks. Each word of 8 bytes is written and read by one call,
without a lock; what it says may be a moment old, or left by a process that has died. So a notice of hunger
counts for half a second only and is put up anew by whoever still hungers, and a permit said to be free is yet to be
locked.

Others can cut the file, fill it, or write anything into it. So it is read and written, not mapped: a mapped file that
is cut kills the process. A word that can't be right is taken for damage: then the permit rests, as if its connection
had just ended. A read costs 0.4 µs (measured).

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import struct
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

from wsgipool.farewell import UNSEEN
from wsgipool.host.notices import note_once
from wsgipool.permits import MOST_PERMITS

MOST_POOLS = 4096

LEASE = 500_000_000
"""How long a notice of hunger counts: a process that was killed, or stopped by a debugger, holds nobody up for longer.
Far more than the pause between two looks of a hungry pool."""
_TAKEN = 1
_FREE = 2
"""Never taken yet. Not 0, which is what a file that was cut is filled with."""
HALF_LIFE = 10_000_000_000
"""In which a slow end of a session counts for half: a few hundred others end meanwhile where turns are taken, and one
of those may be as slow."""
_SEARCH = 50_000_000
"""Between two searches for permits whose process died: by whichever pool, since each tries the lock of all."""
REST = 20_000_000
"""Nanoseconds that a permit rests after the server has closed the connection, besides what it took for that at worst of
late: it closes its side first and then ends its count of it, and on a busy machine other processes run in between."""
DELAYS = 4
"""As many times the server may take longer to see that a process has died than it takes to end a session on demand."""
MAX_DELAY = 100_000_000
"""Nanoseconds that one slow end of a session counts for at most: the server may have been at a statement until then."""
_UNKNOWN_REST = int(UNSEEN * 1e9) + REST + DELAYS * MAX_DELAY
"""Of a permit of which nothing is known any more: its process may have been killed a moment ago."""
_REST_OF_NEWCOMERS = 1_500_000_000
"""Of the permits of a new file, as long as processes have permits of an earlier one: they may be killed, too."""
_LONGEST_REST = 2_000_000_000
"""A time that lies further ahead is damage."""

UNLIMITED = (1 << 32) - 1
"""Sessions of an account that has no limit of its own."""

# In words.
_HUNGER, _SESSIONS, _USED_PLACES, _DELAY, _DELAY_SEEN, _SEARCHED, _FREED, _MADE = range(8)
_PLACES = 8
_PLACE_SIZE = 5
_ACCOUNT = 4
"""Of a place, the word for its account: above, who that is; below, the sessions that the server allows to it."""
_HALF = 32
_WORD = (1 << 64) - 1
_PERMITS = _PLACES + _PLACE_SIZE * MOST_POOLS
SIZE = 8 * (_PERMITS + MOST_PERMITS)
"""Bytes of a board."""

_CANNOT_READ = (errno.EIO, errno.ESTALE)
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)


class HasDescriptor(Protocol):
    """An open file, or what holds one."""

    def fileno(self) -> int: ...


class Hungry(NamedTuple):
    """A pool that wants permits. The least comes first: who has the fewest, and of those who has waited longest."""

    held: int
    """Permits that it has."""
    since: int
    place: int
    wanted: int
    """Permits that it wants."""


class Board:
    """A file of `SIZE` bytes."""

    def __init__(self, file: HasDescriptor) -> None:
        self._file = file

    # --- the file ---------------------------------------------------------------------------------------------------

    def is_whole(self) -> bool:
        """Return whether a pool of this host has made the board since the host was started."""
        return self._word(_MADE) == _stamp()

    def make(self, now: int, is_new: bool) -> bool:
        """Write an empty board, and return whether that could be done. Of a new one, all permits are free.

        Where it was in use nobody knows which of them have rested, so all rest.
        """
        permits = (_FREE if is_new else now + _UNKNOWN_REST).to_bytes(8, sys.byteorder) * MOST_PERMITS
        return (
            self._write_bytes(_HUNGER, bytes(8 * _PERMITS))
            and self._write_bytes(_PERMITS, permits)
            and self._write(_MADE, _stamp())
        )

    def mend(self, limit: int, now: int) -> bool:
        """Mend what cannot be right in the words of the permits below `limit`; return whether there was any."""
        damaged = [permit for permit, word in enumerate(self._permits(limit)) if _is_damage(word, now)]
        for permit in damaged:
            self._write(_PERMITS + permit, now + _UNKNOWN_REST)
        return bool(damaged)

    def rest_all(self, limit: int, now: int) -> None:
        """Have all permits below `limit` rest that are not taken."""
        for permit, word in enumerate(self._permits(limit)):
            if word != _TAKEN and word < now + _UNKNOWN_REST:
                self._write(_PERMITS + permit, now + _REST_OF_NEWCOMERS)

    def carry_over(self, old: Board, limit: int, now: int) -> None:
        """Take over what another board says of the permits below `limit`, where it makes them rest longer."""
        for permit, (theirs, ours) in enumerate(zip(old._permits(limit), self._permits(limit), strict=True)):
            word = now + _UNKNOWN_REST if _is_damage(theirs, now) else theirs
            if ours != _TAKEN and (word == _TAKEN or word > max(now, ours)):
                self._write(_PERMITS + permit, word)
        for word in (_SESSIONS, _DELAY, _DELAY_SEEN):
            if not self._word(word):
                self._write(word, old._word(word))

    def _word(self, word: int) -> int:
        return int.from_bytes(self._read(8, 8 * word), sys.byteorder)

    def _words(self, word: int, number: int) -> list[int]:
        """Return so many words; what lies behind the end of the file is 0."""
        found = self._read(8 * number, 8 * word)
        return memoryview(found.ljust(8 * number, b"\0")).cast("Q").tolist()

    def _read(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            if error.errno not in _CANNOT_READ:
                raise  # of a signal handler, or of a descriptor that is closed
            return b""

    def _permits(self, limit: int) -> list[int]:
        return self._words(_PERMITS, min(limit, MOST_PERMITS))

    def _write(self, word: int, *values: int) -> bool:
        return self._write_bytes(word, struct.pack(f"{len(values)}Q", *values))

    def _write_bytes(self, word: int, values: bytes) -> bool:
        try:
            return os.pwrite(self._file.fileno(), values, 8 * word) == len(values)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise  # of a signal handler, or of a descriptor that is closed
            note_once(f"the file of a budget cannot be written: {error.strerror}; until it can be, permits are scarce")
            return False

    # --- places -----------------------------------------------------------------------------------------------------

    @property
    def used_places(self) -> int:
        """The places that somebody has, or has had, are those below."""
        return min(self._word(_USED_PLACES), MOST_POOLS)

    def take_place(self, place: int, account: int) -> None:
        """Note that a pool of this account has the place from now on; what others know of the account it knows too."""
        known = self.allowed_to(account)
        self._count(place)
        self.clear_hunger(place)
        self._write(_PLACES + _PLACE_SIZE * place + _ACCOUNT, account << _HALF | known)

    def has_place(self, place: int, account: int) -> bool:
        """Return whether a pool of this account has the place."""
        return self._word(_PLACES + _PLACE_SIZE * place + _ACCOUNT) >> _HALF == account and place < self.used_places

    def leave_place(self, place: int) -> None:
        """Note that nobody has the place any more."""
        self.clear_hunger(place)
        self._write(_PLACES + _PLACE_SIZE * place + _ACCOUNT, 0)

    def _count(self, place: int) -> None:
        if self.used_places <= place:
            self._write(_USED_PLACES, place + 1)

    # --- hunger -----------------------------------------------------------------------------------------------------

    def may_be_hunger(self) -> bool:
        """Tell by one read whether somebody may want a permit: the question at every return of a connection."""
        return self._word(_HUNGER) != 0

    def is_hunger(self, now: int) -> bool:
        """Tell whether somebody wants a permit."""
        noted = self._word(_HUNGER)
        if noted and not 0 <= now - noted < LEASE:
            # Should somebody note it anew at this moment, that is lost until the next look of the hungry, 10 ms later.
            self._write(_HUNGER, 0)
            return False
        return noted != 0

    def note_hunger(self, now: int, place: int, held: int, since: int, wanted: int) -> None:
        """Note, or note again, that the pool of this place wants so many permits."""
        self._count(place)
        self._write(_PLACES + _PLACE_SIZE * place, since, now, held, wanted)
        self._write(_HUNGER, now)

    def clear_hunger(self, place: int) -> None:
        """Note that the pool of this place wants nothing more."""
        self._write(_PLACES + _PLACE_SIZE * place, 0)

    def hungry(self, now: int, but: int) -> list[Hungry]:
        """Return who wants a permit, in the order of their turn, without the pool of the place `but`."""
        words = self._words(_PLACES, _PLACE_SIZE * self.used_places)
        return sorted(
            Hungry(words[word + 2], words[word], word // _PLACE_SIZE, words[word + 3])
            for word in range(0, len(words), _PLACE_SIZE)
            if words[word] and word != but * _PLACE_SIZE and 0 <= now - words[word + 1] < LEASE
        )

    def ahead_of(self, place: int, held: int, since: int, now: int) -> int:
        """Return how many others have their turn before a pool that has waited from `since`.

        A hungry pool asks at every look, so this makes no `Hungry` of each.
        """
        words = self._words(_PLACES, _PLACE_SIZE * self.used_places)
        return sum(
            (words[word + 2], words[word]) < (held, since)
            for word in range(0, len(words), _PLACE_SIZE)
            if words[word] and word != place * _PLACE_SIZE and 0 <= now - words[word + 1] < LEASE
        )

    # --- permits ----------------------------------------------------------------------------------------------------

    def takeable(self, limit: int, now: int) -> list[int]:
        """Return the permits below `limit` that seem to be free and have rested."""
        return [permit for permit, word in enumerate(self._permits(limit)) if _is_free(word, now)]

    def rests(self, limit: int, now: int) -> list[int]:
        """Return when the permits below `limit` that rest will have rested, the earliest first."""
        return sorted(word for word in self._permits(limit) if now < word < now + _LONGEST_REST)

    @property
    def freed(self) -> int:
        """How many permits have become free since the board was made, about: two at the same moment count as one."""
        return self._word(_FREED)

    def taken(self, limit: int) -> list[int]:
        """Return the permits below `limit` that somebody has, or had when it died."""
        return [permit for permit, word in enumerate(self._permits(limit)) if word == _TAKEN]

    def is_time_to_search(self, now: int) -> bool:
        """Tell whether somebody should look which of the permits that are taken have nobody any more; then it has."""
        if 0 <= now - self._word(_SEARCHED) < _SEARCH:
            return False
        self._write(_SEARCHED, now)
        return True

    def is_takeable(self, permit: int, now: int) -> bool:
        return _is_free(self._word(_PERMITS + permit), now)

    def is_taken(self, permit: int) -> bool:
        return self._word(_PERMITS + permit) == _TAKEN

    def note_taken(self, permit: int) -> bool:
        """Note it, and return whether that could be done."""
        return self._write(_PERMITS + permit, _TAKEN)

    def note_free(self, permit: int, from_then_on: int) -> bool:
        """Note it, and return whether that could be done."""
        return self._write(_PERMITS + permit, from_then_on) and self._write(_FREED, (self.freed + 1) & _WORD)

    # --- what the server allows -------------------------------------------------------------------------------------

    def allowed(self) -> int:
        """Return the sessions that the server allows, to all or to one of the accounts if that is less.

        0 is unknown: nobody has asked it.
        """
        sessions = self._word(_SESSIONS)
        # A number with its complement beside it: any other one is damage.
        to_all = sessions & UNLIMITED if sessions >> _HALF == ~sessions & UNLIMITED else 0
        if not to_all:
            return 0
        return min([to_all, *(own for word in self._accounts().values() if (own := word & UNLIMITED))])

    def allowed_to(self, account: int) -> int:
        """Return the sessions that the server allows to this account; 0 where nobody has asked it."""
        own = (word & UNLIMITED for word in self._accounts().values() if word >> _HALF == account)
        return next((number for number in own if number), 0)

    def note_allowed(self, place: int, account: int, sessions: int, own: int) -> None:
        """Note what the server allows to all, and to the account of this place, for all pools that it has."""
        self._count(place)
        self._write(_SESSIONS, (~sessions & UNLIMITED) << _HALF | sessions)
        for word, noted in self._accounts().items():
            if noted >> _HALF == account:
                self._write(word, account << _HALF | own)

    def _accounts(self) -> dict[int, int]:
        """Return where the words for accounts are, and what they say."""
        words = self._words(_PLACES, _PLACE_SIZE * self.used_places)
        return {_PLACES + word: words[word] for word in range(_ACCOUNT, len(words), _PLACE_SIZE)}

    # --- how it ends a session --------------------------------------------------------------------------------------

    def delay(self, now: int) -> int:
        """Return the nanoseconds that the server took for the slowest end of a session of late."""
        noted, seen = self._words(_DELAY, 2)
        return min(noted >> ((now - seen) // HALF_LIFE), MAX_DELAY) if now >= seen else 0

    def note_delay(self, now: int, nanoseconds: int) -> None:
        """Note how long the server has taken to end a session."""
        if nanoseconds >= self.delay(now):
            self._write(_DELAY, nanoseconds, now)


def _is_free(word: int, now: int) -> bool:
    return word != _TAKEN and word <= now and word != 0


def _is_damage(word: int, now: int) -> bool:
    return word == 0 or word >= now + _LONGEST_REST


@functools.cache
def _stamp() -> int:
    """Return the word of a board that was made since the host was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = b""
    return int.from_bytes(hashlib.blake2b(b"wsgipool budget 3 " + boot, digest_size=8).digest(), "little")
