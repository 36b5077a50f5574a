"""Loaded by httpd: a Django project of one file, with one query a request or five.

settings.json beside it has the connection arguments and says which pool is used.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import path

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
ARGUMENTS: dict[str, Any] = SETTINGS["arguments"]
POOLS: dict[str, dict[str, object]] = {
    "none": {"ENGINE": "django.db.backends.mysql"},
    "none, ssl_disabled": {"ENGINE": "django.db.backends.mysql", "OPTIONS": {"ssl_disabled": True}},
    "usual": {"ENGINE": "django.db.backends.mysql", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
    "wsgipool": {"ENGINE": "wsgipool.django.mysql"},
}

if SETTINGS["pool"] != "wsgipool":
    import pymysql

    pymysql.install_as_MySQLdb()

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "HOST": ARGUMENTS["host"],
            "PORT": ARGUMENTS["port"],
            "USER": ARGUMENTS["user"],
            "PASSWORD": ARGUMENTS["password"],
            "NAME": ARGUMENTS["database"],
            **POOLS[SETTINGS["pool"]],
        }
    },
    ROOT_URLCONF=__name__,
)
application = get_wsgi_application()


class Item(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=100)

    class Meta:
        app_label = "shop"
        db_table = "item"


def lookups(_: HttpRequest, count: int) -> HttpResponse:
    names = [Item.objects.get(pk=random.randrange(SETTINGS["items"])).name for _ in range(count)]
    return HttpResponse("\n".join(names), content_type="text/plain")


urlpatterns = [path("lookups/<int:count>", lookups)]
