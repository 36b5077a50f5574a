"""The status page and `wsgipool status`, of real httpd processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from httpd.harness import ExpressSite, eventually, overlaps, running_site
from wsgipool.httpd.express import PACKAGE, apache_user


@pytest.mark.parametrize("mode", ["prefork", "worker", "daemon"])
def test_the_locks_of_all_processes_are_on_the_page_and_the_command_line(mode: str, folder: Path, shop: str) -> None:
    # The drop-in, which includes the page by a Define, was read before; see test_debian.py.
    options = ("--include-file", str(PACKAGE / "apache" / "status.conf"))
    with running_site(
        folder,
        mode,
        {"shop": shop},
        processes=2,
        threads=1 if mode == "prefork" else 4,
        budget={"connections": 20},  # which names the folder, too
        express_options=options,
    ) as site:
        answers = site.load(lambda _: "/place-order?seconds=0.01", requests=60, clients=8)
        processes = {answer["pid"] for answer in answers}

        def counts() -> dict[str, Any] | None:
            document = page(site)
            turns = {lock["name"]: lock["turns"] for lock in document["locks"]}
            return document if turns == {"stock": 60, "till": 60, "catalogue": 60} else None

        document = eventually(counts, "all turns to be published")
        assert document is not None
        assert processes <= {process["pid"] for process in document["processes"]}
        assert document["pid"] in site_processes(site, processes)
        assert re.search(r">stock \(host\)</th><td [^>]*>60</td>", site.request("/wsgipool-status").text)
        command_line = json.loads(run_as_apache("status", "--config", str(folder / "wsgipool.toml"), "--json"))
        assert {lock["name"]: lock["turns"] for lock in command_line["locks"]} == {
            lock["name"]: lock["turns"] for lock in document["locks"]
        }

    assert not overlaps(answers), "two requests at once in what the host may do once"
    assert "is not published" not in site.log()


def test_a_foreign_name_in_the_host_header_gets_no_numbers(folder: Path, shop: str) -> None:
    named = folder / "named.conf"
    named.write_text(f"ServerName shop.example\nUseCanonicalName Off\nInclude {PACKAGE}/apache/status.conf\n")
    options = ("--include-file", str(named))
    with running_site(folder, "daemon", {"shop": shop}, processes=1, threads=2, express_options=options) as site:
        statuses = {
            host: site.request("/wsgipool-status?format=json", headers={"Host": host}).status_code
            for host in ("localhost", "shop.example", "127.0.0.1:80", "[::1]", "evil.example", "localhost.evil.example")
        }
        post = site.request("/wsgipool-status", "POST", data="x")

    assert statuses == {
        "localhost": 200, "shop.example": 200, "127.0.0.1:80": 200, "[::1]": 200, "evil.example": 421,
        "localhost.evil.example": 421,
    }  # fmt: skip
    assert (post.status_code, post.headers["Allow"]) == (405, "GET, HEAD")


def test_without_the_define_there_is_no_page(folder: Path, shop: str) -> None:
    with running_site(folder, "worker", {"shop": shop}, processes=1, threads=2) as site:
        assert "wsgipool on" not in site.request("/wsgipool-status").text


def page(site: ExpressSite) -> dict[str, Any]:
    document: dict[str, Any] = site.get("/wsgipool-status?json")
    return document


def site_processes(site: ExpressSite, known: set[int]) -> set[int]:
    return known | {page(site)["pid"] for _ in range(10)}


def run_as_apache(*arguments: str) -> str:
    user = (
        {"user": apache_user().pw_uid, "group": apache_user().pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    outcome = subprocess.run(
        [sys.executable, "-m", "wsgipool", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        **user,  # type: ignore[call-overload]
    )
    text: str = outcome.stdout
    return text
