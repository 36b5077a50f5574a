"""Numbers, words and texts for messages."""

from __future__ import annotations

import pytest

from wsgipool.locks.statistics import seconds
from wsgipool.wording import counted, lasting, plural, printable, rounded, shortened


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (130.4, "130"),
        (1.34, "1.3"),
        (0.00134, "0.0013"),
        (99.96, "100"),
        (1000, "1000"),
        (123456789, "120000000"),
        (1e-9, "0.000000001"),
        (5.0, "5"),
        (float("inf"), "inf"),
    ],
)
def test_a_number_is_shown_without_an_exponent(number: float, text: str) -> None:
    assert rounded(number) == text


def test_a_number_may_have_more_digits() -> None:
    assert (rounded(12.345, 3), rounded(86400, 6), rounded(0.125, 6)) == ("12.3", "86400", "0.125")


@pytest.mark.parametrize(
    ("number", "text"), [(0.1304, "130 ms"), (0.9999, "1000 ms"), (130, "130 s"), (1.3e-4, "130 µs"), (0, "0")]
)
def test_a_time_has_the_unit_that_suits_it(number: float, text: str) -> None:
    assert seconds(number) == text


def test_one_is_singular() -> None:
    assert [counted(number, "process") for number in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert (counted(1, "thread"), counted(16, "thread"), plural(1, "is")) == ("1 thread", "16 threads", "is")


def test_a_text_is_on_one_line_without_control_characters() -> None:
    assert printable("a\nb\x1b[31m\x00\udcff ü") == "a\\nb\\x1b[31m\\x00\\udcff ü"
    assert printable("a\nb", keep="\n") == "a\nb"


def test_a_long_text_keeps_its_ends() -> None:
    assert shortened("x" * 10) == "x" * 10
    assert shortened(f"begin{'x' * 5000}end", 100).startswith("begin")
    assert shortened(f"begin{'x' * 5000}end", 100).endswith("end")
    assert len(shortened("x" * 5000, 100)) < 150


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.001, "0 ms"),
        (0.0042, "4.2 ms"),
        (0.31, "0.31 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (185, "3.1 min"),
        (1800, "30 min"),
        (9000, "2.5 h"),
        (345600, "4 d"),
    ],
)
def test_a_duration_has_the_unit_that_people_say(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
