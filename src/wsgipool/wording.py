"""Numbers and texts as people read them."""

from __future__ import annotations

import math

_PLURALS = {"process": "processes", "child": "children", "is": "are", "was": "were"}


def counted(number: int, noun: str) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{number} {plural(number, noun)}"


def plural(number: int, word: str) -> str:
    """Return the word as it stands with the number."""
    return word if number == 1 else _PLURALS.get(word, f"{word}s")


def rounded(number: float, digits: int = 2) -> str:
    """Return a number with so many digits that say something, never in powers of ten: 130, 1.3, 0.0013."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(number)))
    shown = f"{round(number, decimals):.{max(0, decimals)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def printable(text: str, keep: str = "") -> str:
    """Return a text on one line, its control characters as numbers: a server or a file may have put them there."""
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def shortened(text: str, length: int = 2000) -> str:
    """Return a text without its middle where it is longer: a value may be of any size."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} [{len(text) - 2 * half} more characters] {text[-half:]}"
