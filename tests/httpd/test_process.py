"""The description of a process from inside, compared with httpd's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from httpd.harness import APP, eventually, running_site
from httpd.loads import CREDENTIALS, Shape
from httpd.place import ThisMachine
from wsgipool.wording import counted


@pytest.mark.parametrize(
    ("mode", "mpm", "group", "threads"),
    [
        ("prefork", "prefork", "", 1),
        ("worker", "worker", "", 5),
        ("event", "event", "", 5),
        ("daemon", "event", "wsgipool", 5),
    ],
)
def test_a_process_knows_its_mpm_its_threads_and_the_number_of_processes(
    mode: str, mpm: str, group: str, threads: int, shop: str, folder: Path
) -> None:
    with running_site(folder, mode, {"shop": shop}, processes=3, threads=threads) as site:
        known = site.get("/server")

    assert known["mpm"] == mpm
    assert known["process_group"] == group
    assert known["application_group"] == ""
    assert known["threads"] == threads
    assert known["max_processes"] == 3


@pytest.mark.parametrize("mode", ["worker", "daemon"])
def test_a_process_can_read_the_defines_of_the_configuration(mode: str, shop: str, folder: Path) -> None:
    with running_site(folder, mode, {"shop": shop}, processes=1, threads=2) as site:
        known = site.get("/server")
        log = site.log()

    assert known["define"] == str(folder / "wsgipool.toml")
    assert known["no_define"] is None
    assert "is not defined" not in log


# --- what it says of that --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["prefork", "worker", "daemon"])
def test_settings_beside_the_script_are_logged_once_per_process(mode: str, shop: str, folder: Path) -> None:
    """No Define names the settings, so they are looked up when the script has been loaded."""
    threads = 1 if mode == "prefork" else 3
    script, unnamed = folder / "beside.wsgi", folder / "unnamed.conf"
    script.write_text(
        f"import sys\n\nsys.path.insert(0, {str(folder / APP.name)!r})\nfrom site_under_test import application\n"
    )
    unnamed.write_text("UnDefine WSGIPOOL_CONFIG\n")
    options = ("--include-file", str(unnamed))
    with running_site(
        folder, mode, {"shop": shop}, processes=1, threads=threads, script=script, express_options=options
    ) as site:
        eventually(lambda: "settings from" in site.log(), "the line at the start")
        for _ in range(5):
            site.get("/hold")
        log = site.log()

    size = f"{counted(threads, 'thread')} a process, at most 1 process"
    assert log.count(f"{size}; settings from {folder}/wsgipool.toml") == 1
    assert log.count(f"pool 'shop': up to {counted(threads, 'connection')} a process to mysql://") == 1


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape("worker", 1, 2, further_interpreters=("another",)), id="two sub-interpreters"),
        pytest.param(Shape("daemon", 1, 2, asks_for_password=True), id="daemon and embedded auth"),
    ],
)
def test_an_interpreter_without_preload_logs_its_settings_too(shape: Shape, shop: str, folder: Path) -> None:
    with shape.running(ThisMachine(folder), shop, {"connections": 9}) as site:
        for path in shape.paths:
            assert site.request(path, headers={"Authorization": CREDENTIALS}).status_code == 200
        log = site.log()

    assert log.count("2 threads a process, at most 1 process; settings from") == len(shape.interpreters)
    assert log.count(f"settings from {folder}/wsgipool.toml") == 2
    assert log.count("pool 'shop': within a budget of 9 connections of this host to mysql://") == 2
