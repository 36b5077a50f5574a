"""The application of wsgipool, for `INSTALLED_APPS`: it has system checks and a management command."""

from __future__ import annotations

import contextlib

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured


class WsgipoolConfig(AppConfig):
    """`"wsgipool.django"` in `INSTALLED_APPS`."""

    name = "wsgipool.django"
    label = "wsgipool"
    verbose_name = "wsgipool"

    def ready(self) -> None:
        from wsgipool.django import _settings, checks  # noqa: F401 - registers the checks

        # Also for code that uses `wsgipool` before Django's first query. The checks report what is wrong.
        with contextlib.suppress(ImproperlyConfigured):
            _settings.configure()
