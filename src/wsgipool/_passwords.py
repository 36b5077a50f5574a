"""Where the password of a database comes from: its URL, a file, or a variable of the environment.

No message repeats a password, nor a value that may be one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from wsgipool import files, showing
from wsgipool.errors import ConfigError

MAX_PASSWORD_SIZE = 1 << 16
"""Bytes of a password_file, and characters of a password."""


def from_file(path: Path, where: str) -> str:
    """Return the password that is the only line of a file. Raises ConfigError; `where` names the setting."""
    name = showing.path(path)
    try:
        text = files.read_text(path, MAX_PASSWORD_SIZE)
    except OSError as error:
        raise ConfigError(f"{where}: {name} cannot be read by user id {os.geteuid()}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {name} {error}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if "\n" in password or "\r" in password:
        raise ConfigError(f"{where}: {name} has more than one line; it must have the password and nothing else")
    _check(password, f"{where}: {name}")
    return password


def from_variable(variable: str, environment: Mapping[str, str], where: str) -> str:
    """Return the password that a variable of the environment has. Raises ConfigError; `where` names the setting."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", variable):
        # The message does not repeat the name: it may be the password itself.
        raise ConfigError(f"{where} must be the name of a variable of the environment, such as ORDERS_PASSWORD")
    try:
        password = environment[variable]
    except KeyError:
        raise ConfigError(
            f"{where}: the environment has no variable {variable}; SetEnv does not reach it, Debian's "
            "/etc/apache2/envvars and systemd's Environment= do"
        ) from None
    _check(password, f"{where}: the variable {variable}")
    return password


def _check(password: str, place: str) -> None:
    if not password:
        raise ConfigError(f"{place} is empty; write the password there, or leave the setting out if there is none")
    if "\0" in password:
        raise ConfigError(f"{place} has a NUL, which no password can have")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise ConfigError(f"{place} is not UTF-8")
    if len(password) > MAX_PASSWORD_SIZE:
        raise ConfigError(f"{place} is longer than {MAX_PASSWORD_SIZE} characters")
