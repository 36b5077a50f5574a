"""A connection is not used again after its server reported that it can do no work."""

from __future__ import annotations

import contextlib
from typing import Any

import MySQLdb
import MySQLdb.cursors
import psycopg
import pytest

from drivers.shops import Connect, MakePool, MariaDBShop, PostgreSQLShop, Shop, driver_of, run, value
from unit.fakes import PATIENCE
from wsgipool.drivers import BaseDriver

SHOPS: dict[str, type[Shop]] = {"mariadb": MariaDBShop, "postgresql": PostgreSQLShop}


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Shop:
    server = request.param
    return SHOPS[server](request.getfixturevalue(server), request.getfixturevalue(f"{server}_shop"))


only_mariadb = pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
only_postgresql = pytest.mark.parametrize("shop", ["postgresql"], indirect=True)


def signal(number: int, state: str = "HY000") -> str:
    return f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}"


def body(state: str) -> str:
    return f"$$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"


def raise_(state: str) -> str:
    return f"DO {body(state)}"


FAILING = [
    *(("mariadb", signal(number)) for number in (1047, 1053, 1290, 1836, 3032, 3100, 3101)),
    ("mariadb", signal(4444, "08S01")),
    *(("postgresql", raise_(state)) for state in ("57P01", "57P02", "57P03", "25006", "08000", "08P01")),
]


@pytest.mark.parametrize(("shop", "statement"), FAILING, indirect=["shop"])
def test_a_connection_of_a_server_that_can_do_no_work_is_closed_after_a_caught_error(
    statement: str, shop: Shop, make_pool: MakePool
) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as connection:
        session = shop.session_of(connection)
        with pytest.raises(shop.dbapi.Error):
            run(connection, statement)
        connection.rollback()
        run(connection, "SELECT 1")

    with pool.connection() as connection:
        assert shop.session_of(connection) != session


@pytest.mark.parametrize(
    ("shop", "statement"),
    [("mariadb", signal(1644)), ("mariadb", signal(1064, "42000")), ("postgresql", raise_("22012"))],
    indirect=["shop"],
)
def test_other_errors_leave_a_connection_in_use(statement: str, shop: Shop, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pool.connection(readonly=True) as connection:
        session = shop.session_of(connection)
        with pytest.raises(shop.dbapi.Error):
            run(connection, statement)

    with pool.connection() as connection:
        assert shop.session_of(connection) == session


@pytest.mark.parametrize(
    ("shop", "statement", "code"),
    [
        ("mariadb", signal(1644), 1644),
        ("mariadb", signal(4444, "22012"), "22012"),
        ("postgresql", raise_("22012"), "22012"),
    ],
    indirect=["shop"],
)
def test_the_settings_can_name_more_codes(statement: str, code: int | str, shop: Shop) -> None:
    driver = driver_of(shop.url)
    assert isinstance(driver, BaseDriver)
    connection = driver.connect(PATIENCE)
    driver.close_on_errors = {code}
    with pytest.raises(shop.dbapi.Error):
        run(connection, statement)

    with pytest.raises(shop.dbapi.Error):
        driver.check_in(connection, "rollback")

    driver.close(connection)


@only_mariadb
@pytest.mark.parametrize("how", ["a second result", "an unbuffered row", "a commit of one's own"])
def test_mysqlclient_notices_an_unusable_server_at_every_command(how: str, shop: Shop, connect: Connect) -> None:
    run(connect("autocommit=on"), f"CREATE FUNCTION fail() RETURNS INT BEGIN {signal(1290)}; RETURN 1; END")
    connection = connect()

    def act() -> Any:
        cursor = connection.cursor(MySQLdb.cursors.SSCursor)
        if how == "a second result":
            cursor.execute(f"SELECT 1; {signal(1290)}")
            cursor.nextset()
        elif how == "an unbuffered row":
            cursor.execute("SELECT IF(seq < 3000, seq, fail()) FROM seq_1_to_3000")
            cursor.fetchall()
        else:
            connection.query(signal(1290))

    with pytest.raises(MySQLdb.Error, match="1290"):
        act()
    with contextlib.suppress(MySQLdb.Error):
        value(connection, "SELECT 1")

    with pytest.raises(MySQLdb.Error, match="1290"):
        shop.driver.check_in(connection, "rollback")


@only_postgresql
@pytest.mark.parametrize("how", ["copy", "stream", "pipeline", "executemany", "commit"])
def test_psycopg_notices_an_unusable_server_at_every_command(how: str, shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.execute(f"CREATE FUNCTION fail() RETURNS INT LANGUAGE plpgsql AS {body('57P03')}")
    connection.execute(
        "CREATE FUNCTION at_commit() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN PERFORM fail(); RETURN NULL; END'"
    )
    connection.execute("CREATE TEMPORARY TABLE orders (id INT)")
    connection.execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION at_commit()"
    )
    connection.commit()

    def act() -> None:
        if how == "copy":
            with connection.cursor().copy("COPY (SELECT fail()) TO STDOUT") as rows:
                list(rows)
        elif how == "stream":
            list(connection.cursor().stream("SELECT fail()"))
        elif how == "pipeline":
            with connection.pipeline():
                connection.execute("SELECT fail()")
        elif how == "executemany":
            connection.cursor().executemany("SELECT fail() + %s", [(1,), (2,)])
        else:
            connection.execute("INSERT INTO orders VALUES (1)")
            connection.commit()

    with pytest.raises(psycopg.Error):
        act()
    connection.rollback()
    connection.execute("SELECT 1")

    with pytest.raises(psycopg.errors.CannotConnectNow):
        shop.driver.check_in(connection, "rollback")
