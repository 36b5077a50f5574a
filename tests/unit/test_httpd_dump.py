"""Parsing of httpd's dump of its configuration; tests/httpd has real dumps."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from wsgipool.httpd import dump

CONFIGURATION = """\
# In file: /etc/apache2/apache2.conf
#  11:
ServerLimit 4
#  12:
ServerLimit 5
# In file: /etc/apache2/sites-enabled/shop.conf
#   1:
<VirtualHost *:80>
  #   2:
  ServerName shop.example
  #   3:
  <If "%{HTTP_HOST} > 'a'">
    #   4:
    WSGIProcessGroup shop
  </If>
</VirtualHost>
#   9:
WSGIRestrictEmbedded On
"""
SERVER = """\
ServerRoot: "/etc/apache2"
Define: DUMP_RUN_CFG
Define: WSGIPOOL_DAEMON
Define: WSGIPOOL_CONFIG=/etc/a b=c.toml
PidFile: "/run/apache2.pid"
User: name="www-data" id=33
Loaded Modules:
 core_module (static)
 mpm_event_module (shared)
"""
MESSAGES = """\
[Sun Nov 22 04:48:39.478738 2026] [so:debug] [pid 9677:tid 9677] mod_so.c(266): AH01575: loaded module \
mpm_event_module from /usr/lib/mod_mpm_event.so
AH00318: WARNING: MaxRequestWorkers of 448 would require 7 servers and would exceed ServerLimit of 2, decreasing to 128.
AH00558: apache2: Could not reliably determine the server's fully qualified domain name
Syntax OK
"""


@pytest.fixture
def read() -> dump.Dump:
    return dump.parse(CONFIGURATION, SERVER, MESSAGES)


def test_directives_have_their_file_and_line(read: dump.Dump) -> None:
    assert [(directive.text, directive.origin) for directive in read.named("serverlimit")] == [
        ("4", "/etc/apache2/apache2.conf:11"),
        ("5", "/etc/apache2/apache2.conf:12"),
    ]


def test_directives_have_the_sections_around_them(read: dump.Dump) -> None:
    (inner,) = read.named("WSGIProcessGroup")
    (outer,) = read.named("WSGIRestrictEmbedded")

    assert [(section.name, section.arguments) for section in inner.sections] == [
        ("VirtualHost", ("*:80",)),
        ("If", ("%{HTTP_HOST} > 'a'",)),
    ]
    assert outer.sections == ()


def test_modules_and_defines_are_known(read: dump.Dump) -> None:
    assert read.modules == {"core": None, "mpm_event": Path("/usr/lib/mod_mpm_event.so")}
    assert read.defines["WSGIPOOL_DAEMON"] == ""
    assert read.defines["WSGIPOOL_CONFIG"] == "/etc/a b=c.toml"


def test_the_user_and_the_pid_file_are_known(read: dump.Dump) -> None:
    assert (read.user, read.pid_file) == ("www-data", Path("/run/apache2.pid"))


@pytest.mark.parametrize(
    ("said", "user"),
    [
        ('name="www-data" id=33 not_used', "www-data"),  # as another user than root sees a configuration for root
        ('name="#-1" id=4294967295 not_used', getpass.getuser()),  # nothing is configured
    ],
)
def test_the_configured_user_is_known_to_every_user(said: str, user: str) -> None:
    read = dump.parse("", SERVER.replace('name="www-data" id=33', said))

    assert read.user == user


def test_the_warnings_of_httpd_are_known(read: dump.Dump) -> None:
    (warning,) = read.warnings
    assert warning.startswith("AH00318: WARNING: MaxRequestWorkers of 448 would require 7 servers")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a  b\tc", ["a", "b", "c"]),
        ('"a b" c', ["a b", "c"]),
        ("'a \"b\"' c", ['a "b"', "c"]),
        (r'"a \"b\" \\ \n"', [r'a "b" \ \n']),
        (r"a\\b", [r"a\b"]),
        ('a"b c"', ['a"b', 'c"']),  # a quote within a word is nothing special
        ('"not closed', ["not closed"]),
        ('""', [""]),
    ],
)
def test_arguments_are_split_as_httpd_does(text: str, expected: list[str]) -> None:
    assert list(dump.words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop", {}),
        ("shop processes=2 threads=3", {"processes": "2", "threads": "3"}),
        ('shop display-name="%{GROUP} threads=9" threads=3', {"display-name": "%{GROUP} threads=9", "threads": "3"}),
        ("/ /srv/a.wsgi process-group='a b'", {"process-group": "a b"}),
        ("shop python-path=", {"python-path": ""}),
    ],
)
def test_options_of_mod_wsgi_have_names(text: str, expected: dict[str, str]) -> None:
    assert dump.options(text) == expected
