"""The connections of one database, one at a time: opened, made ready, cleaned, closed, by a driver.

What it knows of the database it learns by trying: that it is down, that it refuses the password. It logs a line when
that changes, not one a request. It keeps no connection; the pool calls it outside its lock.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Generic

from wsgipool.drivers import C, CallableDriver, Driver, Reset
from wsgipool.errors import ConnectFailed
from wsgipool.loan import Slot, describe

logger = logging.getLogger("wsgipool")

_ANSWER_TIMEOUT = 10.0
"""Seconds to wait for the answer to a reset where it is not left to the next checkout."""
_LEAST_PATIENCE = 0.01
"""Seconds to wait at least for an answer that should have arrived already."""
_FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE = 1.0, 30.0
"""Seconds without a connect after the server refused the password: each counts against its max_password_errors."""


class Connector(Generic[C]):
    """What a pool does with single connections. The settings are those of `wsgipool.Pool`."""

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        check_after: float,
        max_lifetime: float,
        configure: Callable[[C], object] | None,
        pipeline: bool,
    ) -> None:
        self.driver: Driver[C] = CallableDriver(connect) if callable(connect) else connect
        self.driver_asks = not isinstance(self.driver, CallableDriver)
        """Whether there is anything to ask or to tell at a checkout: PEP 249 alone has nothing."""
        self._name = name
        self._check_after = check_after
        self._max_lifetime = max_lifetime
        self._configure = configure
        self._pipeline = pipeline
        self._is_failing = False
        self._refusals = 0
        self._refusal: ConnectFailed | None = None
        self._refused_until = 0.0

    def open(self, timeout: float, thread_id: int) -> Slot[C]:
        """Open a connection for a thread, within `timeout` seconds. Raises ConnectFailed."""
        if self._refusal is not None and monotonic() < self._refused_until:
            seconds = self._refused_until - monotonic()
            raise ConnectFailed(f"{self._refusal}; it is tried again in {seconds:.1f} s") from self._refusal.__cause__
        try:
            connection = self._open_configured(timeout, thread_id)
        except Exception as error:
            raise self._failure(error) from error
        self._refusals = 0
        if self._is_failing:
            self._is_failing = False
            logger.warning("pool %r is connected to %s again", self._name, self.driver.address)
        # Less up to a tenth, so that not all are renewed at once.
        return Slot(connection, expires=monotonic() + random.uniform(0.9, 1.0) * self._max_lifetime)

    def is_usable(self, slot: Slot[C], thread_id: int, remaining: float) -> bool:
        """Make a connection that was idle ready for its borrower, and tell whether that went well."""
        connection, driver = slot.connection, self.driver
        # With timeout=0 too, since an answer that is due has long arrived.
        patience = max(remaining, _LEAST_PATIENCE)
        try:
            driver.lend(connection, thread_id)
            if slot.answer_due:
                driver.finish_reset(connection, patience)
                slot.answer_due = False
            if not driver.is_alive(connection):
                return False
            if slot.since - slot.idle_since > self._check_after:
                driver.ping(connection, patience)
        except Exception:
            return False  # whatever its driver trips over, nobody could work with it
        return True

    def clean(self, slot: Slot[C], how: Reset | None) -> bool:
        """Make a connection ready for its next borrower, and tell whether it shall have one.

        Raises the driver's error where it cannot be used again.
        """
        slot.idle_since = now = monotonic()
        if now >= slot.expires:
            return False
        connection, driver = slot.connection, self.driver
        if how is not None:
            # The thread that gives back need not be the one that has borrowed.
            driver.lend(connection, get_ident())
            slot.answer_due = driver.begin_reset(connection, how)
            if slot.answer_due and not self._pipeline:
                driver.finish_reset(connection, _ANSWER_TIMEOUT)
                slot.answer_due = False
        if self.driver_asks:
            driver.lend(connection, None)
        return True

    def _open_configured(self, timeout: float, thread_id: int) -> C:
        connection = self.driver.connect(timeout)
        try:
            self.driver.lend(connection, thread_id)
            if self._configure is not None:
                self._configure(connection)
        except BaseException:
            self.driver.close(connection)
            raise
        return connection

    def _failure(self, error: Exception) -> ConnectFailed:
        message = f"cannot connect pool {self._name!r} to {self.driver.address}: {describe(error)}"
        if not self._is_failing:
            self._is_failing = True
            logger.error("%s", message)
        if self.driver.will_be_refused_again(error):
            self._refusal = ConnectFailed(message)
            self._refusal.__cause__ = error.with_traceback(None)
            self._refused_until = monotonic() + pause(self._refusals, _FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE)
            self._refusals += 1
        return ConnectFailed(message)


def pause(attempt: int, first: float, longest: float) -> float:
    """Return the seconds before another attempt: twice as long each time up to `longest`, up to half less by chance."""
    return random.uniform(0.5, 1.0) * min(first * 2.0 ** min(attempt, 30), longest)
