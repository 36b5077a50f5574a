"""Loaded by httpd: a Django site in one file, on the database "shop" of wsgipool.toml."""

import os
import sys
import time
import types
from dataclasses import asdict

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="shop_urls",
    TIME_ZONE="UTC",
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "wsgipool.django.mysql", "OPTIONS": {"pool": {"name": "shop"}}}},
)
django.setup()

from django.db import OperationalError, connection, models, transaction  # noqa: E402 - Django is set up above
from django.http import JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

import wsgipool  # noqa: E402


class Note(models.Model):
    text = models.CharField(max_length=100)

    class Meta:
        app_label = "shop"
        db_table = "notes"


def hold(request):
    try:
        with transaction.atomic():
            start = time.monotonic()
            Note.objects.create(text="held")
            with connection.cursor() as cursor:
                cursor.execute("SELECT CONNECTION_ID(), SLEEP(0.01)")
                (session, _) = cursor.fetchone()
    except OperationalError as error:
        if isinstance(error.__cause__, wsgipool.PoolError):
            return JsonResponse({"error": str(error)}, status=503)
        raise
    return JsonResponse({"pid": os.getpid(), "connection": session, "start": start, "end": time.monotonic()})


def stream(request):
    return StreamingHttpResponse(f"{note.text}\n" for note in Note.objects.order_by("pk").iterator(chunk_size=10))


def fail(request):
    with transaction.atomic():
        Note.objects.create(text="failed")
        raise KeyError("on purpose")


def state(request):
    failed = Note.objects.filter(text="failed").count()
    connection.close()
    return JsonResponse({"pid": os.getpid(), "failed": failed, **asdict(wsgipool.pool("default").stats())})


urls = sys.modules["shop_urls"] = types.ModuleType("shop_urls")
urls.urlpatterns = [path("hold", hold), path("stream", stream), path("fail", fail), path("state", state)]

application = get_wsgi_application()
