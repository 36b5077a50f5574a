"""httpd seen from inside a process: the MPM, its threads, the Defines and the scripts.

This works embedded and in daemon mode, with mod_wsgi 4.9 and newer. Outside httpd all functions return None or nothing.
Values that mod_wsgi does not know come from httpd's own functions, and otherwise from the defaults of both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wsgipool.httpd.defaults import DAEMON_PROCESSES, DAEMON_THREADS, SERVER_LIMIT, THREADS_PER_CHILD
from wsgipool.wording import counted

# Codes of ap_mpm_query, from httpd's include/ap_mpm.h.
_AP_MPMQ_MAX_THREADS = 6
_AP_MPMQ_MAX_DAEMONS = 12
_AP_MPMQ_MPM_STATE = 13
_AP_MPMQ_GENERATION = 15
_AP_MPMQ_STOPPING = 2

# Some sub-interpreters with their own GIL lack ctypes. httpd's functions exist in httpd only.
_NO_HTTPD = (ImportError, OSError, AttributeError)


@dataclass(frozen=True)
class HttpdProcess:
    """A process of httpd that runs Python."""

    mpm: str
    """"prefork", "worker" or "event"; "unknown" if httpd does not say."""
    process_group: str
    """The daemon process group, or "" when embedded in an Apache child."""
    application_group: str
    """The sub-interpreter, or "" for the main one, %{GLOBAL}."""
    threads: int
    """Requests that this process can serve at once."""
    max_processes: int
    """Processes of this kind that httpd may run at once, not counting graceful restarts."""

    @property
    def embedded(self) -> bool:
        """Whether Python runs in an Apache child, not in a daemon process."""
        return not self.process_group

    @property
    def lingers(self) -> bool:
        """Whether the shutdown callback comes only after the process's last request, while others ended long before.

        `is_stopping()` returns True earlier.
        """
        return self.embedded and self.mpm in ("worker", "event")

    def __str__(self) -> str:
        place = f"embedded in an Apache child of the {self.mpm} MPM"
        if not self.embedded:
            place = f"daemon process group {self.process_group!r} (Apache's MPM: {self.mpm})"
        return f"{place}, {counted(self.threads, 'thread')} a process, at most {counted(self.max_processes, 'process')}"


def mod_wsgi() -> ModuleType | None:
    """Return mod_wsgi's own module, which is in its interpreters from their start; None outside httpd.

    The PyPI package that starts servers has the same name, but no process group.
    """
    module = sys.modules.get("mod_wsgi")
    return module if hasattr(module, "process_group") else None


def this_process() -> HttpdProcess | None:
    """Return the description of this process; None outside httpd."""
    server = mod_wsgi()
    if server is None:
        return None
    mpm = _mpm_name()
    process_group: str = server.process_group or ""
    if process_group:
        # A group with threads=0 serves no request, only the scripts that it imports.
        has_none = getattr(server, "threads_per_process", None) == 0
        threads = 1 if has_none else _attribute(server, "threads_per_process") or DAEMON_THREADS
        max_processes = _attribute(server, "maximum_processes") or DAEMON_PROCESSES
    else:
        # httpd comes first: under worker and event, mod_wsgi counts only the children that were alive at the fork.
        # Under prefork httpd answers 0 threads, which means one.
        from_httpd, from_mod_wsgi = _ask_mpm(_AP_MPMQ_MAX_THREADS), _attribute(server, "threads_per_process")
        threads = max(
            1, from_httpd if from_httpd is not None else from_mod_wsgi or (1 if mpm == "prefork" else THREADS_PER_CHILD)
        )
        max_processes = (
            _ask_mpm(_AP_MPMQ_MAX_DAEMONS) or _attribute(server, "maximum_processes") or SERVER_LIMIT.get(mpm, 1)
        )
    return HttpdProcess(mpm, process_group, getattr(server, "application_group", None) or "", threads, max_processes)


def at_shutdown(callback: Callable[..., None]) -> None:
    """Register a callback for the end of the process, if mod_wsgi supports that."""
    subscribe = getattr(mod_wsgi(), "subscribe_shutdown", None)
    if subscribe is not None:
        subscribe(callback)


def is_stopping() -> bool:
    """Return whether this Apache child ends when its requests are done, as after a graceful restart."""
    return _ask_mpm(_AP_MPMQ_MPM_STATE) == _AP_MPMQ_STOPPING


def generation() -> int | None:
    """Return how many times httpd was restarted before this process began; None outside httpd."""
    return _ask_mpm(_AP_MPMQ_GENERATION)


def define(name: str) -> str | None:
    """Return the value of a `Define` in httpd's configuration; None if there is none.

    A process can read Defines at its start, whereas `SetEnv` reaches requests only.
    """
    try:
        import ctypes

        httpd = ctypes.CDLL(None)
        exists, resolve = httpd.ap_exists_config_define, httpd.ap_resolve_env
        create_pool, destroy_pool = httpd.apr_pool_create_ex, httpd.apr_pool_destroy
    except _NO_HTTPD:
        return None
    if not exists(name.encode()):
        return None
    create_pool.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    destroy_pool.argtypes = [ctypes.c_void_p]
    resolve.argtypes, resolve.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_char_p
    memory = ctypes.c_void_p()
    create_pool(ctypes.byref(memory), None, None, None)
    try:
        value: bytes = resolve(memory, f"${{{name}}}".encode())
        return value.decode()
    finally:
        destroy_pool(memory)


def wsgi_scripts() -> list[Path]:
    """Return the WSGI scripts that this interpreter has loaded, the application's first, without wsgipool's own."""
    # mod_wsgi names the module of a script _mod_wsgi_<hash of its path>. mod_wsgi-express's handler is such a script;
    # it names the application's module __wsgi__.
    handlers = Path(__file__).parents[1] / "handlers"
    names = ["__wsgi__", *(name for name in sys.modules if name.startswith("_mod_wsgi_"))]
    files = [getattr(sys.modules.get(name), "__file__", None) for name in names]
    return [Path(file) for file in files if file and Path(file).parent != handlers]


def _ask_mpm(code: int) -> int | None:
    try:
        import ctypes

        answer = ctypes.c_int()
        status: int = ctypes.CDLL(None).ap_mpm_query(code, ctypes.byref(answer))
    except _NO_HTTPD:
        return None
    return answer.value if status == 0 else None


def _attribute(server: ModuleType, name: str) -> int | None:
    value = getattr(server, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _mpm_name() -> str:
    name: str | None = getattr(sys.modules.get("apache"), "mpm_name", None)
    return name or _shown_mpm() or "unknown"


def _shown_mpm() -> str | None:
    try:
        import ctypes

        show = ctypes.CDLL(None).ap_show_mpm
    except _NO_HTTPD:
        return None
    show.restype = ctypes.c_char_p
    answer: bytes | None = show()
    return answer.decode() if answer else None
