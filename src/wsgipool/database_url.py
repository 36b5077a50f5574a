"""Database URLs: `scheme://user:password@host:port/database?option=value`.

Each part is kept exactly, or the URL is refused. urllib would drop blanks, tabs and line ends, turn a host to lower
case and read a '+' as a blank. No message repeats a part of the URL: if a password has a '/', '?', '@' or '&' that is
not encoded, a piece of the password is parsed as another part.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote, unquote_to_bytes

from wsgipool import showing
from wsgipool.errors import ConfigError

MAX_LENGTH = 65_536
"""Maximum characters of a URL."""

_MAX_NAME = 255
"""Maximum characters of a user, a database, or a host (RFC 1035, 2.3.4). Messages and logs show them."""

_MAX_PATH = 4096
"""Maximum characters of a file's path: Linux's PATH_MAX."""

_MAX_OPTIONS = 100

_EXAMPLES = "write mysql://user@host/database, postgresql://user@host/database or sqlite:////path/file.db"
_ADVICE = (
    "write mysql://user:password@host:3306/database, with the characters :/?#[]@% of a password percent-encoded "
    "(/ is %2F, # is %23, @ is %40)"
)


@dataclass(frozen=True)
class DatabaseURL:
    """The unquoted parts of a database URL, `scheme://user:password@host:port/database?option=value`."""

    scheme: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    database: str = ""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __str__(self) -> str:
        """Return the address without its password and options, for messages."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        host = self.host or ""
        if host.startswith("/"):
            host = quote(host, safe="")  # the folder of a Unix socket
        elif ":" in host:
            host = f"[{host}]"
        return f"{self.scheme}://{user}{host}{port}/{self.database}"


def parse_url(url: str, where: str = "the database URL") -> DatabaseURL:
    """Return the parts of a database URL. Raise ConfigError, beginning with `where`, the URL's place."""
    if not isinstance(url, str):
        raise ConfigError(f"{where}: it is {showing.kind(url)}; write a string, such as mysql://user@host/database")
    try:
        return _parts(url)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def is_secret(option: str) -> bool:
    """Return whether the value of an option may be a password, which messages must not repeat."""
    return re.search(r"pass|pwd|secret|token", option.lower()) is not None


def option_in_message(name: str, options: Iterable[str]) -> str:
    """Return an option's name for a message, without the name if it may be a piece of a password with an '&'."""
    earlier = itertools.takewhile(lambda each: each != name, options)
    secret = next(filter(is_secret, earlier), None)
    return name if secret is None else f"that follows {secret} (an '&' in a value is written %26)"


def _parts(url: str) -> DatabaseURL:
    _check_text(url)
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+._-]{0,99}", scheme):
        if scheme.lower().startswith("jdbc:"):
            raise ValueError("jdbc: is for Java; leave it out")
        raise ValueError(f"no scheme; {_EXAMPLES}")
    if "#" in rest:
        raise ValueError("'#' starts a fragment, which a database URL does not have; in a password write %23")
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    is_path, is_sqlite = not authority and path.startswith("/"), scheme.lower() == "sqlite"
    # A file's path, after four slashes, may have an '@'. Elsewhere an '@' after the host shows that the password has a
    # '/' or '?': the apparent host or database is a piece of the password.
    if "@" in path and not (is_path and is_sqlite):
        raise ValueError(f"an '@' after the host; {_ADVICE}")
    if "/" in path and not (is_path or is_sqlite):
        raise ValueError(
            "a '/' after the name of the database; leave it out, or write %2F where it is part of the name"
        )
    userinfo, at, hostinfo = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if at and not user:
        raise ValueError("no user before the '@'; write mysql://user@host/database, or leave the '@' out")
    host, port = _host_and_port(hostinfo)
    return DatabaseURL(
        scheme=scheme.lower(),
        user=_unquoted(user, "the user") if at else None,
        password=_unquoted(password, "the password", is_free=True) if colon else None,
        host=host,
        port=port,
        database=(
            _unquoted(path, "the path of the file", max_length=_MAX_PATH)
            if is_path
            else _unquoted(path, "the database")
        ),
        options=MappingProxyType(_options(query) if query else {}),
    )


