"""A real httpd for one WSGI script, by way of mod_wsgi-express, with wsgipool's own drop-in included.

mod_wsgi-express (of the PyPI packages mod_wsgi and mod_wsgi-standalone) writes httpd's configuration. What is added
here is a handful of Defines and the drop-in, apache/wsgipool.conf.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import wsgipool
from wsgipool.errors import Error

MODES = ("prefork", "worker", "event", "daemon")
"""The three MPMs with Python embedded in Apache's children, and daemon mode (in front of it: the event MPM)."""

PACKAGE = Path(wsgipool.__file__).parent
DROP_IN = PACKAGE / "apache" / "wsgipool.conf"
EMBEDDED = PACKAGE / "apache" / "serve.conf"

_STOP_TIMEOUT = 15.0
_FRONT_CONNECTIONS = 100


class ServerError(Error):
    """httpd could not be started, or ended by itself."""


@dataclass(frozen=True)
class Site:
    """What to serve, and how."""

    script: Path
    config: Path
    """The wsgipool.toml of the site."""
    folder: Path
    """An empty folder for httpd's own files, which the Apache user can enter."""
    mode: str
    processes: int
    threads: int
    host: str
    port: int
    log_folder: Path | None = None
    """Where error_log goes; None is the terminal."""
    secrets: Sequence[Path] = ()
    """The password files that the settings name."""
    express_options: Sequence[str] = ()
    """Further options of `mod_wsgi-express start-server`."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further variables of the processes: the passwords of the settings, say, which so are in no file."""


