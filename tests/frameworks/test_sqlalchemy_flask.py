"""Flask-SQLAlchemy with nothing but a URL, in Flask's test client and in httpd."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from frameworks.sqlalchemy_engines import pool_of
from httpd.harness import give_to_apache, running_site

_numbers = itertools.count(1)

SCRIPT = """
import time
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

application = Flask(__name__)
application.config["SQLALCHEMY_DATABASE_URI"] = "mysql+wsgipool://?name=shop"
db = SQLAlchemy(application)

@application.get("/sell")
def sell():
    session = db.session.scalar(text("SELECT CONNECTION_ID()"))
    db.session.execute(text("UPDATE books SET stock = stock + 1 WHERE id = 1"))
    time.sleep(0.01)
    db.session.commit()
    return {"session": session}
"""


def test_a_url_is_all_in_flasks_test_client(mysql_url: str) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = mysql_url.replace("+mysqlclient", "+wsgipool")
    db = SQLAlchemy(app)

    @app.get("/")
    def count() -> dict[str, int]:
        return {"books": db.session.scalar(text("SELECT COUNT(*) FROM books")) or 0}

    client = app.test_client()
    assert [client.get("/").json for _ in range(20)] == [{"books": 2}] * 20

    with app.app_context():
        stats = pool_of(db.engine).stats()
        assert (stats.checkouts, stats.opened, stats.in_use) == (20, 1, 0)
        db.engine.dispose()


@pytest.mark.mariadb_only("the kind of server does not matter to it")
@pytest.mark.parametrize(("mode", "threads"), [("prefork", 1), ("worker", 4)])
def test_requests_in_httpd_use_one_connection_after_the_other(
    mode: str, threads: int, mysql_url: str, servers_folder: Path
) -> None:
    folder = servers_folder / f"flask{next(_numbers)}"
    folder.mkdir(mode=0o755)
    script = folder / "flask.wsgi"
    script.write_text(SCRIPT)
    give_to_apache(script)
    url = mysql_url.replace("+mysqlclient", "")

    with running_site(folder, mode, {"shop": url}, processes=1, threads=threads, script=script) as site:
        answers = site.load(lambda _: "/sell", requests=60, clients=8)

    assert len({answer["session"] for answer in answers}) <= threads
