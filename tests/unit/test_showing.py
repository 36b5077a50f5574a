from __future__ import annotations

import pytest

from wsgipool import showing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a'b\n", '"a\'b\\n"'),
        ("x" * 100, f"'{'x' * 100}'"),
        ("x" * 101, f"'{'x' * 100}'... (101 characters)"),
        (True, "true"),
        (-3, "-3"),
        pytest.param(1 << 20_000, "a number of 20001 bits", id="huge"),
        (float("nan"), "nan"),
        (None, "None"),
        ([1], "an array"),
        ({}, "a table"),
        (b"s3cret", "a bytes"),
        (type("A" * 1000, (), {})(), f"a {'A' * 40}"),
        (type("A\nB", (), {})(), "an object"),
    ],
)
def test_a_value_is_shown_on_one_short_line(value: object, text: str) -> None:
    assert showing.shown(value) == text


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("max_size", "max_size"),
        ("bücher", "bücher"),
        ("", "''"),
        ("a b", "'a b'"),
        ("a\nb", "'a\\nb'"),
        ("x" * 200, f"'{'x' * 100}'... (200 characters)"),
        ("mysql://shop:s3cret", "(a name of 19 characters)"),
        ("s3cret@db", "(a name of 9 characters)"),
        (3, "(a number)"),
    ],
)
def test_a_name_is_shown_as_it_is_or_in_quotes(word: object, text: str) -> None:
    assert showing.name(word) == text


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("/srv/my shop.toml", "/srv/my shop.toml"),
        ("/srv/a\nb", "'/srv/a\\nb'"),
        ("/srv/a ", "'/srv/a '"),
        ("", "''"),
        ("/" + "x" * 300, f"'/{'x' * 99}'... (301 characters)"),
    ],
)
def test_a_path_is_shown_as_it_is_or_in_quotes(file: str, text: str) -> None:
    assert showing.path(file) == text


@pytest.mark.parametrize(
    ("key", "hint"),
    [("ordes", "did you mean orders?"), ("ORDERS", "did you mean orders?"), ("x", "known are: archive, orders")],
)
def test_a_wrong_name_gets_the_name_that_is_close_or_all_of_them(key: str, hint: str) -> None:
    assert showing.unknown_key(key, {"orders": 1, "archive": 2}) == hint


def test_only_some_of_many_names_are_listed() -> None:
    hint = showing.unknown_key("x" * 10_000_000, [f"orders{number:05}" for number in range(10_000)])

    assert hint.startswith("known are: orders00000, orders00001, ")
    assert hint.endswith("...")
    assert len(hint) < 350
