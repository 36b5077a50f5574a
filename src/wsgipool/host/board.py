"""Shared memory in which the pools of one host tell each other who wants a permit and which permits seem free.

It is a notice board and not the truth: that is with the locks. Each word of 8 bytes is written by one store, so it is
read whole, without a lock; what it says may be a moment old, or left by a process that has died. So a notice of hunger
counts for half a second only and is put up anew by whoever still hungers, and a permit said to be free is yet to be
locked. All zeros is an empty board.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

from wsgipool.permits import MOST_PERMITS

MOST_POOLS = 4096

LEASE = 500_000_000
"""How long a notice of hunger counts: a process that was killed, or stopped by a debugger, holds nobody up for longer.
Far more than the pause between two looks of a hungry pool."""
_TAKEN = 1
HALF_LIFE = 10_000_000_000
"""In which a slow end of a session counts for half: a few hundred others end meanwhile where turns are taken, and one
of those may be as slow."""
_SEARCH = 50_000_000
"""Between two searches for permits whose process died: by whichever pool, since each tries the lock of all."""
_LONGEST_REST = 2_000_000_000
"""A time that lies further ahead was written before the host was last started."""

UNLIMITED = (1 << 32) - 1
"""Sessions of an account that has no limit of its own."""

# In words.
_HUNGER, _SESSIONS, _USED_PLACES, _DELAY, _DELAY_SEEN, _SEARCHED, _FREED = range(7)
_PLACES = 8
_PLACE_SIZE = 5
_ACCOUNT = 4
"""Of a place, the word for its account: above, who that is; below, the sessions that the server allows to it."""
_HALF = 32
_WORD = (1 << 64) - 1
_PERMITS = _PLACES + _PLACE_SIZE * MOST_POOLS
SIZE = 8 * (_PERMITS + MOST_PERMITS)
"""Bytes of a board."""


class Hungry(NamedTuple):
    """A pool that wants permits. The least comes first: who has the fewest, and of those who has waited longest."""

    held: int
    """Permits that it has."""
    since: int
    place: int
    wanted: int
    """Permits that it wants."""


class Board:
    """A mapped file of `SIZE` bytes."""

    def __init__(self, descriptor: int) -> None:
        # mmap keeps a descriptor of its own.
        self._words = memoryview(mmap.mmap(descriptor, SIZE)).cast("Q")

    # --- places -----------------------------------------------------------------------------------------------------

    @property
    def used_places(self) -> int:
        """The places that somebody has, or has had, are those below."""
        return min(self._words[_USED_PLACES], MOST_POOLS)

    def take_place(self, place: int, account: int) -> None:
        """Note that a pool of this account has the place from now on; what others know of the account it knows too."""
        known = self.allowed_to(account)
        self._count(place)
        self.clear_hunger(place)
        self._words[_PLACES + _PLACE_SIZE * place + _ACCOUNT] = account << _HALF | known

    def leave_place(self, place: int) -> None:
        """Note that nobody has the place any more."""
        self.clear_hunger(place)
        self._words[_PLACES + _PLACE_SIZE * place + _ACCOUNT] = 0

    def _count(self, place: int) -> None:
        if self._words[_USED_PLACES] <= place:
            self._words[_USED_PLACES] = place + 1

    # --- hunger -----------------------------------------------------------------------------------------------------

    def may_be_hunger(self) -> bool:
        """Tell by one read whether somebody may want a permit: the question at every return of a connection."""
        return self._words[_HUNGER] != 0

    def is_hunger(self, now: int) -> bool:
        """Tell whether somebody wants a permit."""
        noted = self._words[_HUNGER]
        if noted and not 0 <= now - noted < LEASE:
            # Should somebody note it anew at this moment, that is lost until the next look of the hungry, 10 ms later.
            self._words[_HUNGER] = 0
            return False
        return noted != 0

    def note_hunger(self, now: int, place: int, held: int, since: int, wanted: int) -> None:
        """Note, or note again, that the pool of this place wants so many permits."""
        word = _PLACES + _PLACE_SIZE * place
        self._count(place)
        self._words[word + 1] = now
        self._words[word + 2] = held
        self._words[word + 3] = wanted
        self._words[word] = since
        self._words[_HUNGER] = now

    def clear_hunger(self, place: int) -> None:
        """Note that the pool of this place wants nothing more."""
        self._words[_PLACES + _PLACE_SIZE * place] = 0

    def hungry(self, now: int, but: int) -> list[Hungry]:
        """Return who wants a permit, in the order of their turn, without the pool of the place `but`."""
        words = self._words[_PLACES : _PLACES + _PLACE_SIZE * self.used_places].tolist()
        return sorted(
            Hungry(words[word + 2], words[word], word // _PLACE_SIZE, words[word + 3])
            for word in range(0, len(words), _PLACE_SIZE)
            if words[word] and word != but * _PLACE_SIZE and 0 <= now - words[word + 1] < LEASE
        )

    def ahead_of(self, place: int, held: int, since: int, now: int) -> int:
        """Return how many others have their turn before a pool that has waited from `since`.

        A hungry pool asks at every look, so this makes no `Hungry` of each.
        """
        words = self._words[_PLACES : _PLACES + _PLACE_SIZE * self.used_places].tolist()
        return sum(
            (words[word + 2], words[word]) < (held, since)
            for word in range(0, len(words), _PLACE_SIZE)
            if words[word] and word != place * _PLACE_SIZE and 0 <= now - words[word + 1] < LEASE
        )

    # --- permits ----------------------------------------------------------------------------------------------------

    def takeable(self, limit: int, now: int) -> list[int]:
        """Return the permits below `limit` that seem to be free and have rested."""
        return [
            permit
            for permit, word in enumerate(self._words[_PERMITS : _PERMITS + limit].tolist())
            if word != _TAKEN and not now < word < now + _LONGEST_REST
        ]

    def rests(self, limit: int, now: int) -> list[int]:
        """Return when the permits below `limit` that rest will have rested, the earliest first."""
        words = self._words[_PERMITS : _PERMITS + limit].tolist()
        return sorted(word for word in words if now < word < now + _LONGEST_REST)

    @property
    def freed(self) -> int:
        """How many permits have become free since the board was made, about: two at the same moment count as one."""
        return self._words[_FREED]

    def taken(self, limit: int) -> list[int]:
        """Return the permits below `limit` that somebody has, or had when it died."""
        words = self._words[_PERMITS : _PERMITS + limit].tolist()
        return [permit for permit, word in enumerate(words) if word == _TAKEN]

    def is_time_to_search(self, now: int) -> bool:
        """Tell whether somebody should look which of the permits that are taken have nobody any more; then it has."""
        if 0 <= now - self._words[_SEARCHED] < _SEARCH:
            return False
        self._words[_SEARCHED] = now
        return True

    def is_takeable(self, permit: int, now: int) -> bool:
        word = self._words[_PERMITS + permit]
        return word != _TAKEN and not now < word < now + _LONGEST_REST

    def note_taken(self, permit: int) -> None:
        self._words[_PERMITS + permit] = _TAKEN

    def note_free(self, permit: int, from_then_on: int) -> None:
        self._words[_PERMITS + permit] = from_then_on
        self._words[_FREED] = (self._words[_FREED] + 1) & _WORD

    # --- what the server allows -------------------------------------------------------------------------------------

    def allowed(self) -> int:
        """Return the sessions that the server allows, to all or to one of the accounts if that is less.

        0 is unknown: nobody has asked it.
        """
        own = [self._words[word] & UNLIMITED for word in self._accounts()]
        return min((number for number in (self._words[_SESSIONS], *own) if number), default=0)

    def allowed_to(self, account: int) -> int:
        """Return the sessions that the server allows to this account; 0 where nobody has asked it."""
        own = (self._words[word] & UNLIMITED for word in self._accounts() if self._words[word] >> _HALF == account)
        return next((number for number in own if number), 0)

    def note_allowed(self, place: int, account: int, sessions: int, own: int) -> None:
        """Note what the server allows to all, and to the account of this place, for all pools that it has."""
        self._count(place)
        self._words[_SESSIONS] = sessions
        for word in self._accounts():
            if self._words[word] >> _HALF == account:
                self._words[word] = account << _HALF | own

    def _accounts(self) -> range:
        return range(_PLACES + _ACCOUNT, _PLACES + _PLACE_SIZE * self.used_places, _PLACE_SIZE)

    # --- how it ends a session --------------------------------------------------------------------------------------

    def delay(self, now: int) -> int:
        """Return the nanoseconds that the server took for the slowest end of a session of late."""
        age = now - self._words[_DELAY_SEEN]
        return self._words[_DELAY] >> (age // HALF_LIFE) if age >= 0 else 0

    def note_delay(self, now: int, nanoseconds: int) -> None:
        """Note how long the server has taken to end a session."""
        if nanoseconds >= self.delay(now):
            self._words[_DELAY], self._words[_DELAY_SEEN] = nanoseconds, now
