"""What the host says: which files the Apache user can read and who else, which Python mod_wsgi is of, and SELinux."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shlex import quote

from wsgipool.config import Settings
from wsgipool.doctor.accounts import closed_above, may_become, obstacle
from wsgipool.doctor.findings import Finding
from wsgipool.drivers import limits
from wsgipool.errors import ConfigError
from wsgipool.host.folder import default_folder, in_run, open_folder
from wsgipool.httpd import dump
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import Dump
from wsgipool.httpd.users import account, group
from wsgipool.httpd.users import name as name_of
from wsgipool.impersonation import as_user

SELINUX = Path("/sys/fs/selinux")
_SELINUX_BOOLEANS = ("httpd_can_network_connect_db", "httpd_can_network_connect")

_MAX_FILE = 64 * 1024 * 1024
"""Bytes that are read of a file: far more than mod_wsgi has."""

_FEATURES = {
    "request_data": "what a request has not given back is not taken back at its end",
    "subscribe_shutdown": "a process does not know that it ends before its interpreter does",
}
"""What the package uses of mod_wsgi, and what comes of it where that is too old to have it."""


def examine(configuration: Dump, site: Configuration, settings: Settings | None) -> Iterator[Finding]:
    """Yield what can be seen on this host; `settings` is None where there are none to look at."""
    users = _users(site)
    unknown = [user for user in users if not may_become(user)]
    for user in unknown:
        exists = account(user) is not None
        yield Finding(
            "not-examined",
            f"Whether {user} can read what the processes need is not known"
            f"{' to this user' if exists else ', since this host has no such user'}.",
            f"Run it as root, or as {user}."
            if exists
            else "Name the account that httpd's processes have: User, Group.",
        )
    for user in users:
        if user not in unknown:
            yield from _python_homes(configuration, site, user)
            if settings is not None:
                yield from _settings(settings, user, site)
    yield from _module(configuration, site)
    if settings is not None:
        yield from _budgets(settings, users)
        yield from _secrets(settings, users)
        yield from _selinux(settings)


def refused(error: ConfigError, site: Configuration | None) -> Finding:
    """Return what it means that a setting cannot be used here: nobody can, or this user may not look."""
    users = _users(site) if site else []
    is_one_of_them = any(known.pw_uid == os.geteuid() for known in map(account, users) if known)
    if site is not None and is_one_of_them and (path := _closed_path(error)):
        return _unreadable(path, name_of(f"#{os.geteuid()}"), site)
    hidden = "" if is_one_of_them else _hidden(error, site)
    if hidden:
        return Finding(
            "not-examined",
            f"{hidden}; what depends on it was not looked at.",
            "Run it as root, or as the user of httpd's processes.",
        )
    return Finding("settings-invalid", f"{error}.", "Mend it first; what depends on it was not looked at.")


def _closed_path(error: ConfigError) -> Path | None:
    """Return the file that this user may not read, if that is behind the error."""
    cause = error.__context__
    if isinstance(cause, PermissionError) and isinstance(cause.filename, str | os.PathLike):
        return Path(cause.filename)
    return None


def _hidden(error: ConfigError, site: Configuration | None) -> str:
    # The message is for the processes; what was in the way of this one is behind it.
    cause = error.__context__
    if isinstance(cause, PermissionError):
        return f"{cause.filename} cannot be read by this user" if cause.filename else str(error)
    if isinstance(cause, KeyError) and site is not None and site.live is not None and not site.live.environment:
        return f"The environment of process {site.live.pid}, which may have {cause}, cannot be read by this user"
    return ""


# --- what the Apache user may read -----------------------------------------------------------------------------------


def _users(site: Configuration) -> list[str]:
    """Return whom the processes run as."""
    return sorted({group.user for group in site.groups})


def _ask(user: str, site: Configuration, question: Callable[[], str]) -> str:
    return as_user(user, question, group=site.unix_groups.get(user))


def _python_homes(configuration: Dump, site: Configuration, user: str) -> Iterator[Finding]:
    for home, origin in _homes(configuration, site).items():
        needed = [home, *_base_of(home, user, site)]
        blocked = [path for path in needed if _ask(user, site, partial(obstacle, path))]
        if blocked:
            reason = _reason(blocked[0], user, site)
            yield Finding(
                "python-home-unreadable",
                f"{origin} {home}: {reason}, so Python does not start in httpd.",
                f"Make the virtual environment of a Python that {user} can read, such as /usr/bin/python3, in a folder "
                "that it can enter; none below /root.",
            )


def _reason(path: Path, user: str, site: Configuration) -> str:
    blocking = _ask(user, site, partial(obstacle, path))
    # What lies in a closed folder may be there, though this process cannot see it either.
    if blocking == str(path) and not os.path.lexists(path):
        return f"{path} is not there"
    return f"{path} cannot be read by {user}, whom {blocking} keeps out"


def _homes(configuration: Dump, site: Configuration) -> dict[Path, str]:
    """Return the Python homes in use, and where each is named."""
    homes: dict[Path, str] = {}
    for directive in configuration.named("WSGIPythonHome"):
        homes[Path(directive.arguments[0])] = f"{directive.origin}: WSGIPythonHome"
    used = {group.name for group in site.groups}
    for daemon in configuration.named("WSGIDaemonProcess"):
        home = dump.options(daemon.text).get("python-home")
        if home and daemon.arguments[0] in used:
            homes[Path(home)] = f"{daemon.origin}: python-home="
    return homes


def _base_of(home: Path, user: str, site: Configuration) -> list[Path]:
    """Return the folder of the Python that a virtual environment was made of; none where it is no such thing."""
    content = _ask(user, site, partial(_content, home / "pyvenv.cfg"))
    found = re.search(r"^home\s*=\s*(.+?)\s*$", content, re.M)
    configuration = [home / "pyvenv.cfg"] if os.path.lexists(home / "pyvenv.cfg") else []
    return [*configuration, Path(found[1])] if found else configuration


def _settings(settings: Settings, user: str, site: Configuration) -> Iterator[Finding]:
    files = [Path(settings.origin)]
    files += [each.password_file for each in settings.databases.values() if each.password_file is not None]
    for path in files:
        if _ask(user, site, partial(obstacle, path)):
            yield _unreadable(path, user, site)
    if settings.budget is not None and (complaint := _ask(user, site, partial(_folder_complaint, settings))):
        yield Finding(
            "budget-folder-unusable",
            f"The processes of {user} cannot meet: {complaint}.",
            _make_folder(settings, user, site),
        )


def _unreadable(path: Path, user: str, site: Configuration) -> Finding:
    above = _ask(user, site, partial(closed_above, path))
    return Finding(
        "settings-unreadable",
        f"{_reason(path, user, site)}, so no process has a pool.",
        _let_in(user, above, f"move {path.name} to where it can") if above else _let_read(path, _users(site)),
    )


def _let_in(user: str, folder: str, otherwise: str) -> str:
    return f"Let {user} enter {folder} (chmod o+x {quote(folder)}), or {otherwise}."


def _let_read(path: Path, users: Iterable[str]) -> str:
    groups = {group(known) for known in map(account, users) if known}
    file = quote(str(path))
    if len(groups) == 1:
        return f"chgrp {groups.pop()} {file} && chmod 640 {file}"
    return f"chmod 640 {file}, and chgrp it to a group of httpd's processes: {', '.join(users)}."


def _make_folder(settings: Settings, user: str, site: Configuration) -> str:
    known = account(user)
    assert known is not None, "who cannot be asked has no complaint"
    folder = settings.runtime_dir or in_run(known.pw_uid)
    if above := _ask(user, site, partial(closed_above, folder)):
        return _let_in(user, above, "name a folder in runtime_dir that it can enter")
    if settings.runtime_dir is not None and len(users := _users(site)) > 1:
        return f"The folder is one user's alone: let {' and '.join(users)} be one (user= of WSGIDaemonProcess)."
    owner = f"{known.pw_name} {group(known)}"
    return (
        f"install -d -m 700 -o {known.pw_name} -g {group(known)} {quote(str(folder))}; and at each boot, by a line in "
        f"/etc/tmpfiles.d/wsgipool.conf: d {folder} 0700 {owner}"
    )


def _folder_complaint(settings: Settings) -> str:
    folder = settings.runtime_dir or default_folder()
    if above := closed_above(folder):
        return f"they may not enter {above}, so not {folder} either"
    if not os.path.lexists(folder):
        # The first process makes it, if it may.
        can_be_made = os.access(folder.parent, os.W_OK | os.X_OK)
        return "" if can_be_made else f"{folder} is not there, and they may make nothing in {folder.parent}"
    try:
        os.close(open_folder(folder))
    except ConfigError as error:
        return str(error)
    return ""


def _budgets(settings: Settings, users: Sequence[str]) -> Iterator[Finding]:
    if settings.budget is not None and settings.runtime_dir is None and len(users) > 1:
        yield Finding(
            "budget-for-each-user",
            f"The processes of {' and '.join(users)} have a [budget] each, since its folder is one user's alone: this "
            f"host may have {len(users)} times as many connections to a server as it says.",
            "Let them be one user (user= of WSGIDaemonProcess), or make the [budget] as much smaller; `wsgipool plan` "
            "counts one for each.",
        )


# --- who else may ----------------------------------------------------------------------------------------------------


def _secrets(settings: Settings, users: Sequence[str]) -> Iterator[Finding]:
    for database in settings.databases.values():
        path = database.password_file
        if path is None and database.url.password is not None and database.password_env is None:
            path = Path(settings.origin)
        if path is not None and _is_open_to_others(path):
            yield Finding(
                "secret-readable",
                f"{path} holds the password of {database.name}, and every user of this host can read it.",
                _let_read(path, users),
            )


def _is_open_to_others(path: Path) -> bool:
    try:
        if not path.stat().st_mode & stat.S_IROTH:
            return False
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)
    except OSError:
        return False


# --- mod_wsgi and Python ---------------------------------------------------------------------------------------------


def _module(configuration: Dump, site: Configuration) -> Iterator[Finding]:
    path = configuration.modules.get("wsgi")
    if path is None:
        return
    content = _bytes(path)
    for name, consequence in _FEATURES.items():
        if content and f"{name}\0".encode() not in content:
            yield Finding(
                "mod-wsgi-too-old",
                f"{path} has no mod_wsgi.{name}(): {consequence}.",
                "mod_wsgi 4.9 or newer (PyPI's is), or wrap the application in wsgipool.Middleware.",
            )
    built_for = re.search(rb"libpython(3\.\d+)", content)
    if built_for is None:
        return
    version = built_for[1].decode()
    for home, origin in _homes(configuration, site).items():
        other = re.search(r"^version(?:_info)?\s*=\s*(3\.\d+)", _content(home / "pyvenv.cfg"), re.M)
        if other and other[1] != version:
            yield Finding(
                "python-version-differs",
                f"{path} was built for Python {version}, and {origin} {home} is of Python {other[1]}: its packages "
                "cannot be imported, or Python does not start in httpd.",
                f"A virtual environment of Python {version}, or mod_wsgi installed by pip in this one.",
            )
    drop_in_home = configuration.defines.get("WSGIPOOL_HOME", "")
    other = re.search(r"/python(3\.\d+)/", drop_in_home)
    if other and other[1] != version:
        yield Finding(
            "python-version-differs",
            f"{path} was built for Python {version}, and wsgipool is installed for Python {other[1]}: {drop_in_home}.",
            f"Install the site and wsgipool for Python {version}, and run its `wsgipool apache install`.",
        )


# --- SELinux ---------------------------------------------------------------------------------------------------------


def _selinux(settings: Settings) -> Iterator[Finding]:
    remote = [each.name for each in settings.databases.values() if limits.network_host(each.url) is not None]
    enforcing = _content(SELINUX / "enforce").strip() == "1"
    allowed = any(_content(SELINUX / "booleans" / name).startswith("1") for name in _SELINUX_BOOLEANS)
    if remote and enforcing and not allowed:
        yield Finding(
            "selinux-denies-network",
            f"SELinux lets httpd's processes open no connection to a database by TCP: {', '.join(remote)}.",
            f"setsebool -P {_SELINUX_BOOLEANS[0]} 1, or reach a local server by its socket.",
        )


def _content(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    """Return what a regular file has in it; of anything else, or of what this user may not read, nothing."""
    try:
        # A FIFO would keep us waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            return file.read(_MAX_FILE) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""
