"""Health for load balancers and containers: `/wsgipool-health/live` and `/wsgipool-health/ready`.

Live means that this process answers; no database is asked. Ready means that this process can use each database. A
process checks once a second at most, in at most about a second, and probes that come meanwhile share the result.

The reasons are for people and for a balancer's log: names of databases and error numbers, no address, account or path.
The error log has the rest. apache/health.conf restricts access.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from wsgipool import pools
from wsgipool.errors import ConfigError, ConnectFailed, PoolTimeout
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool
from wsgipool.shared.one_time_warnings import warn_once

KEPT_SECONDS = 1.0
"""How long a result is shared."""
MAX_CHECK_SECONDS = 1.0
"""How long a check of all databases waits for connections and answers, apart from answers that are just on the way."""
MAX_WAIT_SECONDS = 5.0
"""How long requests may wait for a connection before the pool counts as exhausted."""

_METHODS = ("GET", "HEAD")
_SETTINGS_ARE_WRONG = "the settings are wrong; the error log names the mistake"


@dataclass(frozen=True)
class Health:
    """Whether this process can serve requests, and if not, why."""

    databases: Mapping[str, str]
    """The reason why a database cannot be used, by its name; "" if it can."""
    reason: str = ""
    """The reason why the process cannot serve, apart from its databases."""

    @property
    def is_good(self) -> bool:
        return not self.reason and not any(self.databases.values())


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    method, path = environ.get("REQUEST_METHOD", "GET"), str(environ.get("PATH_INFO", "")).rstrip("/")
    wants_json = "application/json" in str(environ.get("HTTP_ACCEPT", ""))
    headers = []
    if method not in _METHODS:
        status, text, wants_json = "405 Method Not Allowed", f"only {' and '.join(_METHODS)}\n", False
        headers.append(("Allow", ", ".join(_METHODS)))
    elif path == "/live":
        status, text = _answer("live", Health({}), wants_json)
    elif path in ("", "/ready"):
        status, text = _answer("ready", _latest.get(), wants_json)
    else:
        status, text, wants_json = "404 Not Found", "only /live and /ready\n", False
    body = text.encode()
    start_response(
        status,
        [
            *headers,
            ("Content-Type", "application/json" if wants_json else "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )
    return [] if method == "HEAD" else [body]


def _answer(state: str, health: Health, wants_json: bool) -> tuple[str, str]:
    """Return the status line and the body."""
    status = "200 OK" if health.is_good else "503 Service Unavailable"
    state = state if health.is_good else f"not {state}"
    if wants_json:
        document: dict[str, object] = {"status": state}
        if health.reason:
            document["reason"] = health.reason
        if health.databases:
            document["databases"] = {name: reason or "ok" for name, reason in health.databases.items()}
        return status, json.dumps(document) + "\n"
    lines = [state, *([health.reason] if health.reason else [])]
    lines += [f"{name}: {reason}" for name, reason in health.databases.items() if reason]
    return status, "\n".join([*lines, ""])


class Latest:
    """The result of a check, which all probes of a second share. Probes during a check wait for its end."""

    def __init__(self, check: Callable[[], Health]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._result: Health | None = None
        self._ended = 0.0

    def get(self) -> Health:
        with self._lock:
            if self._result is None or monotonic() - self._ended >= KEPT_SECONDS:
                self._result = self._check()
                self._ended = monotonic()
            return self._result


# --- The check -------------------------------------------------------------------------------------------------------


def check() -> Health:
    """Check whether this process can use each database of its settings, and each registered one."""
    if pools.is_winding_down() or httpd.is_stopping():
        return Health({}, "this process ends after its last requests")
    try:
        settings = pools.settings()
    except ConfigError as error:
        warn_once(str(error))
        return Health({}, _SETTINGS_ARE_WRONG)
    names = dict.fromkeys([*(settings.databases if settings else ()), *(pool.name for pool in pools.created())])
    deadline = monotonic() + MAX_CHECK_SECONDS
    return Health({name: _reason(name, deadline) for name in names})


def _reason(name: str, deadline: float) -> str:
    """Return why a database cannot be used; "" if it can."""
    try:
        pool = pools.pool(name)
    except ConfigError as error:
        warn_once(str(error))
        return _SETTINGS_ARE_WRONG
    now = monotonic()
    waited = max((now - waiter.since for waiter in pool.observe().waiters), default=0.0)
    if waited > MAX_WAIT_SECONDS:
        return f"requests have waited for a connection for {waited:.0f} s{_cause(pool)}"
    if _is_busy(pool):
        return ""
    if now >= deadline:
        return "not checked, because the others took too long"
    try:
        pool.ping(deadline - now)
    except PoolTimeout:
        return "" if _is_busy(pool) else f"no connection within {deadline - now:.1f} s{_cause(pool)}"
    except ConnectFailed as error:
        return f"cannot connect{_number(error.__cause__)}"
    except Exception as error:
        return f"does not answer{_number(error)}"
    return ""


def _is_busy(pool: Pool[Any]) -> bool:
    """Return whether requests use all connections or wait for one; a probe does not queue with them."""
    seen = pool.observe()
    return bool(seen.waiters) or (not seen.idle and seen.in_use >= pool.max_size)


def _cause(pool: Pool[Any]) -> str:
    """Return the cause of a wait as far as the pool knows it."""
    seen = pool.observe()
    if seen.failure:
        return ": connects fail"
    if seen.connecting:
        return ": a connect is under way"
    return ": the budget of this host is used up" if pool.permits is not None and pool.size < pool.max_size else ""


def _number(error: BaseException | None) -> str:
    """Return the error number of a database's error, or its SQLSTATE, for a reason; "" if it has none."""
    first = error.args[0] if error is not None and error.args else None
    code = first if isinstance(first, int) and first else getattr(error, "sqlstate", None)
    return f" (error {code})" if code else ""


_latest = Latest(check)
