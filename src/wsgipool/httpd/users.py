"""Users and groups as httpd's configuration names them, by a name or as #NUMBER, and their accounts on this host."""

from __future__ import annotations

import grp
import pwd

from wsgipool.errors import ConfigError


def account(user: str) -> pwd.struct_passwd | None:
    """Return the account of a user; None if this host has none."""
    try:
        return pwd.getpwuid(int(user[1:])) if user.startswith("#") else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        return None


def name(user: str) -> str:
    """Return the name of a user's account, for a name or #NUMBER alike; `user` itself if there is no account."""
    known = account(user)
    return user if known is None else known.pw_name


def is_root(user: str) -> bool:
    """Return whether a user is root."""
    known = account(user)
    return known is not None and known.pw_uid == 0


def group(known: pwd.struct_passwd) -> str:
    """Return the name of an account's primary group, or its number if it has no name."""
    try:
        return grp.getgrgid(known.pw_gid).gr_name
    except KeyError:
        return str(known.pw_gid)


def group_id(name: str) -> int:
    """Return the number of a group. Raises ConfigError if this host has no such group."""
    try:
        return int(name[1:]) if name.startswith("#") else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"this host has no group {name}") from None
