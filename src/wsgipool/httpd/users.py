"""Users as httpd's configuration names them, by a name or as #NUMBER, and the accounts of this host behind them."""

from __future__ import annotations

import grp
import pwd

from wsgipool.errors import ConfigError


def account(user: str) -> pwd.struct_passwd | None:
    """Return the account of a user; None where this host has no such."""
    try:
        return pwd.getpwuid(int(user[1:])) if user.startswith("#") else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        return None


def name(user: str) -> str:
    """Return the name of a user's account, the same however it is written; `user` itself where there is no account."""
    known = account(user)
    return user if known is None else known.pw_name


def is_root(user: str) -> bool:
    known = account(user)
    return known is not None and known.pw_uid == 0


def group(known: pwd.struct_passwd) -> str:
    """Return the name of an account's group, or its number where it has none."""
    try:
        return grp.getgrgid(known.pw_gid).gr_name
    except KeyError:
        return str(known.pw_gid)


def group_id(name: str) -> int:
    """Return the number of a group that httpd's configuration names, by its name or as #NUMBER. Raises ConfigError."""
    try:
        return int(name[1:]) if name.startswith("#") else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"this host has no group {name}") from None
