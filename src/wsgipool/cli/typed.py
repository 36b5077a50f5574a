"""Commands in messages, as the reader has to type them: `wsgipool` may not be on PATH."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path


def typed(text: str) -> str:
    """Return a text in which each command `wsgipool ...` works when typed."""
    text = text.replace("`sudo wsgipool ", f"`sudo {_path()} ")  # sudo has another PATH
    return re.sub("`wsgipool (?=[a-z])", lambda _: f"`{_name()} ", text)


def _name() -> str:
    on_path = shutil.which("wsgipool")
    is_this = on_path is not None and _script().exists() and _script().samefile(on_path)
    return "wsgipool" if is_this else _path()


def _path() -> str:
    if _script().exists():
        return shlex.quote(str(_script()))
    return f"{shlex.quote(sys.executable)} -m wsgipool"


def _script() -> Path:
    """Return where pip puts the script of this installation."""
    return Path(sys.executable).with_name("wsgipool")