def _check_text(url: str) -> None:
    if len(url) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH} characters")
    if url.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark (U+FEFF); remove that")
    if url != url.strip():
        raise ValueError("it begins or ends with a blank or a line end; remove that, or write %20 for a blank")
    for character in url:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            raise ValueError(
                f"it has a line end or another control character (U+{ord(character):04X}); remove that, or write it "
                "percent-encoded"
            )
        if category == "Cs":
            raise ValueError("it has a character that is not Unicode; write UTF-8, or percent-encode it")


def _host_and_port(text: str) -> tuple[str | None, int | None]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?:(:)(.*))?", text)
    host, colon, port = bracketed.groups("") if bracketed else text.partition(":")
    if ":" in port and not bracketed and _is_ipv6(text):
        raise ValueError("an IPv6 address needs brackets; write mysql://user@[::1]:3306/database")
    if colon and not (re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65_535):
        raise ValueError(f"its port is not a number from 1 to 65535; {_ADVICE}")
    host = _unquoted(host, "the host")
    if bracketed:
        if not _is_ipv6(host):
            raise ValueError("the brackets do not hold an IPv6 address; write [::1], or [fe80::1%25eth0] with a zone")
    elif host and not _is_host(host):
        raise ValueError(f"the host is not valid; {_ADVICE}")
    return host or None, int(port) if port else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return re.fullmatch(r"[0-9A-Fa-f:.]+(%[\w.-]{1,64})?", text) is not None


def _is_host(text: str) -> bool:
    """Return whether a text is a host, several hosts for libpq, or the folder of a Unix socket."""
    return text.startswith("/") or all(map(_is_host_name, text.split(",")))


def _is_host_name(text: str) -> bool:
    if not re.fullmatch(r"[\w.-]+", text):
        return False
    try:
        text.encode("idna")  # socket.getaddrinfo does the same
    except UnicodeError:
        return False
    return True


def _options(query: str) -> dict[str, str]:
    pairs = query.split("&")
    # SQL in init_command may have variables. Elsewhere the '@' is that of a password with a '?'.
    if any("@" in pair and not pair.startswith("init_command=") for pair in pairs):
        raise ValueError(f"an '@' after the host; in an option's value write %40; {_ADVICE}")
    if len(pairs) > _MAX_OPTIONS:
        raise ValueError(f"it has more than {_MAX_OPTIONS} options")
    options: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, value = pair.partition("=")
        name = _unquoted(name, f"the name of option {number}")
        place = f"option {number}"
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", name):
            place = f"the option {option_in_message(name, options)}"
        elif equals:
            raise ValueError(f"{place} has no proper name; write name=value, and %26 for an '&' in a value")
        if not pair:
            raise ValueError(f"{place} is empty: leave '?' or '&' out, or write %26 for an '&' in a value")
        if not equals:
            raise ValueError(f"{place} has no '='; write name=value, and %26 for an '&' in a value")
        if name in options:
            raise ValueError(f"{place} is given twice; keep one")
        options[name] = _unquoted(value, place, is_free=True)
    return options


def _unquoted(text: str, part: str, *, max_length: int = _MAX_NAME, is_free: bool = False) -> str:
    """Return a text with its percent-encoded characters decoded.

    With `is_free` it may have any length, and any character but NUL.
    """
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"{part} has a '%' without two hexadecimal digits after it; a % is written %25")
    try:
        found = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{part} has percent-encoded bytes that are not UTF-8 (ü is %C3%BC); a % is written %25"
        ) from None
    if "\0" in found or not (is_free or found.isprintable()):
        raise ValueError(f"{part} has a NUL, a line end or another invisible character; remove it")
    if len(found) > max_length and not is_free:
        raise ValueError(f"{part} is longer than {max_length} characters")
    return found
