"""Configurations of the shapes that public projects use, with what a running httpd did.

The head of each file in `configurations` says in comments:

- GET URL SCRIPT: which script answers a request, or the status of another answer;
- ALSO SCRIPT: a script that answers no request;
- RUNS GROUP PROCESSES x THREADS: INTERPRETER...: a process group that ran Python then; `%{GLOBAL}` is the group of
  Apache's own children, and the name of the main interpreter;
- DECIDED BY THE REQUEST: other requests could lead to other groups or interpreters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from httpd.harness import eventually
from httpd.interpreters import HTTPD, MAIN_INTERPRETER, Group, Site, differences
from wsgipool.httpd import configuration

CONFIGURATIONS = sorted((Path(__file__).parent / "configurations").glob("*.conf"))


@dataclass(frozen=True)
class Recorded:
    """A configuration, the requests to it, and what ran."""

    site: Site
    answers: dict[str, str]
    groups: dict[str, Group]
    decided_by_request: bool


@pytest.fixture(params=CONFIGURATIONS, ids=lambda file: file.stem)
def recorded(request: pytest.FixtureRequest, folder: Path) -> Recorded:
    text = request.param.read_text()
    answers = dict(re.findall(r"^# GET (\S+) (\S+)$", text, re.M))
    others = re.findall(r"^# ALSO (\S+)$", text, re.M)
    site = Site(folder, text, {*others, *(answer for answer in answers.values() if not answer.isdigit())})
    groups = {
        "" if name == MAIN_INTERPRETER else name: Group(
            int(processes), int(threads), frozenset(site.expand(interpreters).split())
        )
        for name, processes, threads, interpreters in re.findall(r"^# RUNS (\S+) (\d+) x (\d+): (.+)$", text, re.M)
    }
    return Recorded(site, answers, groups, "\n# DECIDED BY THE REQUEST\n" in text)


def test_httpd_runs_python_where_the_file_says(recorded: Recorded) -> None:
    site = recorded.site
    with site.running():
        answers = {url: site.get(url) for url in recorded.answers}
        # Scripts that are imported at the start may need more time than the requests.
        eventually(lambda: site.groups().keys() >= recorded.groups.keys(), f"{recorded.groups}; {site.groups()} ran")
        groups = site.groups()

    assert answers == recorded.answers
    assert groups == recorded.groups


def test_the_groups_and_interpreters_are_read_as_httpd_runs_them(recorded: Recorded) -> None:
    known = configuration.read(HTTPD, recorded.site.options)

    assert differences(known, recorded.groups, decided_by_request=recorded.decided_by_request) == []
