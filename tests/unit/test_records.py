"""Records as plain values and back: restored values have the declared types, others are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from wsgipool import config
from wsgipool.doctor.databases import Session
from wsgipool.doctor.findings import Finding
from wsgipool.drivers.limits import Answer, ServerLimit
from wsgipool.drivers.occupancy import Occupancy, Sessions
from wsgipool.records import plain, restored


@pytest.mark.parametrize(
    "record",
    [
        config.load({"databases": {"shop": {"url": "mysql://shop:pw@db:3307/shop?charset=utf8mb4"}}}),
        config.load(
            {
                "runtime_dir": "/run/shop",
                "budget": {"connections": "auto", "hosts": 2},
                "databases": {
                    "my.shop": {"url": "sqlite:////srv/shop.db", "max_size": 3, "close_on_errors": [1290, "25006"]},
                    "other": {"url": "postgresql://db/other", "reset": "session", "timeout": 0.5},
                },
            }
        ),
        Session(
            Answer(
                [ServerLimit("server", "max_connections", 151)],
                Occupancy("shop", "wsgipool:shop", 41, None, [Sessions("django", "10.0.0.5", None, 29)]),
            ),
            *(None, "", True, "SERIALIZABLE", "CHAIN", False),
        ),
        Finding("tls-off", "what", "remedy"),
    ],
)
def test_a_restored_record_equals_the_original(record: object) -> None:
    kind = type(record)

    again = restored(kind, json.loads(json.dumps(plain(record))))

    assert plain(again) == plain(record)
    assert isinstance(again, kind)


@dataclass(frozen=True)
class Record:
    number: int
    place: Path | None = None
    reset: Literal["a", "b"] = "a"


GOOD: dict[str, Any] = {"number": 1, "place": None, "reset": "a"}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {**GOOD, "more": 1},
        {**GOOD, "number": "1"},
        {**GOOD, "number": True},
        {**GOOD, "number": 1.5},
        {**GOOD, "place": 3},
        {**GOOD, "reset": "c"},
        {**GOOD, "number": {"number": 1}},
    ],
)
def test_a_value_of_another_type_is_refused(answer: object) -> None:
    assert restored(Record, GOOD) == Record(1)
    with pytest.raises(TypeError):
        restored(Record, answer)


def test_a_value_unknown_to_json_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes cannot be part of a record"):
        plain(b"bytes")
