"""The connections of one database, one at a time: opened, made ready, cleaned, closed, by a driver.

What it knows of the database it learns by trying: that it is down, that it refuses the password. It logs a line when
that changes, not one a request. It keeps no connection; the pool calls it outside its lock.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic

from wsgipool.drivers import DRIVER_PACKAGES, LEAST_PATIENCE, C, CallableDriver, Driver, Reset
from wsgipool.drivers.codes import LOST, OUT_OF_SERVICE, is_database_error, is_one_of
from wsgipool.errors import ConnectFailed
from wsgipool.loan import Slot, describe

logger = logging.getLogger("wsgipool")

_FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE = 1.0, 30.0
"""Seconds without a connect after the server refused the password: each counts against its max_password_errors."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds without a connect after two have failed in a row: a database that comes back is not met by a storm."""
_KINDS_OF_ERRORS = 32
"""Errors of a pool's connections that are warned of once each; later ones of other kinds are not warned of."""
_FAIR_CHANCE = 1.0
"""Seconds: where a borrower has less, and they run out, that says nothing of the database."""


class Connector(Generic[C]):
    """What a pool does with single connections. The settings are those of `wsgipool.Pool`."""

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        check_after: float,
        max_lifetime: float,
        check: Callable[[C], object] | None,
        configure: Callable[[C], object] | None,
        reset: Reset | None,
        pipeline: bool,
    ) -> None:
        self.driver: Driver[C] = CallableDriver(connect) if callable(connect) else connect
        self.is_plain = isinstance(self.driver, CallableDriver) and check is None
        """Whether there is nothing to ask and to tell when a connection is lent: PEP 249 alone has nothing."""
        self._name = name
        self._configures_again = configure is not None and reset == "session"
        self.trusted_for = -math.inf if check is not None or self._configures_again else check_after
        """Seconds for which an idle connection needs no `ask`."""
        self._check_after = check_after
        self._max_lifetime = max_lifetime
        self._check = check
        self._configure = configure
        self._pipeline = pipeline
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what was learnt by trying: another process will find out by itself."""
        self._lock = threading.RLock()  # a signal handler, on top of a thread that is in it, may connect as well
        self._connected_at = 0.0
        self._failures = 0  # in a row
        self._refusals = 0  # of the password, in a row
        self._last_failure: ConnectFailed | None = None
        self._paused_until = 0.0
        self._useless = 0  # servers in a row that could do no work
        self._useless_until = 0.0
        self._useless_reason = ""
        self._warned: set[str] = set()

    def open(self, timeout: float, thread_id: int) -> Slot[C]:
        """Open a connection for a thread, within `timeout` seconds.

        Raises ConnectFailed, or what a signal handler raises meanwhile, which says nothing of the database.
        """
        if self._last_failure is not None and (seconds := self.failure_pause_left()) > 0:
            raise ConnectFailed(f"{self._last_failure}; it is tried again in {seconds:.1f} s") from (
                self._last_failure.__cause__
            )
        started = monotonic()
        try:
            connection = self.driver.connect(timeout, self._pipeline)
        except Exception as error:
            if self._is_of_the_program(error):
                raise
            raise self._failed(error, started, timeout) from error
        try:
            self._configure_first(connection, timeout, thread_id)
        except Exception as error:
            raise self._failed(error, started, timeout) from error
        self._succeeded()
        # Less up to a tenth, so that not all are renewed at once.
        return Slot(connection, expires=monotonic() + random.uniform(0.9, 1.0) * self._max_lifetime)

    def failure_pause_left(self) -> float:
        """Return for how many seconds a connect fails at once, since the last ones have failed."""
        return self._paused_until - monotonic() if self._failures else 0.0

    def pause_left(self) -> float:
        """Return for how many seconds nothing should be tried in the background."""
        return max(self.failure_pause_left(), self.useless_pause_left())

    def describe_trouble(self) -> str:
        """Return why there may be no connection, for a message; "" where none is known."""
        if self._last_failure is not None:
            return f"the last connect has failed: {self._last_failure}"
        return f"the server can do no work: {self._useless_reason}" if self._useless else ""

    def ask(self, slot: Slot[C], timeout: float) -> None:
        """Make a connection that was checked out ready: ask whether it is sound, configure it again after a reset.

        Raises what the server, `check` or `configure` raise where it is not. To be called where the checkout began
        `trusted_for` seconds after the end of the last one.
        """
        if self._configures_again and self._configure is not None:
            self._configure(slot.connection)
        if slot.since - slot.idle_since > self._check_after:
            self.driver.ping(slot.connection, max(timeout, LEAST_PATIENCE))
        if self._check is not None:
            self._check(slot.connection)

    def check_in(self, slot: Slot[C], how: Reset | None) -> None:
        """Clean a connection that came back. Raises where it cannot be used again."""
        self.driver.check_in(slot.connection, how, self._pipeline)
        if self._useless:
            self._useless = 0

    def explain_closing(self, error: BaseException, when: str) -> None:
        """Log why a connection is closed: a warning for each kind of error the first time, then at level INFO.

        A session that has ended is no reason for a warning: servers and networks end idle ones.
        """
        if self.driver.is_out_of_service(error):
            self._count_useless(error)
        kind = f"{when} {type(error)} {error.args[:1]}"
        is_new = len(self._warned) < _KINDS_OF_ERRORS and kind not in self._warned and not is_one_of(LOST, error)
        if is_new:
            self._warned.add(kind)
        logger.log(
            logging.WARNING if is_new else logging.INFO,
            "a connection of pool %r is closed, %s: %s%s",
            self._name,
            when,
            describe(error),
            " (the next of this kind are logged at level INFO)" if is_new else "",
        )

    def useless_pause_left(self) -> float:
        """Return the seconds in which no connect should be tried, since servers in a row could do no work."""
        return self._useless_until - monotonic() if self._useless else 0.0

    def _count_useless(self, error: BaseException) -> None:
        with self._lock:
            # The first may be the last of a node that is leaving.
            seconds = pause(self._useless - 1, _FIRST_PAUSE, _LONGEST_PAUSE) if self._useless else 0.0
            self._useless_until = monotonic() + seconds
            self._useless += 1
            self._useless_reason = describe(error)

    def _configure_first(self, connection: C, timeout: float, thread_id: int) -> None:
        try:
            self.driver.check_out(connection, thread_id, timeout)  # the server has just answered: it is open
            if self._configure is not None:
                self._configure(connection)
                self.driver.remember(connection)
        except BaseException:
            self.driver.close(connection)
            raise

    def _is_of_the_program(self, error: Exception) -> bool:
        """Return whether neither the driver nor the network has raised this, but a signal handler on top of them."""
        is_known = isinstance(error, OSError) or is_database_error(error)
        if is_known or isinstance(self.driver, CallableDriver):
            return False
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        package = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        return package not in sys.stdlib_module_names and package not in DRIVER_PACKAGES

    def _succeeded(self) -> None:
        with self._lock:
            is_change = self._failures > 0
            self._connected_at = monotonic()
            self._failures = self._refusals = 0
            self._last_failure = None
        if is_change:
            logger.warning("pool %r is connected to %s again", self._name, self.driver.address)

    def _failed(self, error: Exception, started: float, timeout: float) -> ConnectFailed:
        message = f"cannot connect pool {self._name!r} to {self.driver.address}: {describe(error)}"
        if timeout < _FAIR_CHANCE and monotonic() - started >= timeout:
            return ConnectFailed(message)
        if is_one_of(OUT_OF_SERVICE, error):
            # It is there and answers: a balancer will soon lead elsewhere, and requests can wait for that.
            self.explain_closing(error, "its server can do no work")
            return ConnectFailed(message)
        failure = ConnectFailed(message)
        failure.__cause__ = error.with_traceback(None)
        with self._lock:
            if started < self._connected_at:
                return ConnectFailed(message)  # old news: another has connected meanwhile
            is_change = self._failures == 0
            if self.driver.will_be_refused_again(error):
                seconds = pause(self._refusals, _FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE)
                self._refusals += 1
            else:
                # One alone may be a mishap; the next is tried at once.
                seconds = 0.0 if is_change else pause(self._failures - 1, _FIRST_PAUSE, _LONGEST_PAUSE)
            self._paused_until = monotonic() + seconds
            self._failures += 1
            self._last_failure = failure
        if is_change:
            logger.error("%s", message)
        return ConnectFailed(message)


def pause(attempt: int, first: float, longest: float) -> float:
    """Return the seconds before another attempt: twice as long each time up to `longest`, up to half less by chance."""
    return random.uniform(0.5, 1.0) * min(first * 2.0 ** min(attempt, 30), longest)
