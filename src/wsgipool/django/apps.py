"""The application of wsgipool, for `INSTALLED_APPS`: it has system checks and a management command."""

from __future__ import annotations

from django.apps import AppConfig


class WsgipoolConfig(AppConfig):
    """`"wsgipool.django"` in `INSTALLED_APPS`."""

    name = "wsgipool.django"
    label = "wsgipool"
    verbose_name = "wsgipool"

    def ready(self) -> None:
        from wsgipool.django import checks  # noqa: F401 - registers them
