"""Advice for databases that do not answer: each kind of error has its remedy."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from wsgipool import config
from wsgipool.doctor.advice import advice


class FakeError(Exception):
    """An error of a driver, with a code of MySQL's or a SQLSTATE."""

    def __init__(self, *arguments: object, sqlstate: str | None = None) -> None:
        super().__init__(*arguments)
        self.sqlstate = sqlstate


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


REFUSED = caused(FakeError(2003, "Can't connect"), os_error(errno.ECONNREFUSED))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FakeError(1040, "Too many connections"), "connections are used up"),
        (FakeError(1203, "max_user_connections"), "connections of this account are used up"),
        (FakeError(1226, "max_user_connections"), "connections of this account are used up"),
        (FakeError("x", sqlstate="53300"), "connections are used up"),
        (FakeError("FATAL:  sorry, too many clients already"), "connections are used up"),
        (FakeError("FATAL:  remaining connection slots are reserved for"), "connections are used up"),
        (FakeError(1045, "Access denied"), "Check user and password"),
        (FakeError('FATAL:  password authentication failed for user "x"'), "Check user and password"),
        (FakeError(1044, "Access denied"), "the right to use this database"),
        (FakeError(1049, "Unknown database"), "Create the database, or correct its name"),
        (FakeError('FATAL:  database "x" does not exist'), "Create the database, or correct its name"),
        (FakeError(1130, "Host is not allowed"), "create an account for it"),
        (FakeError('FATAL:  no pg_hba.conf entry for host "::1"'), "create an account for it"),
        (FakeError("x", sqlstate="57P03"), "is starting"),
        (REFUSED, "Nothing listens at db:3307"),
        (FakeError(2003, "Can't connect to MySQL server on 'db' ([Errno 111] Connection refused)"), "Nothing listens"),
        (FakeError(2002, "Can't connect to server on 'db' (111)"), "Nothing listens at db:3307"),
        (FakeError(2002, "Can't connect to server on 'db' (113)"), "no route from this host to db:3307"),
        (FakeError(2002, "Can't connect to server on 'db' (115)"), "db:3307 cannot be reached"),
        (
            caused(FakeError(2003, ""), socket.gaierror(-2, "Name or service not known")),
            "The name db cannot be resolved",
        ),
        (FakeError("failed to resolve host 'db': Name or service not known"), "The name db cannot be resolved"),
        (FakeError(2005, "Unknown MySQL server host 'db' (-2)"), "The name db cannot be resolved"),
        (caused(FakeError(2003, ""), TimeoutError("timed out")), "did not answer in time"),
        (FakeError("no connection within 5 s"), "did not answer in time"),
        (FakeError("connection timeout expired"), "did not answer in time"),
        (caused(FakeError(2003, ""), os_error(errno.ENETUNREACH)), "no route from this host to db:3307"),
        (FakeError(2013, "Lost connection to MySQL server during query"), "was closed: look into"),
        (caused(FakeError(2003, ""), ssl.SSLCertVerificationError("hostname mismatch")), "certificate"),
        (FakeError("something else"), "db:3307 is the right database server"),
    ],
)
def test_each_kind_of_error_has_its_remedy(error: Exception, expected: str) -> None:
    assert expected in advice(error, config.parse_url("mysql://shop@db:3307/shop"))


def test_advice_to_start_the_server_only_if_nothing_listens() -> None:
    url = config.parse_url("mysql://shop@db:3307/shop")

    assert "start the server" in advice(REFUSED, url)
    for code in (1040, 1045, 1049, 1130, 1226):
        assert "start the server" not in advice(FakeError(code, ""), url)


def test_a_socket_is_named_by_its_path() -> None:
    url = config.parse_url("mysql://shop@/shop?unix_socket=/run/mysqld.sock")

    for number, expected in ((errno.ENOENT, "no socket at /run/mysqld.sock"), (errno.EACCES, "may not use the socket")):
        assert expected in advice(caused(FakeError(2002, ""), os_error(number)), url)
