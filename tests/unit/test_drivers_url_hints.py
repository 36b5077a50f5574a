"""Schemes and options of other programs: accepted with the same meaning, or refused with the right name."""

from __future__ import annotations

import pytest

from wsgipool import ConfigError, config
from wsgipool.drivers import family, for_database, server_of
from wsgipool.drivers.mysqlclient import MySQLClientDriver
from wsgipool.drivers.psycopg import PsycopgDriver
from wsgipool.drivers.pymysql import PyMySQLDriver


def settings_of(url: str) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url}}}).databases["shop"]


def refusal_of(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        for_database(settings_of(url))
    message = str(caught.value)
    assert "\n" not in message
    assert "databases.shop.url: " in message
    return message


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [
        *((each, PyMySQLDriver) for each in ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql")),
        *(
            (each, MySQLClientDriver)
            for each in ("mysql+mysqlclient", "mysql+mysqldb", "mariadb+mysqlclient", "mariadb+mysqldb")
        ),
        *((each, PsycopgDriver) for each in ("postgresql", "postgresql+psycopg", "postgres")),
    ],
)
def test_a_scheme_of_sqlalchemy_or_django_names_its_driver(scheme: str, driver: type) -> None:
    settings = settings_of(f"{scheme}://shop:pw@db/orders")

    assert isinstance(for_database(settings), driver)
    assert server_of(settings.url) == ("postgresql://db:5432" if driver is PsycopgDriver else "mysql://db:3306")
    assert family(settings.url) in ("mysql", "postgresql")


@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [
        ("mysql+mysqlconnector", "write mysql://"),
        ("mysql+aiomysql", "write mysql://"),
        ("mysql2", "write mysql://"),
        ("mysqlx", "the port of the classic protocol"),
        ("postgresql+psycopg2", "write postgresql://"),
        ("postgresql+asyncpg", "write postgresql://"),
        ("postgis", "write postgresql://"),
        ("sqlite3", "write sqlite:////path/to/file.db"),
        ("django.db.backends.mysql", "write mysql://"),
        ("mongodb", "known are: "),
    ],
)
def test_the_error_for_an_unknown_scheme_names_the_right_one(scheme: str, remedy: str) -> None:
    message = refusal_of(f"{scheme}://shop:pw@db/orders")

    assert f"no driver for {scheme}://; " in message
    assert remedy in message


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("ssl=true", "write ssl_mode=REQUIRED"),
        ("tls=skip-verify", "write ssl_mode=REQUIRED"),
        ("useSSL=true", "write ssl_mode=REQUIRED"),
        ("requireSSL=true", "write ssl_mode=REQUIRED"),
        ("verifyServerCertificate=true", "write ssl_verify_identity"),
        ("ssl_check_hostname=false", "write ssl_verify_identity"),
        ("ssl-verify-server-cert=true", "write ssl_verify_identity"),
        ("sslaccept=strict", "write ssl_verify_identity"),
        ("sslrootcert=/ca.pem", "write ssl_ca=/path/ca.pem"),
        ("sslcert=/c.pem", "write ssl_cert="),
        ("sslpassword=geheim", "write ssl_key_password"),
        ("characterEncoding=UTF-8", "write charset=utf8mb4"),
        ("client_encoding=utf8", "write charset=utf8mb4"),
        ("connectTimeout=3000", "write connect_timeout, in seconds; JDBC's is in milliseconds"),
        ("socketTimeout=3000", "write read_timeout and write_timeout, in seconds"),
        ("serverTimezone=UTC", "init_command=SET%20time_zone"),
        ("useUnicode=true", "leave it out"),
        ("autoReconnect=true", "leave it out"),
        ("passwd=geheim", "before the '@'"),
        ("password=geheim", "before the '@'"),
        ("user=shop", "before the '@'"),
        ("host=db", "before the '?'"),
        ("port=3306", "after the host"),
        ("db=orders", "after the host"),
        ("local_infile=1", "LOAD DATA LOCAL is refused"),
        ("client_flag=2", "leave it out, or make the driver in code, by wsgipool.drivers.driver()"),
        ("conv=x", "configure="),
        ("cursorclass=DictCursor", "configure="),
        ("use_pure=true", "configure="),
        ("auth_plugin=mysql_native_password", "leave it out"),
        ("pool_size=5", "max_size"),
        ("pool_recycle=3600", "max_lifetime"),
        ("unixSocket=/run/x", "write unix_socket="),
        ("application_name=shop", "write program_name"),
        ("schema=public", "write the database after the host"),
        ("allowPublicKeyRetrieval=true", "leave TLS on"),
        ("charst=utf8mb4", "did you mean charset?"),
    ],
)
def test_the_error_for_another_programs_option_names_the_right_one(option: str, remedy: str, scheme: str) -> None:
    message = refusal_of(f"{scheme}://shop:pw@db/orders?{option}")

    assert f"{option.partition('=')[0]} is not an option of {scheme}://; " in message
    assert remedy in message
    assert "geheim" not in message


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("ssl=true", "write sslmode=require"),
        ("ssl_mode=REQUIRED", "write sslmode=require"),
        ("ssl-mode=REQUIRED", "write sslmode=require"),
        ("ssl_ca=/ca.pem", "write sslrootcert="),
        ("ssl_key_password=geheim", "write sslpassword"),
        ("charset=utf8", "write client_encoding"),
        ("unix_socket=/run/x", "write host=/run/postgresql"),
        ("currentSchema=shop", "write options=-csearch_path%3DNAME"),
        ("statement_timeout=5", "write options=-cstatement_timeout"),
        ("pgbouncer=true", "write prepare_threshold=none"),
        ("connection_limit=5", "max_size"),
        ("password=geheim", "before the '@'"),
        ("dbname=orders", "after the host"),
        ("ApplicationName=shop", "write application_name"),
    ],
)
def test_the_error_for_another_programs_option_names_libpqs(option: str, remedy: str) -> None:
    message = refusal_of(f"postgresql://shop:pw@db/orders?{option}")

    assert f"{option.partition('=')[0]} is not an option of postgresql://; " in message
    assert remedy in message
    assert "geheim" not in message


@pytest.mark.parametrize("options", ["ssl-mode=REQUIRED&ssl_mode=REQUIRED", "sslmode=require&ssl-mode=REQUIRED"])
def test_an_option_in_two_spellings_is_refused(options: str) -> None:
    assert "the option ssl_mode is given twice, as " in refusal_of(f"mysql://shop@db/orders?{options}")


def test_dashes_may_stand_for_underscores() -> None:
    driver = for_database(settings_of("mysql+mysqlclient://shop@db/orders?connect-timeout=3&ssl-disabled=true"))

    assert isinstance(driver, MySQLClientDriver)
