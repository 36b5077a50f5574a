"""The addresses of the bookshop."""

from __future__ import annotations

from django.urls import path

from wsgipool.demo.django_site import views

urlpatterns = [
    path("", views.book_list, name="book_list"),
    path("books/<int:book_id>", views.book_page, name="book_page"),
    path("books/<int:book_id>/order", views.order_book, name="order_book"),
    path("orders", views.order_list, name="order_list"),
    path("orders/<int:order_id>", views.order_page, name="order_page"),
    path("slow", views.slow_report, name="slow_report"),
    path("fail", views.fail, name="fail"),
    path("pool", views.show_pool, name="show_pool"),
    path("pool/actions/<action>", views.request_action, name="request_action"),
    path("pool/mistakes/<mistake>", views.make_mistake, name="make_mistake"),
    path("static/<path:filename>", views.static, name="static"),
]

handler404 = views.not_found
handler500 = views.server_error
