"""What a process learns from httpd and mod_wsgi, checked against what httpd was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from httpd.harness import running_site


@pytest.mark.parametrize(
    ("mode", "mpm", "group", "threads"),
    [
        ("prefork", "prefork", "", 1),
        ("worker", "worker", "", 5),
        ("event", "event", "", 5),
        ("daemon", "event", "wsgipool", 5),
    ],
)
def test_a_process_knows_its_mpm_its_threads_and_how_many_it_may_be(
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
