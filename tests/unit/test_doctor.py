"""The doctor's codes, and problems that a real host cannot show: SELinux. The rest is in tests/httpd."""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
from pathlib import Path

import pytest

from wsgipool import ConfigError, config
from wsgipool.doctor import databases, host
from wsgipool.doctor.accounts import may_become, obstacle
from wsgipool.doctor.databases import is_this_host
from wsgipool.doctor.findings import CODES, Finding, Severity, worst_first
from wsgipool.httpd.configuration import Configuration, Mpm
from wsgipool.httpd.dump import Dump
from wsgipool.httpd.users import account
from wsgipool.impersonation import as_user
from wsgipool.plan.planning import ConnectionLimit, Database, Situation
from wsgipool.plan.sizing import ProcessGroup

ROOT = Path(__file__).parents[2]


def test_each_code_has_a_paragraph_under_its_severity() -> None:
    heading, documented = "", {}
    for level, title in re.findall(r"^(##+) (.+)$", (ROOT / "docs" / "reference" / "doctor.md").read_text(), re.M):
        if level == "##":
            heading = title.upper().rstrip("S")
        else:
            documented[title] = Severity[heading]

    assert documented == CODES


def test_each_code_has_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_doctor*.py"))

    assert [code for code in CODES if f'"{code}"' not in tests] == []


def test_the_worst_comes_first_and_each_once() -> None:
    note, warning = Finding("socket-rotation", "a", "b"), Finding("tls-off", "a", "b")
    errors = [Finding("settings-invalid", "a", "b"), Finding("settings-invalid", "c", "b")]

    assert worst_first([note, errors[0], warning, errors[1], errors[0]]) == [*errors, warning, note]


def test_an_automatic_budget_must_leave_others_what_they_have_now() -> None:
    limit = ConnectionLimit("max_connections of db", 60, 5, ("shop",), "error 1040", others=29)
    site = Situation([ProcessGroup("", "worker", 4, 8, 8)], [Database("shop", "threads", budget=55)], [limit])

    (finding,) = databases.examine_limits(site)

    assert finding.code == "budget-over-limit"
    assert finding.what.endswith("but max_connections of db is 60, 29 of them used by others now.")
    assert finding.remedy == 'Set [budget] connections = 31, or "auto" with reserve = 29.'


# --- SELinux ---------------------------------------------------------------------------------------------------------

SITE = Configuration(
    program="httpd",
    live=None,
    mpm=Mpm("event", 1, 1, 1),
    groups=[],
    interpreters=[],
    daemons={},
    defines={},
    drop_in=None,
    sites=[],
    notes=[],
)
DUMP = Dump("httpd", directives=[], modules={}, defines={}, user="nobody", pid_file=None, warnings=[])


def selinux(folder: Path, enforce: str, **booleans: str) -> None:
    (folder / "booleans").mkdir()
    (folder / "enforce").write_text(enforce)
    for name, value in booleans.items():
        (folder / "booleans" / name).write_text(value)


@pytest.mark.parametrize(
    ("enforce", "boolean", "url", "expected"),
    [
        ("1", "0 0", "mysql://shop@db/shop", ["selinux-denies-network"]),
        ("1", "0 0", "postgresql://shop@db/shop", ["selinux-denies-network"]),
        ("1", "1 1", "mysql://shop@db/shop", []),
        ("0", "0 0", "mysql://shop@db/shop", []),
        ("1", "0 0", "mysql://shop@/shop?unix_socket=/run/mysqld.sock", []),
        ("1", "0 0", "postgresql://shop@/shop?host=/run/postgresql", []),
        ("1", "0 0", "sqlite:////srv/shop.db", []),
    ],
)
def test_selinux_may_deny_connections_by_network(
    enforce: str, boolean: str, url: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selinux(tmp_path, enforce, httpd_can_network_connect_db=boolean)
    monkeypatch.setattr(host, "SELINUX", tmp_path)
    settings = config.load({"databases": {"shop": {"url": url}}})

    assert [finding.code for finding in host.examine(DUMP, SITE, settings)] == expected


def test_a_host_without_selinux_denies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SELINUX", tmp_path / "not there")
    settings = config.load({"databases": {"shop": {"url": "mysql://shop@db/shop"}}})

    assert list(host.examine(DUMP, SITE, settings)) == []


# --- hosts and users -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False), ("no.such.invalid", False)]
)
def test_a_host_is_this_one_if_its_address_is_local(name: str, expected: bool) -> None:
    assert is_this_host(name) is expected


IPV6, IPV4 = (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))
ELSEWHERE = (socket.AF_INET, ("192.0.2.1", 0))


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [([IPV6, IPV4], True), ([IPV6], True), ([ELSEWHERE, IPV4], True), ([IPV6, ELSEWHERE], True), ([ELSEWHERE], False)],
)
def test_a_host_without_ipv6_recognises_its_own_names(
    addresses: list[tuple[int, tuple[str | int, ...]]], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_ipv6(family: int, *_: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return make_socket(family)

    make_socket = socket.socket
    found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "socket", without_ipv6)

    assert is_this_host("db") is expected


def test_an_own_address_that_is_no_loopback_is_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket can be bound to 0.0.0.0, which is not a loopback address.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]  # noqa: S104 - nothing listens
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert is_this_host("db")


def test_the_obstacle_is_the_first_folder_that_a_user_may_not_enter(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "file").touch()
    for folder in [tmp_path, *tmp_path.parents]:
        if not folder.stat().st_mode & 0o001:
            outermost = folder

    assert obstacle(inner / "file") == ""
    assert as_user("nobody", lambda: obstacle(inner / "file")) == str(outermost)


def test_a_failing_question_raises_its_error() -> None:
    def question() -> str:
        raise ValueError("the reason")

    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with pytest.raises(ConfigError, match=r"^ValueError: the reason$"):
        as_user("nobody", question)


def test_httpd_names_users_by_name_or_number() -> None:
    me = pwd.getpwuid(os.geteuid())

    assert account(me.pw_name) == account(f"#{me.pw_uid}") == me
    # A configuration without a User has #-1.
    assert account("#-1") is account("nobody-here") is account("#") is None
    assert may_become("#-1") is False


def test_every_user_can_answer_for_itself() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name

    assert may_become(me)
    assert as_user(me, lambda: "answer") == "answer"
