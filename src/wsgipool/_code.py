"""Line numbers for messages that name the place of a checkout or of a lock."""

from __future__ import annotations

import itertools
from types import CodeType


def line_of(code: CodeType, instruction: int) -> int | None:
    """Return the line of an instruction, given as a frame's `f_lasti`."""
    return next(itertools.islice(code.co_positions(), instruction // 2, None), (None,))[0]
