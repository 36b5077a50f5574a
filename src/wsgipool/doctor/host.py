"""Findings on this host: which files the Apache user and others can read, the Python of mod_wsgi, and SELinux."""

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
from wsgipool.httpd import dump
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import Dump
from wsgipool.httpd.users import account, group
from wsgipool.httpd.users import name as name_of
from wsgipool.impersonation import as_user
from wsgipool.shared.folder import default_folder, open_folder, run_folder

SELINUX = Path("/sys/fs/selinux")
_SELINUX_BOOLEANS = ("httpd_can_network_connect_db", "httpd_can_network_connect")

_MAX_FILE = 64 * 1024 * 1024
"""Bytes that are read of a file; mod_wsgi is far smaller."""

_FEATURES = {
    "request_data": "connections that a request does not return are not taken back at its end",
    "subscribe_shutdown": "a process learns of its end only when its interpreter ends",
}
"""Functions of mod_wsgi that wsgipool uses, and the consequences if they are missing."""


def examine(configuration: Dump, site: Configuration, settings: Settings | None) -> Iterator[Finding]:
    """Yield the findings on this host; `settings` is None if there are no usable settings."""
    users = _users(site)
    unknown = [user for user in users if not may_become(user)]
    for user in unknown:
        exists = account(user) is not None
        yield Finding(
            "not-examined",
            f"Whether {user} can read the files that the processes need was not checked"
            f"{': only root and that user can do so' if exists else ', since this host has no such user'}.",
            f"Run `wsgipool doctor` as root or as {user}."
            if exists
            else "Set the directives User and Group to existing accounts.",
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
    """Return the finding for unusable settings: wrong for every user, or only unreadable for this one."""
    users = _users(site) if site else []
    is_one_of_them = any(known.pw_uid == os.geteuid() for known in map(account, users) if known)
    if site is not None and is_one_of_them and (path := _closed_path(error)):
        return _unreadable(path, name_of(f"#{os.geteuid()}"), site)
    hidden = "" if is_one_of_them else _hidden(error, site)
    if hidden:
        return Finding(
            "not-examined",
            f"{hidden}; checks that depend on it were left out.",
            "Run `wsgipool doctor` as root or as the user of httpd's processes.",
        )
    return Finding("settings-invalid", f"{error}.", "Correct this first; checks that depend on it were left out.")


def _closed_path(error: ConfigError) -> Path | None:
    """Return the file that this user may not read, if that caused the error."""
    cause = error.__context__
    if isinstance(cause, PermissionError) and isinstance(cause.filename, str | os.PathLike):
        return Path(cause.filename)
    return None


def _hidden(error: ConfigError, site: Configuration | None) -> str:
    # The error's message is written for httpd's processes; its cause says what this process lacks.
    cause = error.__context__
    if isinstance(cause, PermissionError):
        return f"{cause.filename} cannot be read by this user" if cause.filename else str(error)
    if isinstance(cause, KeyError) and site is not None and site.live is not None and not site.live.environment:
        return f"The environment of process {site.live.pid}, which may have {cause}, cannot be read by this user"
    return ""


# --- files that the Apache user must read ----------------------------------------------------------------------------


def _users(site: Configuration) -> list[str]:
    """Return the users that the processes run as."""
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
                f"Create the virtual environment with a Python that {user} can read, such as /usr/bin/python3, in a "
                "folder that this user can enter, not below /root.",
            )


def _reason(path: Path, user: str, site: Configuration) -> str:
    blocking = _ask(user, site, partial(obstacle, path))
    # In a closed folder the file may exist although this process cannot see it.
    if blocking == str(path) and not os.path.lexists(path):
        return f"{path} does not exist"
    if blocking == str(path):
        return f"{path} cannot be read by {user}"
    return f"{path} cannot be read by {user}, since {blocking} does not let this user in"


def _homes(configuration: Dump, site: Configuration) -> dict[Path, str]:
    """Return the Python homes in use, each with the directive that names it."""
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
    """Return the files that a virtual environment needs outside itself, and its pyvenv.cfg; [] if it is none."""
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
            f"The processes of {user} cannot share a folder: {complaint}.",
            _make_folder(settings, user, site),
        )


