"""Django sites for the tests: each is a new Python process, because Django's settings belong to a process."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import urlsplit

from unit.fakes import run_python

PREAMBLE = """
from pathlib import PosixPath
from frameworks import django_site
django_site.set_up({settings!r})
import threading
import wsgipool
from django.core.signals import request_finished, request_started
from django.db import connection, connections, transaction
from frameworks.django_shop import Book, Order

def request(view):
    request_started.send(None)
    try:
        return view()
    finally:
        request_finished.send(None)

def on_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]

def create_tables():
    with connection.schema_editor() as editor:
        editor.create_model(Book)
        editor.create_model(Order)
    connection.close()
"""


def run_site(program: str, databases: dict[str, Any], **settings: Any) -> str:
    """Run a program in a new process with these Django settings; return its output."""
    return run_python(PREAMBLE.format(settings={"DATABASES": databases, **settings}) + program)


def set_up(given: dict[str, Any]) -> None:
    """Set Django up with these settings. Warnings are errors."""
    import django
    from django.conf import settings

    warnings.simplefilter("error")
    settings.configure(USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", **given)
    django.setup()


def entry(url: str, engine: str, **more: Any) -> dict[str, Any]:
    """Return the entry of DATABASES for a database URL."""
    parts = urlsplit(url)
    address = {
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "PASSWORD": parts.password,
        "NAME": parts.path[1:],
    }
    return {"ENGINE": engine, **address, **more}
