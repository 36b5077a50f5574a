"""The models of the tests' Django sites. Django must be set up before the import."""

from __future__ import annotations

from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=100)

    class Meta:
        app_label = "shop"


class Order(models.Model):
    book = models.ForeignKey(Book, on_delete=models.PROTECT)
    number = models.IntegerField(unique=True)
    at = models.DateTimeField(auto_now_add=True)
    opens = models.TimeField(null=True)

    class Meta:
        app_label = "shop"