class Httpd:
    """A running httpd; a context manager that stops it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.url = f"http://{site.host}:{site.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id of httpd's parent."""
        assert self._process is not None
        return self._process.pid

    def start(self, stopped: Callable[[], bool] = lambda: False, timeout: float = 30.0) -> None:
        """Start httpd and return when it accepts connections, or when `stopped()` says that nobody wants it any more.

        Raises ServerError within `timeout` seconds where it does not start.
        """
        refuse_taken_port(self.site.host, self.site.port)
        refuse_unreadable(self.site.script, self.site.config, *self.site.secrets)
        _refuse_library_of_another_python()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            express_command(self.site),
            stdin=subprocess.DEVNULL,
            # mod_wsgi-express prints a page of its settings there; what goes wrong comes by stderr.
            stdout=subprocess.DEVNULL,
            # httpd opens /dev/stderr anew: were that a file, its lines and ours would overwrite each other.
            stderr=subprocess.PIPE,
            # httpd signals its whole process group when it stops, so it gets one of its own. A Ctrl-C in the terminal
            # then reaches only us, and we stop it in order.
            start_new_session=True,
            env=_environment(self.site),
            preexec_fn=partial(_end_with_parent, os.getpid()),
        )
        self._relay = threading.Thread(target=_copy, args=(self._process.stderr,), daemon=True)
        self._relay.start()
        deadline = time.monotonic() + timeout
        while not stopped():
            if self._process.poll() is not None:
                raise ServerError(f"httpd ended with status {self._process.returncode}; see {self._log()}")
            with contextlib.suppress(OSError), socket.create_connection((self.site.host, self.site.port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"httpd accepts no connections after {timeout:g} s; see {self._log()}")
            time.sleep(0.05)

    def graceful_restart(self) -> None:
        """Ask httpd to read its configuration again and to replace each process when its requests are done."""
        self._signal(signal.SIGUSR1)

    def stop(self, *, graceful: bool = False) -> None:
        """Stop httpd, with `graceful` after the requests in flight, and wait until it is gone."""
        if self._process is None:
            return
        self._signal(signal.SIGWINCH if graceful else signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._relay is not None:
            self._relay.join(_STOP_TIMEOUT)

    def ended(self) -> int | None:
        """Return httpd's exit status, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def __enter__(self) -> Httpd:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _log(self) -> str:
        return str(self.site.log_folder / "error_log") if self.site.log_folder else "its messages above"


def _environment(site: Site) -> dict[str, str]:
    """Return what the processes inherit. The settings are those of the site, whatever this process was to use."""
    kept = {name: value for name, value in os.environ.items() if name not in ("WSGIPOOL_CONFIG", "WSGIPOOL_DATABASE")}
    return {**kept, **site.environment}


_set_process_option: Callable[..., int] = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1


def _end_with_parent(parent: int) -> None:
    """Let this process be stopped when its parent ends, however that ends.

    exec() keeps this, so it holds for httpd, which takes the place of mod_wsgi-express; httpd then stops its children.
    """
    _set_process_option(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _copy(stderr: IO[bytes]) -> None:
    with stderr:
        for line in stderr:
            sys.stderr.write(line.decode(errors="replace"))


def express_command(site: Site) -> list[str]:
    """Return the command that runs httpd in the foreground, after writing its Defines. Raises ServerError."""
    if importlib.util.find_spec("mod_wsgi") is None:
        raise ServerError(
            "mod_wsgi is not installed in this environment: pip install 'wsgipool[httpd]' with Apache's development "
            "files (Debian: apache2-dev), or 'wsgipool[standalone]', which builds an httpd as well"
        )
    group = "wsgipool"
    defines = site.folder / "defines.conf"
    server_root = site.folder / "httpd"
    server_root.mkdir(exist_ok=True)
    defines.write_text(
        f'Define WSGIPOOL_HOME "{PACKAGE}"\n'
        f'Define WSGIPOOL_CONFIG "{site.config}"\n'
        + (f"Define WSGIPOOL_PROCESS_GROUP {group}\n" if site.mode == "daemon" else ""),
        encoding="utf-8",
    )
    includes = [defines, DROP_IN]
    options: dict[str, str | int] = {
        "--host": site.host,
        "--port": site.port,
        "--processes": site.processes,
        "--threads": site.threads,
        "--server-root": str(server_root),
        "--working-directory": str(site.script.parent),
        "--locale": "C.UTF-8",
        # So that what each pool was made of is seen: it is no warning.
        "--log-level": "warn wsgi:info",
    }
    switches = []
    if site.mode == "daemon":
        # The children in front only pass requests on. Fewer than the visitors' connections, and httpd itself refuses.
        options |= {"--server-mpm": "event", "--process-group": group}
        options["--max-clients"] = max(_FRONT_CONNECTIONS, 2 * site.processes * site.threads)
    else:
        options["--server-mpm"] = site.mode
        switches.append("--embedded-mode")
        includes.append(EMBEDDED)
    if os.geteuid() == 0:
        user = apache_user()
        options |= {"--user": user.pw_name, "--group": grp.getgrgid(user.pw_gid).gr_name}
    if site.log_folder is None:
        switches.append("--log-to-terminal")
    else:
        options["--log-directory"] = str(site.log_folder)
    command = [sys.executable, "-m", "mod_wsgi.express.cli", "start-server", str(site.script)]
    for name, value in options.items():
        command += [name, str(value)]
    command += switches
    for file in includes:
        command += ["--include-file", str(file)]
    return [*command, *site.express_options]


def apache_user() -> pwd.struct_passwd:
    """Return the account that httpd's children run as when root starts it. Raises ServerError."""
    for name in ("www-data", "apache", "http", "wwwrun", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("no account for Apache's children (www-data, apache); httpd does not run them as root")


def refuse_taken_port(host: str, port: int) -> None:
    """Raise ServerError where something else listens on the port, or where we may not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except PermissionError:
            raise ServerError(f"port {port} needs root; choose one from 1024 on, with --port") from None
        except (OSError, ValueError) as error:
            # UnicodeError is a ValueError: a name that no host can have.
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            remedy = (
                "take another --port (make: PORT=)"
                if is_taken
                else "--host is an address or a name of this host, such as 127.0.0.1, or 0.0.0.0 for all of them"
            )
            reason = error.strerror if isinstance(error, OSError) else "no host can have that name"
            raise ServerError(f"cannot listen on {host}:{port}: {reason}; {remedy}") from None


def _refuse_library_of_another_python() -> None:
    """Raise ServerError where the Python that mod_wsgi starts is not the one whose modules it will find.

    pip keeps what it has compiled, and takes it for every Python of the version, wherever that is.
    """
    package = importlib.util.find_spec("mod_wsgi")
    ldd = shutil.which("ldd")
    if package is None or package.origin is None or ldd is None:
        return
    for module in Path(package.origin).parent.glob("server/mod_wsgi*.so"):
        # What it cannot read it says nothing of; httpd will.
        needs = subprocess.run(  # noqa: S603 - the system's own program, on a file of this environment
            [ldd, module], capture_output=True, text=True, check=False
        ).stdout
        library = re.search(r"libpython\S* => (/\S+)", needs)
        if library and not Path(library[1]).resolve().is_relative_to(Path(sys.base_prefix).resolve()):
            raise ServerError(
                f"mod_wsgi was compiled for another Python: it takes {library[1]}, and would find the modules of "
                f"{sys.base_prefix}; pip install --force-reinstall --no-deps --no-cache-dir mod_wsgi (or "
                "mod_wsgi-standalone) compiles it for this one"
            )


def refuse_unreadable(*files: Path) -> None:
    """Raise ServerError where httpd's children, which root's httpd runs as another user, cannot read what they need."""
    if os.geteuid() != 0:
        return
    user = apache_user()
    for file in (*files, PACKAGE / "__init__.py"):
        if not _can_read(user, file):
            raise ServerError(
                f"the Apache user {user.pw_name} cannot read {file}; chgrp {user.pw_name} and chmod 640 it, move "
                "it where it can be read (not below /root), or start as another user than root"
            )
    library = Path(os.__file__)
    if not _can_read(user, library):
        raise ServerError(
            f"the Apache user {user.pw_name} cannot read {library}, so Python does not start in httpd; make the "
            "environment of a Python that it can read, such as /usr/bin/python3, and fill it by pip with "
            "--no-cache-dir (mod_wsgi is compiled for one Python), or start as another user than root"
        )


def _can_read(user: pwd.struct_passwd, file: Path) -> bool:
    # Asked as that user, since folders on the way and access lists have a say as well.
    command = ["test", "-r", str(file)]
    outcome = subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=False)  # noqa: S603
    return outcome.returncode == 0


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
