"""Opens, prepares, cleans and closes single connections of one database, by its driver.

The connector learns from its attempts whether the database is down or refuses the password. It logs changes of that,
not each failure. It keeps no connections. The pool calls it outside its lock.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Generic

from wsgipool.drivers import DRIVER_PACKAGES, MIN_ANSWER_TIMEOUT, C, CallableDriver, Driver, Reset
from wsgipool.drivers.codes import OUT_OF_SERVICE, SESSION_ENDED, is_database_error, is_one_of
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.errors import ConfigError, ConnectFailed, PoolError
from wsgipool.pool._close_hook import set_close_hook
from wsgipool.pool._log import log
from wsgipool.wording import describe

_FIRST_REFUSAL_PAUSE, _MAX_REFUSAL_PAUSE = 1.0, 30.0
"""Seconds without a connect after the server refused the password: each failure counts for its max_password_errors."""
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 1.0
"""Seconds without a connect after two failures in a row, so that many processes do not storm a starting database."""
_MAX_WARNED_KINDS = 32
"""Maximum number of different connection errors that a pool logs as a warning, once each."""
_MIN_CONCLUSIVE_TIMEOUT = 1.0
"""Minimum timeout in seconds for which an expired connect counts as a failure of the database."""


class Connector(Generic[C]):
    """Handles single connections for one pool. The settings are those of `wsgipool.Pool`."""

    def __init__(
        self,
        driver: Driver[C],
        *,
        name: str,
        check_after: float,
        check: Callable[[C], object] | None,
        configure: Callable[[C], object] | None,
        on_connect: Callable[[C], object] | None,
        on_close: Callable[[C], object] | None,
        closes: weakref.WeakMethod[Callable[[C], object]],
        close_returns: bool,
        reset: Reset | None,
        pipeline: bool,
    ) -> None:
        self.driver = driver
        self._name = name
        self._configures_again = configure is not None and reset == "session"
        self._trusted_for = -math.inf if check is not None or self._configures_again else check_after
        """Seconds of idleness up to which a connection is checked out without any check."""
        self._check_after = check_after
        self._check = check
        self._configure = configure
        self._on_connect = on_connect
        self._on_close = on_close
        self._closes = closes
        self._close_returns = close_returns
        self._pipeline = pipeline
        self.reset()

    def reset(self) -> None:
        """Forget the state of the database, at the start and in the child of a fork."""
        self._lock = threading.RLock()  # reentrant: a signal handler on top of its holder may connect, too
        self._connected_at = 0.0
        self._failures = 0  # in a row
        self._refusals = 0  # of the password, in a row
        self._last_failure: ConnectFailed | None = None
        self._paused_until = 0.0
        self._out_of_service = 0  # servers in a row that were out of service
        self._out_of_service_until = 0.0
        self._out_of_service_reason = ""
        self._warned: set[str] = set()

    def open(self, timeout: float, thread_id: int) -> C:
        """Open a connection for a thread, within `timeout` seconds.

        Raises ConnectFailed, or any exception of a signal handler, which does not count as a failure of the database.
        """
        if self._last_failure is not None and (seconds := self.failure_pause_left()) > 0:
            raise self.driver.errors.ConnectFailed(f"{self._last_failure}; next attempt in {seconds:.1f} s") from (
                self._last_failure.__cause__
            )
        started = monotonic()
        try:
            connection = self.driver.connect(timeout, self._pipeline)
        except Exception as error:
            if self._is_from_signal_handler(error):
                raise
            raise self._failed(error, started, timeout) from error
        try:
            self._configure_first(connection, timeout, thread_id)
        except Exception as error:
            raise self._failed(error, started, timeout) from error
        self._succeeded()
        return connection

    def failure_pause_left(self) -> float:
        """Return the seconds for which a connect fails at once, because the last ones have failed."""
        return self._paused_until - monotonic() if self._failures else 0.0

    def pause_left(self) -> float:
        """Return the seconds for which the background should not connect."""
        return max(self.failure_pause_left(), self.out_of_service_pause_left())

    def describe_failure(self) -> str:
        """Return the known reason why no connection can be opened, for a message; "" if none is known."""
        if self._last_failure is not None:
            return f"the last connect failed: {self._last_failure}"
        return f"the server is out of service: {self._out_of_service_reason}" if self._out_of_service else ""

    def prepare(self, connection: C, thread_id: int, idle_for: float, timeout: float) -> bool:
        """Make an idle connection ready for a thread; return whether that worked.

        The connection is configured again if its session was reset. It is pinged if it was idle for longer than
        `check_after`.
        """
        try:
            if not self.driver.check_out(connection, thread_id, timeout):
                return False
            if idle_for > self._trusted_for:
                self._check_idle(connection, idle_for, timeout)
        except Exception as error:
            self.log_closing(error, "it could not be used again")
            return False  # for any error: the connection is useless to every holder
        return True

    def check_in(self, connection: C, how: Reset | None) -> None:
        """Clean a returned connection. Raises an error if it cannot be used again."""
        self.driver.check_in(connection, how, self._pipeline)
        if self._out_of_service:
            self._out_of_service = 0

    def make_idle(self, connection: C) -> None:
        """Make a new, unused connection idle, on the thread that has opened it."""
        self.driver.check_in(connection, None, self._pipeline)

    def close(self, connection: C) -> SessionEnd:
        """Close a connection; return the session end, which observes when the server ends the session, too."""
        if self._on_close is not None:
            try:
                self._on_close(connection)
            except Exception as error:
                description = describe(error)
                log(
                    logging.WARNING,
                    "on_close_failed",
                    self._name,
                    "on_close of pool %r failed: %s",
                    self._name,
                    description,
                    error=description,
                )
        return self.driver.close(connection)

    def _check_idle(self, connection: C, idle_for: float, timeout: float) -> None:
        if self._configures_again and self._configure is not None:
            self._configure(connection)
        if idle_for > self._check_after:
            self.driver.ping(connection, max(timeout, MIN_ANSWER_TIMEOUT))
        if self._check is not None:
            self._check(connection)

    def log_closing(self, error: BaseException, when: str) -> None:
        """Log why a connection is closed: the first error of each kind at level WARNING, the others at level INFO.

        An ended session is logged at level INFO only: servers and networks end idle sessions.
        """
        if self.driver.is_out_of_service(error):
            self._count_out_of_service(error)
        kind = f"{when} {type(error)} {error.args[:1]}"
        is_new = len(self._warned) < _MAX_WARNED_KINDS and kind not in self._warned
        is_new = is_new and not is_one_of(SESSION_ENDED, error)
        if is_new:
            self._warned.add(kind)
        description = describe(error)
        log(
            logging.WARNING if is_new else logging.INFO,
            "closing",
            self._name,
            "a connection of pool %r is closed, %s: %s%s",
            self._name,
            when,
            description,
            " (further ones of this kind are logged at level INFO)" if is_new else "",
            cause=when,
            error=description,
        )

    def out_of_service_pause_left(self) -> float:
        """Return the seconds for which no connect should be tried, because several servers were out of service."""
        return self._out_of_service_until - monotonic() if self._out_of_service else 0.0

    def _count_out_of_service(self, error: BaseException) -> None:
        with self._lock:
            # No pause after the first: the next connect may reach another node.
            seconds = pause(self._out_of_service - 1, _FIRST_PAUSE, _MAX_PAUSE) if self._out_of_service else 0.0
            self._out_of_service_until = monotonic() + seconds
            self._out_of_service += 1
            self._out_of_service_reason = describe(error)

    def _configure_first(self, connection: C, timeout: float, thread_id: int) -> None:
        try:
            self._hook_close(connection)
            self.driver.check_out(connection, thread_id, timeout)  # cannot fail: the server has just answered
            if self._configure is not None:
                self._configure(connection)
                self.driver.remember(connection)
            if self._on_connect is not None:
                self._on_connect(connection)
        except BaseException:
            self.driver.close(connection)
            raise

    def _hook_close(self, connection: C) -> None:
        if not set_close_hook(self.driver, connection, self._closes) and self._close_returns:
            raise ConfigError("close_returns: the driver cannot replace close() of its connections; use putconn()")

    def _is_from_signal_handler(self, error: Exception) -> bool:
        """Return whether a signal handler raised this error, and not the driver or the network."""
        if isinstance(error, PoolError):
            return True  # from the handler's own `getconn`
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
            log(
                logging.WARNING,
                "connected_again",
                self._name,
                "pool %r is connected to %s again",
                self._name,
                self.driver.address,
                address=self.driver.address,
            )

    def _failed(self, error: Exception, started: float, timeout: float) -> ConnectFailed:
        message = f"cannot connect pool {self._name!r} to {self.driver.address}: {describe(error)}"
        if timeout < _MIN_CONCLUSIVE_TIMEOUT and monotonic() - started >= timeout:
            return self.driver.errors.ConnectFailed(message)
        if is_one_of(OUT_OF_SERVICE, error):
            # The server answers. A balancer will soon lead to another one, and requests can wait for that.
            self.log_closing(error, "its server is out of service")
            return self.driver.errors.ConnectFailed(message)
        failure = self.driver.errors.ConnectFailed(message)
        failure.__cause__ = error.with_traceback(None)
        with self._lock:
            if started < self._connected_at:
                return self.driver.errors.ConnectFailed(message)  # out of date: another thread has connected meanwhile
            is_change = self._failures == 0
            if self.driver.will_be_refused_again(error):
                seconds = pause(self._refusals, _FIRST_REFUSAL_PAUSE, _MAX_REFUSAL_PAUSE)
                self._refusals += 1
            else:
                # No pause after a single failure.
                seconds = 0.0 if is_change else pause(self._failures - 1, _FIRST_PAUSE, _MAX_PAUSE)
            self._paused_until = monotonic() + seconds
            self._failures += 1
            self._last_failure = failure
        if is_change:
            log(
                logging.ERROR,
                "connect_failed",
                self._name,
                "%s",
                message,
                address=self.driver.address,
                error=describe(error),
            )
        return self.driver.errors.ConnectFailed(message)


def pause(attempt: int, first: float, longest: float) -> float:
    """Return the seconds before another attempt: doubled each time up to `longest`, minus up to half at random."""
    return random.uniform(0.5, 1.0) * min(first * 2.0 ** min(attempt, 30), longest)
