"""Numbers, words and texts for messages."""

from __future__ import annotations

import math

_PLURALS = {"process": "processes", "child": "children", "is": "are", "was": "were", "has": "have", "its": "their"}


def counted(number: int, noun: str) -> str:
    """Return number and noun, such as "1 thread" or "2 threads"."""
    return f"{number} {plural(number, noun)}"


def plural(number: int, word: str) -> str:
    """Return the singular or plural of a word, by the number."""
    return word if number == 1 else _PLURALS.get(word, f"{word}s")


def rounded(number: float, digits: int = 2) -> str:
    """Return a number with this many significant digits, without an exponent: 130, 1.3, 0.0013."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(number)))
    shown = f"{round(number, decimals):.{max(0, decimals)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def lasting(seconds: float) -> str:
    """Return a duration for people: 4.2 ms, 0.31 s, 12 s, 3 min, 2.5 h, 4 d."""
    if seconds < 0.1:
        return f"{rounded(max(0.0, seconds) * 1000)} ms"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{rounded(seconds / length)} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{rounded(seconds)} s" if seconds < 10 else f"{seconds:.0f} s"


def describe(error: BaseException) -> str:
    """Return an error's type and text on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def printable(text: str, keep: str = "") -> str:
    """Return a text from a server or a file on one line, with its control characters escaped."""
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def shortened(text: str, length: int = 2000) -> str:
    """Return a text of at most about `length` characters, without the middle of a longer one."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} [{len(text) - 2 * half} more characters] {text[-half:]}"
