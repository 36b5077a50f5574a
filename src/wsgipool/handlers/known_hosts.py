"""The names under which the pages of this package answer.

By DNS rebinding, a foreign web page can make its own name resolve to this server's address, and the browser then lets
it read the answer. The Host header still carries the foreign name. So the pages answer only to IP addresses, to
localhost and to the ServerName, which `UseCanonicalName On` puts into SERVER_NAME.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any


def is_known_host(environ: dict[str, Any]) -> bool:
    """Return whether the Host header of a request is an address, localhost or the ServerName."""
    if "HTTP_HOST" not in environ:
        return True  # not a browser
    host = _name_in(environ["HTTP_HOST"])
    if host and host in ("localhost", _name_in(str(environ.get("SERVER_NAME", "")))):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without its port; "" if there is none."""
    parts = re.fullmatch(r"\[([0-9a-f:.]+)\](?::\d*)?|([^:]*)(?::\d*)?", host.strip().lower())
    return (parts[1] or parts[2]).removesuffix(".") if parts else ""