def _unreadable(path: Path, user: str, site: Configuration) -> Finding:
    above = _ask(user, site, partial(closed_above, path))
    return Finding(
        "settings-unreadable",
        f"{_reason(path, user, site)}, so no process has a pool.",
        _let_in(user, above, f"move {path.name} to a folder that this user can enter")
        if above
        else _let_read(path, _users(site)),
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
    assert known is not None  # its permissions were checked
    folder = settings.runtime_dir or run_folder(known.pw_uid)
    if above := _ask(user, site, partial(closed_above, folder)):
        return _let_in(user, above, "set runtime_dir to a folder that this user can enter")
    if settings.runtime_dir is not None and len(users := _users(site)) > 1:
        return (
            f"Only one user can use the folder: run the processes of {' and '.join(users)} as the same user (user= of "
            "WSGIDaemonProcess)."
        )
    owner = f"{known.pw_name} {group(known)}"
    return (
        f"install -d -m 700 -o {known.pw_name} -g {group(known)} {quote(str(folder))}; for each boot, add this line to "
        f"/etc/tmpfiles.d/wsgipool.conf: d {folder} 0700 {owner}"
    )


def _folder_complaint(settings: Settings) -> str:
    folder = settings.runtime_dir or default_folder()
    if above := closed_above(folder):
        return f"they may not enter {above}, which contains {folder}"
    if not os.path.lexists(folder):
        # The first process creates the folder.
        can_be_made = os.access(folder.parent, os.W_OK | os.X_OK)
        return "" if can_be_made else f"{folder} does not exist, and they may not create it in {folder.parent}"
    try:
        os.close(open_folder(folder))
    except ConfigError as error:
        return str(error)
    return ""


def _budgets(settings: Settings, users: Sequence[str]) -> Iterator[Finding]:
    if settings.budget is not None and settings.runtime_dir is None and len(users) > 1:
        yield Finding(
            "budget-for-each-user",
            f"The processes of {' and '.join(users)} have a [budget] each, since its folder belongs to one user: this "
            f"host may open {len(users)} times as many connections to a server as the [budget] allows.",
            "Run them as the same user (user= of WSGIDaemonProcess), or divide the [budget] among them; `wsgipool "
            "plan` counts one for each.",
        )


# --- files that other users can read ---------------------------------------------------------------------------------


def _secrets(settings: Settings, users: Sequence[str]) -> Iterator[Finding]:
    for database in settings.databases.values():
        path = database.password_file
        if path is None and database.url.password is not None and database.password_env is None:
            path = Path(settings.origin)
        if path is not None and _is_open_to_others(path):
            yield Finding(
                "secret-readable",
                f"{path} contains the password of {database.name}, and every user of this host can read it.",
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
                "Install mod_wsgi 4.9 or newer, such as PyPI's, or wrap the application in wsgipool.Middleware.",
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
                f"{path} was built for Python {version}, but {origin} {home} belongs to Python {other[1]}: its "
                "packages cannot be imported, or Python does not start in httpd.",
                f"Use a virtual environment of Python {version}, or install mod_wsgi with pip in this one.",
            )
    drop_in_home = configuration.defines.get("WSGIPOOL_HOME", "")
    other = re.search(r"/python(3\.\d+)/", drop_in_home)
    if other and other[1] != version:
        yield Finding(
            "python-version-differs",
            f"{path} was built for Python {version}, but wsgipool is installed for Python {other[1]}: {drop_in_home}.",
            f"Install the site and wsgipool for Python {version}, and run `apache install` with that wsgipool.",
        )


# --- SELinux ---------------------------------------------------------------------------------------------------------


def _selinux(settings: Settings) -> Iterator[Finding]:
    remote = [each.name for each in settings.databases.values() if limits.network_host(each.url) is not None]
    enforcing = _content(SELINUX / "enforce").strip() == "1"
    allowed = any(_content(SELINUX / "booleans" / name).startswith("1") for name in _SELINUX_BOOLEANS)
    if remote and enforcing and not allowed:
        yield Finding(
            "selinux-denies-network",
            f"SELinux does not let httpd's processes connect to a database by TCP: {', '.join(remote)}.",
            f"setsebool -P {_SELINUX_BOOLEANS[0]} 1, or connect to a local server by its socket.",
        )


def _content(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    """Return the content of a regular file; nothing for other files and for unreadable ones."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for its other end.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            return file.read(_MAX_FILE) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""
