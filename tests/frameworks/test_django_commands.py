"""The system checks and the management command of `"wsgipool.django"` in INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from frameworks.django_site import entry, run_site
from unit.fakes import run_python

ENGINE = "wsgipool.django.mysql"
NOWHERE = entry("mysql://shop:secret@127.0.0.1:1/orders", ENGINE)
STOCK = {**NOWHERE, "ENGINE": "django.db.backends.mysql"}


def checked(databases: dict[str, Any], *, deploy: bool = False, **settings: Any) -> list[str]:
    """Return the messages of `manage.py check` that are ours."""
    program = f"""
from frameworks import django_site
django_site.set_up({{"INSTALLED_APPS": ["wsgipool.django"], "DATABASES": {databases!r}, **{settings!r}}})
from django.core.checks import run_checks
for message in run_checks(tags=["wsgipool"], include_deployment_checks={deploy}):
    print(message.id, message.msg)
"""
    return run_python(program).splitlines()


def test_a_site_with_a_budget_has_no_messages() -> None:
    assert checked({"default": NOWHERE}, deploy=True, WSGIPOOL={"budget": {"connections": 5}}) == []


def test_what_is_wrong_or_needless_is_reported() -> None:
    databases = {
        "default": {**NOWHERE, "CONN_HEALTH_CHECKS": True},
        "old": {**NOWHERE, "CONN_MAX_AGE": 60},
        "typo": {**NOWHERE, "OPTIONS": {"pool": {"max_sise": 3}}},
        "beside": STOCK,
        "elsewhere": {**STOCK, "HOST": "db.example.com"},
    }

    messages = checked(databases, deploy=True)

    assert [message.split()[0] for message in messages] == [
        *("wsgipool.W001", "wsgipool.E001", "wsgipool.E001", "wsgipool.W002", "wsgipool.W003"),
    ]
    for message, text in zip(messages, ["default", "CONN_MAX_AGE", "max_sise", "beside", "budget"], strict=True):
        assert text in message


def test_an_option_that_the_driver_refuses_is_reported() -> None:
    databases = {
        "default": {**NOWHERE, "OPTIONS": {"ssl_mode": "REQUIRED"}},
        "port": {**NOWHERE, "PORT": "33o6"},
    }

    messages = checked(databases)

    assert [message.split()[0] for message in messages] == ["wsgipool.E001"] * 2
    assert "DATABASES['default']: pymysql: ssl_mode is not an argument" in messages[0]
    assert "DATABASES['port']['PORT'] must be a number" in messages[1]


def test_an_entry_without_a_pool_needs_no_advice_about_pools() -> None:
    unpooled = {**NOWHERE, "OPTIONS": {"pool": False}, "CONN_HEALTH_CHECKS": True, "CONN_MAX_AGE": None}
    file = {"ENGINE": "wsgipool.django.sqlite3", "NAME": "books.db"}

    assert checked({"default": unpooled, "books": file}, deploy=True) == []


def test_a_wrong_setting_of_wsgipool_is_reported() -> None:
    messages = checked({"default": NOWHERE}, WSGIPOOL={"budgets": {}})

    assert len(messages) == 1
    assert messages[0].startswith("wsgipool.E001 WSGIPOOL: ")
    assert "budgets is not a setting" in messages[0]


def test_the_plan_covers_djangos_databases(mysql_url: str) -> None:
    databases = {"default": {**entry(mysql_url, ENGINE), "OPTIONS": {"pool": {"max_size": 3}}}, "other": NOWHERE}
    program = """
from django.core.management import call_command
try:
    call_command("wsgipool", "plan", "--mpm", "worker", "--processes", "4", "--threads", "5")
except SystemExit as end:
    print("status", end.code)
"""
    output = run_site(program, databases, INSTALLED_APPS=["wsgipool.django"])

    assert "DATABASES in Django's settings" in output
    assert "default" in output
    assert "max_connections of mysql://127.0.0.1" in output
    assert "other does not answer" in output or "(other)" in output
    assert "secret" not in output
    assert output.splitlines()[-1] == "status 1"


def test_the_plan_connects_with_djangos_tls_options() -> None:
    files = {"ca": "/etc/ca.pem", "cert": "/etc/cert.pem", "key": "/etc/key.pem"}
    databases = {
        "default": {**NOWHERE, "OPTIONS": {"ssl": files}},
        "plain": {**NOWHERE, "OPTIONS": {"ssl_disabled": True}},
    }
    program = """
from wsgipool.django._planning import DjangoSettings
for database in DjangoSettings().load().databases.values():
    print(sorted(database.url.options.items()))
"""
    output = run_site(program, databases, INSTALLED_APPS=["wsgipool.django"]).splitlines()

    assert output == [
        str([("ssl_ca", "/etc/ca.pem"), ("ssl_cert", "/etc/cert.pem"), ("ssl_key", "/etc/key.pem")]),
        str([("ssl_disabled", "true")]),
    ]


def test_the_status_shows_pool_and_budget(mysql_url: str) -> None:
    databases = {
        "default": {**entry(mysql_url, ENGINE), "OPTIONS": {"pool": {"max_size": 3}}},
        "other": NOWHERE,
        "memory": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    }
    program = """
from django.core.management import CommandError, call_command
try:
    call_command("wsgipool", "status")
except CommandError as error:
    print(error)
"""
    output = run_site(
        program, databases, INSTALLED_APPS=["wsgipool.django"], WSGIPOOL={"budget": {"connections": 5}}
    ).splitlines()

    assert output[0].startswith("default: pool 'default', up to 3 connections a process; ")
    assert " of 5 connections of this host's budget to mysql://127.0.0.1" in output[0]
    assert output[1].startswith("other: cannot connect pool 'other'")
    assert output[2:] == ["memory: not in a pool of wsgipool", "not all databases can be reached"]
