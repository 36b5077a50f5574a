"""The bookshop's tables, which `wsgipool.demo.schema` creates for all its sites."""

from __future__ import annotations

from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.CharField(max_length=200)
    year = models.IntegerField()
    price = models.IntegerField()
    stock = models.IntegerField()
    blurb = models.TextField()

    class Meta:
        db_table = "books"
        managed = False


class Order(models.Model):
    customer = models.CharField(max_length=100)
    placed_at = models.DateTimeField()
    total = models.IntegerField()

    class Meta:
        db_table = "orders"
        managed = False


class OrderLine(models.Model):
    pk = models.CompositePrimaryKey("order_id", "book_id")
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    book = models.ForeignKey(Book, models.CASCADE)
    quantity = models.IntegerField()
    price = models.IntegerField()

    class Meta:
        db_table = "order_lines"
        managed = False
