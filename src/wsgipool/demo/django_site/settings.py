"""The settings of Django."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from wsgipool.demo import POOL_SIZE
from wsgipool.demo.bookshop import DEMO, MAX_BODY

_url = urlsplit(os.environ["BOOKSHOP_DATABASE"])

DATABASES = {
    "default": {
        "ENGINE": f"wsgipool.django.{'sqlite3' if _url.scheme == 'sqlite' else 'mysql'}",
        "NAME": _url.path.removeprefix("/"),
        "HOST": _url.hostname,
        "PORT": _url.port,
        "USER": _url.username,
        "PASSWORD": _url.password,
        "OPTIONS": {"pool": {"max_size": POOL_SIZE}},
    }
}

ALLOWED_HOSTS = ["*"]
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY
# By default Django would mail errors to the administrators, and log none.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"error_log": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["error_log"], "level": "ERROR"}},
}
INSTALLED_APPS = ["wsgipool.demo.django_site"]
# Nobody logs in here, so nothing is gained by a forged request. A site with logins needs the CsrfViewMiddleware.
MIDDLEWARE = ["wsgipool.demo.django_site.views.Signature"]
ROOT_URLCONF = "wsgipool.demo.django_site.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.jinja2.Jinja2",
        "DIRS": [DEMO / "templates"],
        "OPTIONS": {"environment": "wsgipool.demo.django_site.views.environment"},
    }
]
USE_TZ = False
# A zone here would be that of the whole process: Apache's own log, too, would have its times.
TIME_ZONE = None
