"""A notice board for the pools of one host: which pools wait for a permit, and which permits seem to be free.

The board is a file of words (`wsgipool.budget.word_file`). It gives hints only; the locks decide. A word may be out of
date, or written by a process that has died. So a notice is valid for half a second, and a waiting pool renews it. A
pool that takes a permit must still lock its byte.

A word with an impossible value is damaged. Its permit cools down as if its connection had just ended.

A released permit is not free at once. It cools down first, because the server may still count the ended session.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

from wsgipool.budget.word_file import MAX_WORD, HasDescriptor, WordFile
from wsgipool.config import MAX_PERMITS
from wsgipool.drivers.session_end import ASSUMED_AFTER

MAX_POOLS = 4096

LEASE = 500_000_000
"""Nanoseconds for which a notice is valid: the maximum delay that a killed or stopped process causes. A waiting pool
renews its notice far more often."""
_TAKEN = 1
_FREE = 2
"""The word of a permit that was never taken. Not 0, because the words of a truncated file are read as 0."""
HALF_LIFE = 10_000_000_000
"""Half-life of the observed closing delay, in nanoseconds. While pools take turns, a few hundred sessions end in that
time, and one of them may be as slow."""
_SEARCH_INTERVAL = 50_000_000
"""Nanoseconds between two searches for permits of dead processes, over all pools. A search tries every lock."""
COOLDOWN = 20_000_000
"""Nanoseconds for which a permit cools down after the server has closed the connection. The observed closing delay is
added. A server first closes its socket and then stops counting the session. On a busy machine that takes a while."""
DELAYS = 4
"""A server may take this many times longer to notice a dead process than to end a session on request."""
MAX_DELAY = 100_000_000
"""Maximum closing delay that is recorded, in nanoseconds. The server may have been busy with a statement."""
_UNKNOWN_COOLDOWN = int(ASSUMED_AFTER * 1e9) + COOLDOWN + DELAYS * MAX_DELAY
"""Cooldown of a permit with an unknown past: its process may have been killed a moment ago."""
_NEW_FILE_COOLDOWN = 1_500_000_000
"""Cooldown of the permits of a new file while processes hold permits of an earlier file. Those may be killed, too."""
_MAX_COOLDOWN = 2_000_000_000
"""A word with a time further ahead than this is damaged."""

UNLIMITED = (1 << 32) - 1
"""Stored for an account without a limit of its own."""

# The layout, in words.
_NOTICED, _SESSIONS, _USED_PLACES, _DELAY, _DELAY_SEEN, _SEARCHED, _FREED, _STAMP = range(8)
_PLACES = 8
_PLACE_SIZE = 5
_ACCOUNT = 4
"""The account word of a place. Upper half: the account. Lower half: the sessions that the server allows to it."""
_HALF = 32
_PERMITS = _PLACES + _PLACE_SIZE * MAX_POOLS
SIZE = 8 * (_PERMITS + MAX_PERMITS)
"""Bytes of a board."""


class Notice(NamedTuple):
    """A pool that waits for permits. Notices sort by turn: the pool with the fewest permits first.

    Among pools with the same number, the one that has waited longest comes first.
    """

    held: int
    """Number of permits that the pool holds."""
    since: int
    place: int
    wanted: int
    """Number of permits that the pool wants."""


class Rivals(NamedTuple):
    """The other pools that wait for permits, as three numbers."""

    ahead: int
    """Number of pools with an earlier turn."""
    most: int
    """Largest number of permits that one of them holds."""
    held: int
    """Number of permits that they hold together."""


class Board:
    """A file of `SIZE` bytes."""

    def __init__(self, file: HasDescriptor) -> None:
        self._words = WordFile(file)

    # --- the whole board --------------------------------------------------------------------------------------------

    def is_valid(self) -> bool:
        """Return whether a pool has initialized the board since the host was started."""
        return self._words.get(_STAMP) == _stamp()

    def initialize(self, now: int, is_new: bool) -> bool:
        """Write an empty board; return whether that worked.

        All permits of a new board are free. If the board was in use, its free permits are unknown, so all cool down.
        """
        permits = (_FREE if is_new else now + _UNKNOWN_COOLDOWN).to_bytes(8, sys.byteorder) * MAX_PERMITS
        return (
            self._words.put_bytes(_NOTICED, bytes(8 * _PERMITS))
            and self._words.put_bytes(_PERMITS, permits)
            and self._words.put(_STAMP, _stamp())
        )

    def repair(self, limit: int, now: int) -> bool:
        """Repair the damaged words of the permits below `limit`; return whether there were any."""
        damaged = [permit for permit, word in enumerate(self._permits(limit)) if _is_damaged(word, now)]
        for permit in damaged:
            self._words.put(_PERMITS + permit, now + _UNKNOWN_COOLDOWN)
        return bool(damaged)

    def cool_down_all(self, limit: int, now: int) -> None:
        """Start a cooldown for all permits below `limit` that are not taken."""
        for permit, word in enumerate(self._permits(limit)):
            if word != _TAKEN and word < now + _UNKNOWN_COOLDOWN:
                self._words.put(_PERMITS + permit, now + _NEW_FILE_COOLDOWN)

    def copy_from(self, old: Board, limit: int, now: int) -> None:
        """Copy the taken and cooling permits below `limit` from an earlier board; the longer cooldown counts.

        The numbers about the server are copied if this board has none.
        """
        for permit, (theirs, ours) in enumerate(zip(old._permits(limit), self._permits(limit), strict=True)):
            word = now + _UNKNOWN_COOLDOWN if _is_damaged(theirs, now) else theirs
            if ours != _TAKEN and (word == _TAKEN or word > max(now, ours)):
                self._words.put(_PERMITS + permit, word)
        for word in (_SESSIONS, _DELAY, _DELAY_SEEN):
            if not self._words.get(word):
                self._words.put(word, old._words.get(word))

    # --- places: one for each pool ----------------------------------------------------------------------------------

    @property
    def used_places(self) -> int:
        """Number of places that have ever been in use, from 0 on."""
        return min(self._words.get(_USED_PLACES), MAX_POOLS)

    def take_place(self, place: int, account: int) -> None:
        """Assign the place to a pool of this account, with the known limit of the account."""
        known = self.allowed_to(account)
        self._count(place)
        self.remove_notice(place)
        self._words.put(_place(place) + _ACCOUNT, account << _HALF | known)

    def has_place(self, place: int, account: int) -> bool:
        """Return whether a pool of this account has the place."""
        return self._words.get(_place(place) + _ACCOUNT) >> _HALF == account and place < self.used_places

    def clear_place(self, place: int) -> None:
        """Mark the place as unused."""
        self.remove_notice(place)
        self._words.put(_place(place) + _ACCOUNT, 0)

    def _count(self, place: int) -> None:
        if self.used_places <= place:
            self._words.put(_USED_PLACES, place + 1)

    # --- notices: which pools wait ----------------------------------------------------------------------------------

    def has_notices(self, now: int) -> bool:
        """Return whether a pool has posted or renewed a notice within the last half second."""
        noted = self._words.get(_NOTICED)
        if noted and not 0 <= now - noted < LEASE:
            # This may overwrite a notice posted at the same moment, until its pool renews it.
            self._words.put(_NOTICED, 0)
            return False
        return noted != 0

    def post_notice(self, now: int, place: int, held: int, since: int, wanted: int) -> None:
        """Post or renew the notice of the pool of this place."""
        self._count(place)
        self._words.put(_place(place), since, now, held, wanted)
        self._words.put(_NOTICED, now)

    def remove_notice(self, place: int) -> None:
        self._words.put(_place(place), 0)

    def notices(self, now: int, except_for: int) -> list[Notice]:
        """Return the valid notices in the order of their turns, without the one of a place."""
        return sorted(
            Notice(held, since, place, wanted)
            for place, (since, noted, held, wanted) in self._posted()
            if place != except_for and 0 <= now - noted < LEASE
        )

    def rivals(self, place: int, held: int, since: int, now: int) -> Rivals:
        """Return the rivals of the pool at this place, which has waited since `since`."""
        ahead = most = together = 0
        for other, (started, noted, theirs, _) in self._posted():
            if other != place and 0 <= now - noted < LEASE:
                ahead += (theirs, started) < (held, since)
                most = max(most, theirs)
                together += theirs
        return Rivals(ahead, most, together)

    def _posted(self) -> list[tuple[int, list[int]]]:
        """Return each place with a notice, and its four words."""
        words = self._words.get_row(_PLACES, _PLACE_SIZE * self.used_places)
        return [
            (word // _PLACE_SIZE, words[word : word + _ACCOUNT])
            for word in range(0, len(words), _PLACE_SIZE)
            if words[word]
        ]

    # --- permits ----------------------------------------------------------------------------------------------------

    def available(self, limit: int, now: int) -> list[int]:
        """Return the permits below `limit` that seem to be free and have cooled down."""
        return [permit for permit, word in enumerate(self._permits(limit)) if _is_free(word, now)]

    def cooling(self, limit: int, now: int) -> list[int]:
        """Return the times at which the cooling permits below `limit` will be free, the earliest first."""
        return sorted(word for word in self._permits(limit) if now < word < now + _MAX_COOLDOWN)

    @property
    def freed(self) -> int:
        """Number of permits released since the board was initialized. Two at the same moment may count as one."""
        return self._words.get(_FREED)

    def taken(self, limit: int) -> list[int]:
        """Return the permits below `limit` that a process holds, or held when it died."""
        return [permit for permit, word in enumerate(self._permits(limit)) if word == _TAKEN]

    def is_time_to_search(self, now: int) -> bool:
        """Return whether a search for permits of dead processes is due. If so, the caller must search."""
        if 0 <= now - self._words.get(_SEARCHED) < _SEARCH_INTERVAL:
            return False
        self._words.put(_SEARCHED, now)
        return True

    def is_available(self, permit: int, now: int) -> bool:
        return _is_free(self._words.get(_PERMITS + permit), now)

    def is_taken(self, permit: int) -> bool:
        return self._words.get(_PERMITS + permit) == _TAKEN

    def mark_taken(self, permit: int) -> bool:
        """Mark a permit as taken; return whether that worked."""
        return self._words.put(_PERMITS + permit, _TAKEN)

    def mark_free(self, permit: int, at: int) -> bool:
        """Write the time at which a permit will be free; return whether that worked."""
        return self._words.put(_PERMITS + permit, at) and self._words.put(_FREED, (self.freed + 1) & MAX_WORD)

    def _permits(self, limit: int) -> list[int]:
        return self._words.get_row(_PERMITS, min(limit, MAX_PERMITS))

    # --- what the server allows -------------------------------------------------------------------------------------

    def allowed(self) -> int:
        """Return the number of sessions that the server allows: in total, or to one account if that is less.

        0 means that no pool has asked the server.
        """
        sessions = self._words.get(_SESSIONS)
        # The upper half is the complement of the lower half; any other value is damaged.
        to_all = sessions & UNLIMITED if sessions >> _HALF == ~sessions & UNLIMITED else 0
        if not to_all:
            return 0
        return min([to_all, *(own for word in self._accounts().values() if (own := word & UNLIMITED))])

    def allowed_to(self, account: int) -> int:
        """Return the number of sessions that the server allows to this account; 0 if no pool has asked."""
        own = (word & UNLIMITED for word in self._accounts().values() if word >> _HALF == account)
        return next((number for number in own if number), 0)

    def set_allowed(self, place: int, account: int, sessions: int, own: int) -> None:
        """Write the numbers that the server allows: in total, and to all pools of this account."""
        self._count(place)
        self._words.put(_SESSIONS, (~sessions & UNLIMITED) << _HALF | sessions)
        for word, noted in self._accounts().items():
            if noted >> _HALF == account:
                self._words.put(word, account << _HALF | own)

    def _accounts(self) -> dict[int, int]:
        """Return the account words by their index in the file."""
        words = self._words.get_row(_PLACES, _PLACE_SIZE * self.used_places)
        return {_PLACES + word: words[word] for word in range(_ACCOUNT, len(words), _PLACE_SIZE)}

    # --- how quickly the server ends a session ----------------------------------------------------------------------

    def delay(self, now: int) -> int:
        """Return the observed closing delay in nanoseconds: that of the slowest recent session end."""
        noted, seen = self._words.get_row(_DELAY, 2)
        return min(noted >> ((now - seen) // HALF_LIFE), MAX_DELAY) if now >= seen else 0

    def record_delay(self, now: int, nanoseconds: int) -> None:
        """Record how long the server took to end a session."""
        if nanoseconds >= self.delay(now):
            self._words.put(_DELAY, nanoseconds, now)


def _place(place: int) -> int:
    """Return the index of a place's first word."""
    return _PLACES + _PLACE_SIZE * place


def _is_free(word: int, now: int) -> bool:
    return word != _TAKEN and word <= now and word != 0


def _is_damaged(word: int, now: int) -> bool:
    return word == 0 or word >= now + _MAX_COOLDOWN


@functools.cache
def _stamp() -> int:
    """Return the stamp of a board that was initialized since the host was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = b""
    return int.from_bytes(hashlib.blake2b(b"wsgipool budget 3 " + boot, digest_size=8).digest(), "little")
