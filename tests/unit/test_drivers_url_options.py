from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgipool import ConfigError
from wsgipool.database_url import DatabaseURL
from wsgipool.drivers.url_options import BOOLEAN, SECONDS, SECONDS_OR_0, TEXT, Option, convert, one_of

KNOWN: dict[str, Option] = {
    "charset": TEXT,
    "sql_mode": TEXT,
    "autocommit": BOOLEAN,
    "read_timeout": SECONDS,
    "busy_timeout": SECONDS_OR_0,
    "ssl_mode": one_of("DISABLED", "REQUIRED"),
    "ssl_key_password": one_of("A", "B"),
}


def converted(**options: str) -> dict[str, object]:
    return convert(DatabaseURL("mysql", host="db", options=options), KNOWN, "wsgipool.toml: databases.orders.url")


def complaint(**options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        converted(**options)
    message = str(caught.value)
    assert message.startswith("wsgipool.toml: databases.orders.url: ")
    assert message.isprintable()
    assert len(message) <= 500
    return message.removeprefix("wsgipool.toml: databases.orders.url: ")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("charset", " a+b ", " a+b "),
        ("sql_mode", "", ""),
        ("autocommit", "On", True),
        ("autocommit", "0", False),
        ("read_timeout", "5", 5.0),
        ("read_timeout", "0.25", 0.25),
        ("read_timeout", "86400", 86_400.0),
        ("busy_timeout", "0", 0.0),
        ("ssl_mode", "required", "REQUIRED"),
    ],
)
def test_an_option_becomes_a_drivers_argument(option: str, text: str, value: object) -> None:
    assert converted(**{option: text}) == {option: value}


NO_NUMBER = [
    *("nan", "inf", "-inf", "-1", "+1", "1_0", " 5", "5 ", "5\n"),
    "\u0665",
    "\uff15",
    "1e3",
    "0x5",
    "5s",
    ".5",
    "5.",
    "9" * 5000,
]


@pytest.mark.parametrize("text", ["0", "0.0", "86400.1", *NO_NUMBER])
def test_a_wrong_number_of_seconds_is_refused(text: str) -> None:
    assert complaint(read_timeout=text).startswith(
        "the option read_timeout is a number of seconds above 0 and up to 86400, not "
    )


@pytest.mark.parametrize("text", ["86400.1", *NO_NUMBER])
def test_a_wrong_number_of_seconds_from_0_is_refused(text: str) -> None:
    message = complaint(busy_timeout=text)

    assert message.startswith("the option busy_timeout is a number of seconds from 0 to 86400, not ")


@pytest.mark.parametrize(
    "text", [" true", "true ", "true\n", "maybe", "2", "-1", "1.0", "\u0660", "tru", "y", "none", "x" * 9999]
)
def test_a_wrong_boolean_is_refused(text: str) -> None:
    assert complaint(autocommit=text).startswith("the option autocommit is true or false, not ")


@pytest.mark.parametrize("text", ["requ\u0131red", "REQUIRED ", "DISABLED,REQUIRED", "\u017f", "x" * 9999])
def test_a_word_that_is_not_in_the_list_is_refused(text: str) -> None:
    assert complaint(ssl_mode=text).startswith("the option ssl_mode is DISABLED or REQUIRED, not ")


@pytest.mark.parametrize("option", [option for option in KNOWN if option != "sql_mode"])
def test_an_option_without_a_value_is_refused(option: str) -> None:
    assert complaint(**{option: ""}) == f"the option {option} has no value; write one, or leave the option out"


def test_a_long_value_is_shortened() -> None:
    assert complaint(read_timeout="x" * 10_000_000).endswith(f", not '{'x' * 100}'... (10000000 characters)")


def test_the_value_of_an_option_for_a_password_is_not_repeated() -> None:
    assert complaint(ssl_key_password="s3cret") == "the option ssl_key_password is A or B"


def test_an_unknown_option_is_named() -> None:
    assert complaint(charst="utf8mb4") == "charst is not an option of mysql://; did you mean charset?"


def test_an_unknown_option_is_not_named_if_it_may_be_a_piece_of_a_password() -> None:
    assert complaint(ssl_key_password="A", s3cret="") == (
        "the option that follows ssl_key_password (an '&' in a value is written %26) is not one of mysql://"
    )


@given(st.sampled_from(list(KNOWN)), st.text())
def test_any_text_is_converted_or_a_config_error_of_one_line(option: str, text: str) -> None:
    try:
        message = ""
        converted(**{option: text})
    except ConfigError as error:
        message = str(error)

    assert message.isprintable()
    assert len(message) <= 500
