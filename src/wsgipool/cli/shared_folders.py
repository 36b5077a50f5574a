"""The folders that the processes of a site share, as `locks` and `drain` find them.

Each user has a folder, so root looks for those of the users whose processes run Python in httpd.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from wsgipool.cli.site_settings import NoSettings, SettingsFile, plain_settings, restored, settings_files
from wsgipool.config import Settings
from wsgipool.errors import ConfigError
from wsgipool.httpd import configuration, dump, users
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.dump import HttpdConfigError
from wsgipool.httpd.live import LiveServer
from wsgipool.impersonation import as_user
from wsgipool.shared.folder import default_folder, set_origin
from wsgipool.wording import printable

T = TypeVar("T")


@dataclass(frozen=True)
class SharedFolder:
    """A folder that the processes of one user share."""

    path: Path
    user: str
    """The user, by name or as #NUMBER."""
    live: LiveServer | None = None
    """The httpd whose processes share the folder. systemd may give it a /tmp of its own (PrivateTmp=)."""

    def ask(self, question: Callable[[Path], T]) -> T:
        """Return the plain result of a question about the folder, called with the rights of its user."""
        if self.user == f"#{os.geteuid()}":
            return question(self.path)
        # The user could replace files in the folder, so root does not open them.
        return _as_user(self.user, partial(question, self.path), self.live)


def of_sites(config_path: Path | None) -> tuple[list[SharedFolder], list[Settings]]:
    """Return the folders of a server's sites and their settings without passwords. Raises ConfigError.

    There is no folder if root cannot know its user: no settings name a runtime_dir, and no httpd runs Python.
    """
    server = _httpd() if os.geteuid() == 0 and config_path is None else None
    files = _settings_files(config_path, server)
    found = [restored(Settings, file.ask(file.readers[0], _plain)) for file in files]
    folders = {}
    for file, settings in zip(files, found, strict=True):
        if settings.runtime_dir is not None:
            set_origin(settings.runtime_dir, settings.origin)
            folder = named(settings.runtime_dir, f"{settings.origin}: runtime_dir = ")
            _refuse_other_owner(folder, file)
            folders[folder.path] = folder
    if any(settings.runtime_dir is None for settings in found) or not _all_have_settings(files, server):
        folders |= {folder.path: folder for folder in _defaults(server)}
    return list(folders.values()), found


def _refuse_other_owner(folder: SharedFolder, file: SettingsFile) -> None:
    """Raise ConfigError if the settings of a user make root act as another one."""
    readers = {known.pw_uid for known in map(users.account, file.readers) if known}
    owner = users.account(folder.user)
    if os.geteuid() == 0 and 0 not in readers and (owner is None or owner.pw_uid not in readers):
        raise ConfigError(
            f"{file.path}: runtime_dir = {folder.path} belongs to {users.name(folder.user)}, but the file is read by "
            f"{' and '.join(map(users.name, file.readers))}"
        )


def _all_have_settings(files: Sequence[SettingsFile], server: Configuration | None) -> bool:
    """Return whether each process group has a settings file."""
    if not files or server is None:
        return bool(files)
    groups = {group.name for group in server.groups}
    return any(file.interpreters is None or groups <= file.interpreters.keys() for file in files) or groups <= {
        name for file in files for name in file.interpreters or ()
    }


def _plain(load: Callable[[], Settings]) -> Any:
    return plain_settings(load())


def _defaults(server: Configuration | None) -> list[SharedFolder]:
    """Return the folders of processes whose settings name none."""
    if os.geteuid() != 0:
        return [SharedFolder(default_folder(), f"#{os.geteuid()}")]
    names = sorted({group.user for group in server.groups}) if server else []
    return [_default_of(name, server.live if server else None) for name in names]


def named(folder: Path, origin: str = "") -> SharedFolder:
    """Return the folder that an option or the settings name. Raises ConfigError if root cannot know its user."""
    if os.geteuid() != 0:
        return SharedFolder(folder, f"#{os.geteuid()}")
    try:
        return SharedFolder(folder, f"#{folder.lstat().st_uid}")
    except OSError as error:
        raise ConfigError(
            f"{origin}{folder}: {error.strerror}; run the command as the user of httpd's processes"
        ) from None


def _httpd() -> Configuration | None:
    """Return the configuration of this host's httpd, if it runs Python."""
    try:
        dump.find_program()
    except HttpdConfigError:
        return None
    try:
        configured = configuration.as_it_runs()
    except HttpdConfigError as error:
        click.echo(printable(f"wsgipool: warning: httpd's users are unknown, since {error}", keep="\n"), err=True)
        return None
    try:
        return configuration.interpret(configured)
    except HttpdConfigError:
        return None


def _settings_files(config_path: Path | None, server: Configuration | None) -> list[SettingsFile]:
    try:
        return settings_files(config_path, server)
    except NoSettings:
        return []


def _default_of(user: str, live: LiveServer | None) -> SharedFolder:
    """Return the folder of a user for which the settings name none."""
    return SharedFolder(Path(_as_user(user, lambda: str(default_folder()), live)), user, live)


def _as_user(user: str, question: Callable[[], T], live: LiveServer | None) -> T:
    if live is None:
        return as_user(user, question)
    return as_user(user, question, environment=live.environment, root=Path(f"/proc/{live.pid}/root"))
