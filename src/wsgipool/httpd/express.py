"""A real httpd for one WSGI script, run by mod_wsgi-express with wsgipool's drop-in.

mod_wsgi-express, from the PyPI packages mod_wsgi and mod_wsgi-standalone, writes httpd's configuration. This module
adds a few Defines and the drop-in, apache/wsgipool.conf.
"""

from __future__ import annotations

import contextlib
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
from wsgipool.httpd.child import end_with_parent

MODES = ("prefork", "worker", "event", "daemon")
"""The three MPMs with Python embedded in Apache's children, and daemon mode behind the event MPM."""

PACKAGE = Path(wsgipool.__file__).parent
DROP_IN = PACKAGE / "apache" / "wsgipool.conf"
DROP_IN_FOLDERS = ("/etc/apache2/conf-available", "/etc/httpd/conf.d", "/etc/apache2/conf.d")
"""Where `wsgipool apache install` puts the drop-in: the first that exists."""
EMBEDDED = PACKAGE / "apache" / "serve.conf"
PRELOAD_SCRIPT = PACKAGE / "handlers" / "preload.py"
SERVE_SCRIPT = PACKAGE / "handlers" / "serve.py"

_STOP_TIMEOUT = 15.0
_FRONT_CONNECTIONS = 100


class HttpdFailed(Error):
    """httpd could not be started, or ended unexpectedly."""


@dataclass(frozen=True)
class Site:
    """A WSGI script and how to serve it."""

    script: Path
    config: Path
    """The wsgipool.toml of the site."""
    folder: Path
    """An empty folder for httpd's files; the Apache user must be able to enter it."""
    mode: str
    processes: int
    threads: int
    host: str
    port: int
    log_folder: Path | None = None
    """The folder of error_log; None for the terminal."""
    has_status_page: bool = False
    """Whether requests from this machine get the status page."""
    secrets: Sequence[Path] = ()
    """The password files that the settings name."""
    express_options: Sequence[str] = ()
    """Further options of `mod_wsgi-express start-server`."""
    answers_503: bool = False
    """Whether requests that get no connection are answered 503; see handlers/serve.py."""
    reloads: bool = False
    """Whether daemon processes restart when a loaded module or the settings file changes."""
    has_access_log: bool = False
    """Whether each request is logged, too."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further environment variables of the processes, such as the passwords of the settings."""


