"""Commands in messages can be typed as they are printed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsgipool.cli import main
from wsgipool.cli.typed import typed

SCRIPT = Path(sys.executable).with_name("wsgipool")


@pytest.mark.usefixtures("_on_path")
def test_a_command_on_path_needs_no_folder() -> None:
    assert typed("run `wsgipool plan`") == "run `wsgipool plan`"


def test_a_link_on_path_leads_to_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wsgipool").symlink_to(SCRIPT)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert typed("run `wsgipool plan`") == "run `wsgipool plan`"


def test_a_command_that_is_not_on_path_has_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")

    assert typed("run `wsgipool plan`, then `wsgipool doctor`") == f"run `{SCRIPT} plan`, then `{SCRIPT} doctor`"


def test_another_installation_on_path_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wsgipool").write_text("#!/bin/sh\n")
    (tmp_path / "wsgipool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert typed("run `wsgipool plan`") == f"run `{SCRIPT} plan`"


@pytest.mark.usefixtures("_on_path")
def test_sudo_has_another_path() -> None:
    assert typed("run `sudo wsgipool status`") == f"run `sudo {SCRIPT} status`"


def test_without_a_script_python_runs_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my python"))

    assert typed("run `wsgipool plan`") == f"run `'{tmp_path}/my python' -m wsgipool plan`"


def test_other_words_stay() -> None:
    text = "`wsgipool.toml` of wsgipool is read by `manage.py wsgipool plan`; `wsgipool` is a name"

    assert typed(text) == text


def test_the_command_of_an_error_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    error = CliRunner().invoke(main, ["status", "--config", str(tmp_path / "none.toml")]).stderr
    command = error.split("`")[1]

    outcome = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)

    assert "[databases.orders]" in outcome.stdout
