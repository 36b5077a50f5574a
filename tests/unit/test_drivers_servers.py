"""Which databases are on one server, and so share its budget."""

from __future__ import annotations

import pytest

from wsgipool.config import parse_url
from wsgipool.drivers import server_of


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("mysql://shop:s3cret@db.example.com/orders", "mysql://db.example.com:3306"),
        ("mysql+mysqlclient://reader@DB.example.com:3306/archive?charset=utf8mb4", "mysql://db.example.com:3306"),
        ("mysql://shop@db.example.com:3307/orders", "mysql://db.example.com:3307"),
        ("mysql://shop@/orders?unix_socket=/run/mysqld/mysqld.sock", "mysql:///run/mysqld/mysqld.sock"),
        ("mysql://shop@/orders?read_default_file=/etc/shop.cnf", "mysql:///etc/shop.cnf"),
        ("postgresql://shop@db.example.com/orders", "postgresql://db.example.com:5432"),
        ("postgresql+psycopg://shop@/orders?host=/run/postgresql", "postgresql:///run/postgresql"),
        ("sqlite:////var/lib/shop.db", None),
    ],
)
def test_a_server_is_named_by_its_address(url: str, server: str | None) -> None:
    assert server_of(parse_url(url)) == server