class Httpd:
    """A running httpd; a context manager that stops it."""

    def __init__(self, site: Site, on_line: Callable[[str], object] | None = None) -> None:
        """Take the site; `on_line` is called with each line that httpd writes to the terminal."""
        self.site = site
        self._on_line = on_line
        self.url = f"http://{site.host}:{site.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id of httpd's parent."""
        assert self._process is not None
        return self._process.pid

    def start(self, stopped: Callable[[], bool] = lambda: False, timeout: float = 30.0) -> None:
        """Start httpd; return when it accepts connections, or when `stopped()` is true.

        Raises HttpdFailed if it does not accept connections within `timeout` seconds.
        """
        refuse_taken_port(self.site.host, self.site.port)
        refuse_unquotable(self.site.script, self.site.config, self.site.folder, PACKAGE, Path(sys.prefix))
        refuse_unreadable(self.site.script, self.site.config, *self.site.secrets)
        _refuse_library_of_another_python()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            express_command(self.site),
            stdin=subprocess.DEVNULL,
            # mod_wsgi-express prints a page of its settings to stdout; errors go to stderr.
            stdout=subprocess.DEVNULL,
            # A pipe, since httpd opens /dev/stderr again: if it were a file, its lines would overwrite ours.
            stderr=subprocess.PIPE,
            # httpd signals its whole process group when it stops, so it needs a group of its own. Ctrl-C in the
            # terminal then reaches only this process, which stops httpd.
            start_new_session=True,
            env=_environment(self.site),
            umask=umask_of_httpd(),
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
        self._relay = threading.Thread(target=_copy, args=(self._process.stderr, self._on_line), daemon=True)
        self._relay.start()
        deadline = time.monotonic() + timeout
        while not stopped():
            if self._process.poll() is not None:
                raise HttpdFailed(f"httpd ended with status {self._process.returncode}; see {self._log()}")
            with contextlib.suppress(OSError), socket.create_connection((self.site.host, self.site.port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise HttpdFailed(f"httpd accepts no connections after {timeout:g} s; see {self._log()}")
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Return the process ids of httpd's children, those of daemon mode among them."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def graceful_restart(self) -> None:
        """Ask httpd to read its configuration again and to replace each process once its requests are done."""
        self._signal(signal.SIGUSR1)

    def stop(self, *, graceful: bool = False) -> None:
        """Stop httpd and wait until it has ended; with `graceful`, let the requests in flight finish first."""
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
        """Return httpd's exit status; None while it runs."""
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


def umask_of_httpd() -> int:
    """Return the umask of httpd; -1 keeps that of this process."""
    # The Apache user must be able to read the files that root's mod_wsgi-express writes.
    return 0o022 if os.geteuid() == 0 else -1


def _environment(site: Site) -> dict[str, str]:
    """Return the environment of the processes, without this process's own choice of settings."""
    kept = {name: value for name, value in os.environ.items() if name not in ("WSGIPOOL_CONFIG", "WSGIPOOL_DATABASE")}
    return {**kept, **site.environment}


def _copy(stderr: IO[bytes], on_line: Callable[[str], object] | None) -> None:
    with stderr:
        for line in stderr:
            text = line.decode(errors="replace")
            sys.stderr.write(text)
            if on_line is not None:
                on_line(text)


def express_command(site: Site) -> list[str]:
    """Write the Defines and return the command that runs httpd in the foreground. Raises HttpdFailed."""
    if importlib.util.find_spec("mod_wsgi") is None:
        raise HttpdFailed(
            "mod_wsgi is not installed in this environment: pip install 'wsgipool[httpd]' with Apache's development "
            "files (Debian: apache2-dev), or 'wsgipool[standalone]', which builds an httpd as well"
        )
    group = "wsgipool"
    defines = site.folder / "defines.conf"
    server_root = site.folder / "httpd"
    server_root.mkdir(exist_ok=True)
    server_root.chmod(0o755)
    defines.write_text(_defines(site, group), encoding="utf-8")
    includes = [defines, DROP_IN]
    options: dict[str, str | int] = {
        "--host": site.host,
        "--port": site.port,
        "--processes": site.processes,
        "--threads": site.threads,
        "--server-root": str(server_root),
        "--working-directory": str(site.script.parent),
        "--locale": "C.UTF-8",
        # At the level info, wsgipool logs the settings of each pool.
        "--log-level": "warn wsgi:info",
    }
    switches = []
    if site.mode == "daemon":
        # Apache's children only pass requests on. They must outnumber the clients' connections, or httpd refuses some.
        options |= {"--server-mpm": "event", "--process-group": group}
        options["--max-clients"] = max(_FRONT_CONNECTIONS, 2 * site.processes * site.threads)
    else:
        options["--server-mpm"] = site.mode
        switches.append("--embedded-mode")
        includes.append(EMBEDDED)
    if os.geteuid() == 0:
        user = apache_user()
        options |= {"--user": user.pw_name, "--group": grp.getgrgid(user.pw_gid).gr_name}
    if site.has_access_log:
        switches.append("--access-log")
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


def _defines(site: Site, group: str) -> str:
    place = group if site.mode == "daemon" else "%{GLOBAL}"
    options = f"process-group={place} application-group=%{{GLOBAL}}"
    lines = [
        f'Define WSGIPOOL_HOME "{PACKAGE}"',
        f'Define WSGIPOOL_CONFIG "{site.config}"',
        # Create the pools when a process starts.
        f'WSGIImportScript "{PRELOAD_SCRIPT}" {options}',
        # The status page runs in the processes of the site.
        f"WSGIProcessGroup {place}",
        "WSGIApplicationGroup %{GLOBAL}",
    ]
    if site.has_status_page:
        lines.append("Define WSGIPOOL_STATUS")
    if site.reloads:
        lines.append("Define WSGIPOOL_RELOAD On")
    if site.answers_503 or site.reloads:
        lines.append(f'WSGIImportScript "{SERVE_SCRIPT}" {options}')
    if site.has_access_log and site.log_folder is None:
        # mod_wsgi-express writes its access log to stdout, where its page of settings goes, too.
        lines.append('CustomLog "/dev/stderr" common')
    return "\n".join(lines) + "\n"


def apache_user() -> pwd.struct_passwd:
    """Return the account of httpd's children when root starts httpd. Raises HttpdFailed."""
    for name in ("www-data", "apache", "http", "wwwrun", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise HttpdFailed(
        "this host has no account for Apache's children (www-data, apache); httpd does not run them as root"
    )


def refuse_taken_port(host: str, port: int) -> None:
    """Raise HttpdFailed if this process cannot listen on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except PermissionError:
            raise HttpdFailed(f"port {port} needs root; choose one from 1024 on, with --port") from None
        except (OSError, ValueError) as error:
            # UnicodeError, a ValueError, means an invalid host name.
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            remedy = (
                "choose another port with --port (make: PORT=)"
                if is_taken
                else "--host must be an address or a name of this host, such as 127.0.0.1, or 0.0.0.0 for all addresses"
            )
            reason = error.strerror if isinstance(error, OSError) else "no host can have that name"
            raise HttpdFailed(f"cannot listen on {host}:{port}: {reason}; {remedy}") from None


def _refuse_library_of_another_python() -> None:
    """Raise HttpdFailed if mod_wsgi was compiled for another Python than this one.

    pip caches the compiled package and reuses it for every Python of the same version.
    """
    package = importlib.util.find_spec("mod_wsgi")
    ldd = shutil.which("ldd")
    if package is None or package.origin is None or ldd is None:
        return
    for module in Path(package.origin).parent.glob("server/mod_wsgi*.so"):
        # If ldd fails, httpd itself will report the error.
        needs = subprocess.run(  # noqa: S603 - the system's own program, on a file of this environment
            [ldd, module], capture_output=True, text=True, check=False
        ).stdout
        library = re.search(r"libpython\S* => (/\S+)", needs)
        if library and not Path(library[1]).resolve().is_relative_to(Path(sys.base_prefix).resolve()):
            raise HttpdFailed(
                f"mod_wsgi was compiled for another Python: it loads {library[1]}, but would import the modules of "
                f"{sys.base_prefix}; pip install --force-reinstall --no-deps --no-cache-dir mod_wsgi (or "
                "mod_wsgi-standalone) compiles it for this Python"
            )


def refuse_unquotable(*paths: Path) -> None:
    """Raise HttpdFailed for a path that ends a quoted word, since mod_wsgi-express escapes nothing.

    It writes the paths into httpd's configuration, and into a shell script.
    """
    for path in paths:
        if re.search(r"""['"`\\]|\$[({]""", str(path)) or not str(path).isprintable():
            raise HttpdFailed(
                f"{str(path)!r} has a quote or another character that mod_wsgi-express cannot write into httpd's "
                "configuration; rename the file or its folder"
            )


def refuse_unreadable(*files: Path) -> None:
    """Raise HttpdFailed if httpd's children, which run as another user than root, cannot read the files."""
    if os.geteuid() != 0:
        return
    user = apache_user()
    for file in (*files, PACKAGE / "__init__.py"):
        if not _can_read(user, file):
            raise HttpdFailed(
                f"the Apache user {user.pw_name} cannot read {file}; chgrp {user.pw_name} and chmod 640 it, move "
                "it to a readable folder (not below /root), or start as another user than root"
            )
    library = Path(os.__file__)
    if not _can_read(user, library):
        raise HttpdFailed(
            f"the Apache user {user.pw_name} cannot read {library}, so Python does not start in httpd; create the "
            "virtual environment with a Python that this user can read, such as /usr/bin/python3, and install with "
            "pip --no-cache-dir (mod_wsgi is compiled for one Python), or start as another user than root"
        )


def _can_read(user: pwd.struct_passwd, file: Path) -> bool:
    # Tried as that user, since folders on the path and access lists matter, too.
    command = ["test", "-r", str(file)]
    outcome = subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=False)  # noqa: S603
    return outcome.returncode == 0


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
