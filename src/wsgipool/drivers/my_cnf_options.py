"""The meaning of a MySQL option file: its entries as options of a URL."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from wsgipool import showing
from wsgipool.drivers.my_cnf import Entry
from wsgipool.errors import ConfigError
from wsgipool.showing import shown

_NAMES: Mapping[str, str] = MappingProxyType({
    "user": "user",
    "password": "password",
    "host": "host",
    "port": "port",
    "socket": "unix_socket",
    "database": "database",
    "protocol": "protocol",
    "default_character_set": "charset",
    "connect_timeout": "connect_timeout",
    "bind_address": "bind_address",
    "init_command": "init_command",
    "ssl": "ssl",
    "ssl_mode": "ssl_mode",
    "ssl_ca": "ssl_ca",
    "ssl_capath": "ssl_capath",
    "ssl_cert": "ssl_cert",
    "ssl_key": "ssl_key",
    # MariaDB's client with an ssl-ca always verifies the chain; this option is about the name.
    "ssl_verify_server_cert": "ssl_verify_identity",
})  # fmt: skip
"""Options of the file, and the options of the URL with the same meaning."""

_BOOLEANS = ("ssl", "ssl_verify_server_cert")
_MAY_BE_EMPTY = ("password",)

_SECURITY_PREFIXES = ("ssl_", "tls_", "restricted_auth")
"""Prefixes of options about security."""

_TLS_OPTIONS_OF_URL = ("ssl_mode", "ssl_disabled", "ssl_ca", "ssl_capath", "ssl_verify_cert", "ssl_verify_identity")
"""Options of the URL that override the file's TLS mode."""


def from_file(entries: Mapping[str, Entry], url: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the options that the file adds to those of the URL: name, text, and file and line.

    An option of another program is ignored. Raise ConfigError for an option that resembles a known one or is about
    security.
    """
    file: dict[str, tuple[Any, str]] = {}
    for entry in entries.values():
        if (known := _known(entry)) is not None:
            name, text = known
            file[_NAMES[name]] = (_port(text, entry.where) if name == "port" else text, entry.where)
    _choose_mode(file, url)
    _choose_endpoint(file, url)
    yield from ((name, text, where) for name, (text, where) in file.items() if name not in url)


def _known(entry: Entry) -> tuple[str, str] | None:
    name, value = entry.name.removeprefix("loose_"), entry.value
    for prefix, meaning in (("skip_", "false"), ("disable_", "false"), ("enable_", "true")):
        if name.removeprefix(prefix) in _BOOLEANS and name.startswith(prefix) and value is None:
            return name.removeprefix(prefix), meaning
    if name not in _NAMES:
        _refuse_misspelled_or_security(name, entry.where)
        return None
    if value is None and name in _BOOLEANS:
        return name, "true"
    if value is None and name == "password":
        raise ConfigError(
            f"{entry.where}: password without a value: mysql would ask on the terminal; write the password"
        )
    if not value and name not in _MAY_BE_EMPTY:
        raise ConfigError(f"{entry.where}: {name} has no value; write one, or leave it out")
    return name, value or ""


def _refuse_misspelled_or_security(name: str, where: str) -> None:
    if name.startswith(_SECURITY_PREFIXES):
        raise ConfigError(
            f"{where}: {showing.name(name)} is unknown, and not ignored because it is about security; leave it out"
        )
    close = [known for known in _NAMES if len(name) > 2 and known.startswith(name)]
    close = close or difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.8)
    if close:
        raise ConfigError(f"{where}: {showing.name(name)} is not an option; did you mean {close[0].replace('_', '-')}?")


def _port(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigError(f"{where}: the port is {shown(text)}; it is a number from 1 to 65535, of MySQL 3306")
    return int(text)


def _boolean(text: str, where: str) -> bool:
    values = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    if text.lower() not in values:
        raise ConfigError(f"{where}: ssl is {shown(text)}; it is 1 or 0")
    return values[text.lower()]


def _choose_mode(file: dict[str, tuple[Any, str]], url: Mapping[str, Any]) -> None:
    """Turn `ssl` into a mode, and drop the options that the URL overrides."""
    text, where = file.pop("ssl", (None, ""))
    if text is not None and not _boolean(text, where):
        file["ssl_disabled"] = ("true", where)
    elif text is not None and not file.keys() & {"ssl_mode", "ssl_ca", "ssl_capath", "ssl_verify_identity"}:
        file["ssl_mode"] = ("REQUIRED", where)
    if url.get("ssl_disabled") or url.get("ssl_mode") == "DISABLED":
        left_out: Collection[str] = [name for name in file if name.startswith("ssl_")]
    elif any(name in url for name in _TLS_OPTIONS_OF_URL):
        left_out = ("ssl_mode", "ssl_disabled")
    else:
        left_out = ()
    for name in left_out:
        file.pop(name, None)


def _choose_endpoint(file: dict[str, tuple[Any, str]], url: Mapping[str, Any]) -> None:
    """Keep either the host or the socket, as the mysql program chooses. The URL takes precedence."""
    protocol, where = file.pop("protocol", (None, ""))
    if protocol is not None and protocol.lower() not in ("tcp", "socket"):
        raise ConfigError(f"{where}: protocol is {shown(protocol)}; here it is tcp or socket")
    if "unix_socket" in url:
        file.pop("host", None)
        file.pop("port", None)
    elif "host" in url or (protocol or "").lower() == "tcp":
        file.pop("unix_socket", None)
        file.setdefault("host", ("localhost", where))
    elif (protocol or "").lower() == "socket":
        if "unix_socket" not in file:
            raise ConfigError(f"{where}: protocol=socket without socket; name it: socket=/run/mysqld/mysqld.sock")
        file.pop("host", None)
        file.pop("port", None)
    elif "unix_socket" in file:
        # As in the mysql program, a socket is for localhost and a port for any other host.
        if file.get("host", ("localhost", ""))[0].lower() == "localhost" and "port" not in url:
            file.pop("host", None)
            file.pop("port", None)
        else:
            file.pop("unix_socket")
