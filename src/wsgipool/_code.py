"""Places in the code, for messages about a checkout or a lock."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Container
from types import CodeType


def line_of(code: CodeType, instruction: int) -> int | None:
    """Return the line of an instruction, given as a frame's `f_lasti`."""
    return next(itertools.islice(code.co_positions(), instruction // 2, None), (None,))[0]


def place_of(code: CodeType, instruction: int) -> str:
    """Return file, line and function of an instruction: "/srv/shop/views.py:42 in orders"."""
    return f"{code.co_filename}:{line_of(code, instruction)} in {code.co_name}"


def level_outside(packages: Container[str]) -> int:
    """Return the `stacklevel`, for a call by the caller, of the first frame outside of some packages."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in packages:
        level, frame = level + 1, frame.f_back
    return level
