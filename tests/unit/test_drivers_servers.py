"""Databases on one server share its budget, and a plan adds them up."""

from __future__ import annotations

import pytest

from wsgipool import config
from wsgipool.cli.site_settings import limits_of, site_databases
from wsgipool.config import parse_url
from wsgipool.drivers import server_of
from wsgipool.drivers.limits import Answer, ServerLimit, has_limit
from wsgipool.drivers.occupancy import Occupancy, Sessions


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("mysql://shop:s3cret@db.example.com/orders", "mysql://db.example.com:3306"),
        ("mysql+mysqlclient://reader@DB.example.com:3306/archive?charset=utf8mb4", "mysql://db.example.com:3306"),
        ("mysql://shop@db.example.com:3307/orders", "mysql://db.example.com:3307"),
        ("mysql://shop@/orders?unix_socket=/run/mysqld/mysqld.sock", "mysql:///run/mysqld/mysqld.sock"),
        ("mysql://shop@localhost/orders?unix_socket=/run/mysqld/mysqld.sock", "mysql:///run/mysqld/mysqld.sock"),
        ("mariadb://shop@db.example.com/orders", "mysql://db.example.com:3306"),
        ("mysql+mysqlclient://shop@localhost/orders", "mysql://localhost:3306"),
        ("mysql://shop@/orders?read_default_file=/nowhere/shop.cnf", "mysql://read_default_file=/nowhere/shop.cnf"),
        ("postgresql://shop@db.example.com/orders", "postgresql://db.example.com:5432"),
        ("postgresql+psycopg://shop@/orders?host=/run/postgresql", "postgresql:///run/postgresql:5432"),
        ("postgresql://shop@:5433/orders?host=/run/postgresql", "postgresql:///run/postgresql:5433"),
        ("postgresql://shop@/orders?hostaddr=10.0.0.1", "postgresql://10.0.0.1:5432"),
        ("postgres://shop@db.example.com/orders?hostaddr=10.0.0.1", "postgresql://10.0.0.1:5432"),
        ("postgresql://shop@/orders?service=nowhere", "postgresql://service=nowhere"),
        ("sqlite:////var/lib/shop.db", None),
    ],
)
def test_a_server_is_named_by_its_address(url: str, server: str | None) -> None:
    assert server_of(parse_url(url)) == server
    assert has_limit(parse_url(url)) is (server is not None)


@pytest.mark.parametrize(
    ("url", "same", "another"),
    [
        (
            "postgresql://shop@/orders?hostaddr=10.0.0.1",
            "postgresql://shop@10.0.0.1/archive",
            "postgresql://shop@/orders?hostaddr=10.0.0.2",
        ),
        (
            "postgresql://shop@/orders?service=x",
            "postgresql+psycopg://shop@/archive?service=x",
            "postgresql://shop@/orders?service=y",
        ),
        (
            "mysql://shop@/orders?read_default_file=/etc/my.cnf",
            "mysql://shop@/archive?read_default_file=/etc/my.cnf",
            "mysql://shop@/orders?read_default_file=/etc/other.cnf",
        ),
        (
            "mysql://shop@localhost/orders?unix_socket=/run/x.sock",
            "mysql://shop@/archive?unix_socket=/run/x.sock",
            "mysql://shop@localhost/orders?unix_socket=/run/y.sock",
        ),
    ],
)
def test_a_plan_adds_up_the_databases_that_share_a_budget(url: str, same: str, another: str) -> None:
    urls = {"orders": url, "archive": same, "other": another}
    settings = config.load({"databases": {name: {"url": each} for name, each in urls.items()}})
    answers = {name: Answer([ServerLimit("server", "max_connections", 151)]) for name in urls}

    found = limits_of(site_databases([(settings, None)]), answers, 5)

    assert [(limit.name.rpartition(" of ")[2], limit.databases) for limit in found] == [
        (server_of(settings.databases["orders"].url), ("orders", "archive")),
        (server_of(settings.databases["other"].url), ("other",)),
    ]
    assert server_of(settings.databases["archive"].url) == server_of(settings.databases["orders"].url)


def test_others_count_against_the_limit_of_the_server_only() -> None:
    urls = {"orders": "mysql://shop:x@db/orders", "archive": "mysql://reader:x@db/archive"}
    settings = config.load({"databases": {name: {"url": each} for name, each in urls.items()}})
    shown = {
        "orders": [Sessions("shop", "web", "wsgipool:orders", 3)],
        "archive": [Sessions("reader", "web", "wsgipool:archive", 2)],
    }
    limits = [ServerLimit("server", "max_connections", 151), ServerLimit("user", "max_user_connections", 20)]
    answers = {
        name: Answer(limits, Occupancy(str(each.url.user), f"wsgipool:{name}", 12, 20, shown[name]))
        for name, each in settings.databases.items()
    }

    found = limits_of(site_databases([(settings, None)]), answers, 5)

    assert [(limit.connections, limit.others) for limit in found] == [(151, 12 - 3 - 2), (20, 0), (20, 0)]
