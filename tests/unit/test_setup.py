"""scripts/setup refuses a typo before it installs anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "abc", "PORT=abc is wrong; it must be a number such as 8080"),
        ("PORT", "8080 ", "PORT=8080  is wrong; it must be a number such as 8080"),
        ("APP", "rails", "APP=rails is wrong; it must be one of plain, flask, django"),
        ("MPM", "winnt", "MPM=winnt is wrong; it must be one of prefork, worker, event, daemon"),
        ("DB", "oracle", "DB=oracle is wrong; it must be one of mariadb, sqlite"),
    ],
)
def test_a_wrong_variable_of_make_demo_is_refused_at_once(name: str, value: str, expected: str) -> None:
    # A PYTHON that is not there ends the set-up, too, should it go on.
    environment = {**os.environ, name: value, "PYTHON": "/nonexistent"}
    outcome = subprocess.run([SETUP, "demo"], env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr == f"setup: {expected}\n"
