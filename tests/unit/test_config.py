from __future__ import annotations

import copy
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from wsgipool import ConfigError
from wsgipool._queries import Query
from wsgipool.config import DEFAULT_TIMEOUT, AuthSettings, BudgetSettings, Settings, load, parse_url
from wsgipool.impersonation import as_user

URL = "mysql://shop@db.example.com/orders"


def write(folder: Path, text: str) -> Path:
    path = folder / "wsgipool.toml"
    path.write_text(text, encoding="utf-8")
    return path


def settings(**table: object) -> Settings:
    return load({"databases": {"orders": {"url": URL, **table}}})


def complaint(source: Any) -> str:
    """Return the one error that the settings make, which has a single line."""
    with pytest.raises(ConfigError) as caught:
        load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_table_needs_a_url_only(tmp_path: Path) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\n')

    read = load(path)

    assert read.origin == str(path)
    assert read.runtime_dir is None
    orders = read.databases["orders"]
    assert (orders.name, orders.max_size, orders.timeout) == ("orders", "threads", DEFAULT_TIMEOUT)
    assert orders.origin == f"{path}: databases.orders"


def test_a_file_has_many_databases_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        runtime_dir = "/run/shop"
        [databases.orders]
        url = "{URL}"
        max_size = "threads/2"
        timeout = 2.5
        [databases.archive]
        url = "sqlite:////var/lib/archive.db"
        max_size = 3
        timeout = 0
        """,
    )

    read = load(str(path))

    assert list(read.databases) == ["orders", "archive"]
    assert read.runtime_dir == Path("/run/shop")
    assert (read.databases["orders"].max_size, read.databases["orders"].timeout) == ("threads/2", 2.5)
    assert (read.databases["archive"].max_size, read.databases["archive"].timeout) == (3, 0.0)


def test_the_same_file_makes_equal_settings(tmp_path: Path) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}?charset=utf8mb4"\n')

    assert load(path) == load(path)


@pytest.mark.parametrize("change", [{"url": URL + "2"}, {"max_size": 2}, {"timeout": 1}])
def test_another_setting_makes_unequal_settings(change: dict[str, object]) -> None:
    assert settings(**change) != settings()


def test_a_mapping_is_left_as_it_was() -> None:
    given = {"databases": {"orders": {"url": URL, "max_size": 2}}}
    before = copy.deepcopy(given)

    load(given)

    assert given == before


def test_a_missing_file_says_where_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"

    assert complaint(path) == f"{path} does not exist; `wsgipool apache show wsgipool.toml` prints one to start from"


def test_a_file_that_cannot_be_read_says_by_whom(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.chmod(0)

    message = as_user("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name, lambda: complaint(path))

    assert message.startswith(f"{path} cannot be read by user id ")
    assert "Permission denied; give the Apache user's group read access" in message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert complaint(tmp_path) == f"{tmp_path} is a folder; name a regular file"


def test_a_file_that_is_not_toml_says_in_which_line(tmp_path: Path) -> None:
    path = write(tmp_path, "[databases.orders]\nurl = mysql://shop:s3cret@db/orders\n")

    message = complaint(path)

    assert message.startswith(f"{path} is not valid TOML: ")
    assert "line 2" in message
    assert "s3cret" not in message


def test_a_budget_alone_is_enough_for_a_program_that_gives_its_databases(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"
    path.write_text("[budget]\nconnections = 20\n")

    settings = load(path)

    assert settings.budget == BudgetSettings(20)
    assert settings.databases == {}


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"
    path.write_bytes(b'[databases.orders]\nurl = "mysql://shop:s3cret\xfc@db/orders"\n')

    message = complaint(path)

    assert message.startswith(f"{path} is not UTF-8 (byte ")
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("document", "place", "remedy"),
    [
        ("", "", "no database; add a table [databases.NAME] with a url"),
        ("[databases]", "", "no database; add a table [databases.NAME] with a url"),
        ("[databses.orders]", "databses", "is not a setting; did you mean databases?"),
        ("colour = 1", "colour", "is not a setting; known are: auth, budget, databases, install, runtime_dir"),
        ("databases = 3", "databases", "must be a table, [databases...], is a number"),
        ('[databases]\norders = "mysql://"', "databases.orders", "must be a table, [databases.orders], is a string"),
        ("[databases.orders]", "databases.orders", 'no url; write url = "mysql://user@host/database"'),
        ("[databases.orders]\nurl = 3", "databases.orders.url", "must be a string in quotes, is a number"),
        ("[databases.orders]\nurl = []", "databases.orders.url", "must be a string in quotes, is an array"),
        ("[databases.orders]\nurl = {}", "databases.orders.url", "must be a string in quotes, is a table"),
        ("[databases.orders]\nmaxsize = 3", "databases.orders.maxsize", "is not a setting; did you mean max_size?"),
        (
            "[databases.orders]\npassword = 's3cret'",
            "databases.orders.password",
            "is not a setting; the password stands in the url, or in the file that password_file names",
        ),
        ('runtime_dir = "run/shop"', "runtime_dir", "must be an absolute path, is 'run/shop'"),
        ("runtime_dir = false", "runtime_dir", "must be a string in quotes, is a boolean"),
        ("[budget]", "budget.connections", "must be a number from 1 to 16384, less than the max_connections"),
        (
            "[budget]\nconnections = 0",
            "budget.connections",
            """less than the max_connections of the server, or "auto", is 0""",
        ),
        ("[budget]\nconnections = 'all'", "budget.connections", 'or "auto"'),
        ("[budget]\nconnections = 9\nhosts = 2", "budget.hosts", 'hosts goes with connections = "auto"'),
        ("[budget]\nconnections = 'auto'\nhosts = 0", "budget.hosts", "must be a whole number from 1 to 1000000, is 0"),
        ("[budget]\nconection = 9", "budget.conection", "is not a setting; did you mean connections?"),
    ],
)
def test_a_wrong_document_names_the_file_the_key_and_what_would_do(
    tmp_path: Path, document: str, place: str, remedy: str
) -> None:
    if document.startswith(("runtime_dir", "[budget]")):
        document += f'\n[databases.orders]\nurl = "{URL}"'
    path = write(tmp_path, document)

    message = complaint(path)

    assert message.startswith(f"{path}: {place}")
    assert remedy in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("table", "budget"),
    [
        ("connections = 140", BudgetSettings(140)),
        ('connections = "auto"', BudgetSettings("auto", hosts=1, reserve=5)),
        ('connections = "auto"\nhosts = 3\nreserve = 0', BudgetSettings("auto", hosts=3, reserve=0)),
    ],
)
def test_a_budget_is_a_number_or_asked_for(tmp_path: Path, table: str, budget: BudgetSettings) -> None:
    path = write(tmp_path, f'[budget]\n{table}\n[databases.orders]\nurl = "{URL}"\n')

    assert load(path).budget == budget


def test_without_the_table_there_is_no_budget(tmp_path: Path) -> None:
    assert load(write(tmp_path, f'[databases.orders]\nurl = "{URL}"\n')).budget is None


@pytest.mark.parametrize("value", ["0", "-1", "2.0", "true", '"thread"', '"threads/0"', '"threads/ 2"', '"4"', "[]"])
def test_a_wrong_max_size_names_the_key_the_value_and_what_would_do(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\nmax_size = {value}\n')

    message = complaint(path)

    assert message.startswith(f"{path}: databases.orders.max_size must be ")
    assert (
        'a whole number from 1 to 1000000, "threads" for as many as the process has threads, or "threads/2"' in message
    )


@pytest.mark.parametrize("value", ["true", '"30"', "[]"])
def test_a_timeout_that_is_no_number_names_the_key_and_what_would_do(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\ntimeout = {value}\n')

    message = complaint(path)

    assert message.startswith(f"{path}: databases.orders.timeout must be a number of seconds from 0 to 86400, is ")


@pytest.mark.parametrize("value", ["-0.1", "86401", "inf", "nan"])
def test_a_timeout_out_of_range_names_the_key_the_value_and_the_range(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\ntimeout = {value}\n')

    assert complaint(path) == (
        f"{path}: databases.orders.timeout must be a number of seconds from 0 to 86400, is {value}"
    )


# --- passwords -------------------------------------------------------------------------------------------------------


def test_a_password_file_stands_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "orders.password").write_text("s3cret/#@\n")
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\npassword_file = "orders.password"\n')

    assert load(path).databases["orders"].url.password == "s3cret/#@"


def test_a_password_file_may_have_an_absolute_path(tmp_path: Path) -> None:
    file = tmp_path / "orders.password"
    file.write_text(" s3cret \r\n")

    assert settings(password_file=str(file)).databases["orders"].url.password == " s3cret "


def test_a_password_from_a_file_leaves_the_rest_of_the_url_alone(tmp_path: Path) -> None:
    file = tmp_path / "orders.password"
    file.write_text("s3cret")
    url = "mysql://shop@db:3307/orders?charset=utf8mb4"

    read = settings(url=url, password_file=str(file)).databases["orders"].url

    assert read == parse_url(url.replace("shop@", "shop:s3cret@"))


def test_a_password_file_that_is_not_there_names_the_key_and_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\npassword_file = "orders.password"\n')

    message = complaint(path)

    assert message.startswith(f"{path}: databases.orders.password_file: {tmp_path / 'orders.password'} cannot be read")
    assert message.endswith("No such file or directory")


def test_a_password_file_that_is_not_utf8_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "orders.password"
    file.write_bytes(b"s3cret\xfc")

    message = complaint({"databases": {"orders": {"url": URL, "password_file": str(file)}}})

    assert message.endswith("is not UTF-8 (byte 7); save it as UTF-8")


def test_a_password_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_PASSWORD", "s3cret")

    assert settings(password_env="ORDERS_PASSWORD").databases["orders"].url.password == "s3cret"


def test_a_variable_that_is_not_set_names_the_key_the_variable_and_where_to_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ORDERS_PASSWORD", raising=False)

    message = complaint({"databases": {"orders": {"url": URL, "password_env": "ORDERS_PASSWORD"}}})

    assert "databases.orders.password_env: the environment has no variable ORDERS_PASSWORD" in message
    assert "/etc/apache2/envvars" in message


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("max_waiting = -1", "databases.orders.max_waiting must be a whole number from 0 to 1000000, is -1"),
        ("max_waiting = true", "databases.orders.max_waiting must be a whole number from 0 to 1000000, is true"),
        ("max_connecting = 0", "databases.orders.max_connecting must be a whole number from 1 to 1000000, is 0"),
        ("min_size = -1", "databases.orders.min_size must be a whole number from 0 to 1000000, is -1"),
        ("max_size = 2\nmin_size = 3", "databases.orders.min_size = 3 is more than max_size, which is 2"),
        ("debug = 1", "databases.orders.debug must be true or false, is 1"),
        ('max_connecting = "2"', "databases.orders.max_connecting must be a whole number from 1 to 1000000, is '2'"),
        ('reset = "all"', 'databases.orders.reset must be "rollback", "session" or "none", is \'all\''),
        ("reset = false", 'databases.orders.reset must be "rollback", "session" or "none", is false'),
        ('pipeline = "no"', "databases.orders.pipeline must be true or false, is 'no'"),
        ("pipeline = 0", "databases.orders.pipeline must be true or false, is 0"),
        ("close_returns = 1", "databases.orders.close_returns must be true or false, is 1"),
        ("check_after = -1", "databases.orders.check_after must be a number of seconds from 0 to 86400, is -1"),
    ],
)
def test_a_setting_out_of_range_names_the_key_the_value_and_what_would_do(
    setting: str, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\n{setting}\n')

    assert complaint(path) == f"{path}: {reason}"


def test_the_settings_of_the_pool_are_read(tmp_path: Path) -> None:
    settings = 'max_waiting = 7\nmax_connecting = 3\nreset = "session"\npipeline = false\ncheck_after = 5\n'
    settings += "min_size = 2\nclose_returns = true\ndebug = true\nlog_slow = 0.5\n"
    path = write(tmp_path, f'[databases.orders]\nurl = "{URL}"\n{settings}')

    orders = load(path).databases["orders"]

    assert (orders.max_waiting, orders.max_connecting, orders.check_after) == (7, 3, 5.0)
    assert (orders.reset, orders.pipeline) == ("session", False)
    assert (orders.min_size, orders.close_returns, orders.debug, orders.log_slow) == (2, True, True, 0.5)


@pytest.mark.parametrize(
    ("table", "places"),
    [
        ({"password_file": "/f", "password_env": "V"}, "password_file and in password_env"),
        ({"url": "mysql://shop:s3cret@db/orders", "password_file": "/f"}, "url and in password_file"),
        ({"url": "mysql://shop:s3cret@db/orders", "password_env": "V"}, "url and in password_env"),
    ],
)
def test_a_password_in_two_places_is_refused(table: dict[str, str], places: str) -> None:
    message = complaint({"databases": {"orders": {"url": URL, **table}}})

    assert message.endswith(f"databases.orders: the password stands in {places}; keep one")


def test_a_password_from_a_file_is_in_no_repr(tmp_path: Path) -> None:
    file = tmp_path / "orders.password"
    file.write_text("s3cret")

    assert "s3cret" not in repr(settings(password_file=str(file)))


# --- [auth] ----------------------------------------------------------------------------------------------------------


def auth_document(lines: str) -> str:
    return f'[databases.orders]\nurl = "{URL}"\n[auth]\ndatabase = "orders"\n{lines}\n'


def auth_of(tmp_path: Path, lines: str) -> AuthSettings:
    auth = load(write(tmp_path, auth_document(lines))).auth
    assert auth is not None
    return auth


@pytest.mark.parametrize(
    ("query", "text", "names"),
    [
        ("SELECT p FROM u WHERE n = %s", "SELECT p FROM u WHERE n = %s", ("user",)),
        ("SELECT p FROM u WHERE n = %(user)s", "SELECT p FROM u WHERE n = %s", ("user",)),
        (
            "SELECT p FROM u WHERE n = %(user)s OR m = %(user)s",
            "SELECT p FROM u WHERE n = %s OR m = %s",
            ("user", "user"),
        ),
        ("SELECT p FROM u WHERE n = %s AND k LIKE 'a%%'", "SELECT p FROM u WHERE n = %s AND k LIKE 'a%%'", ("user",)),
    ],
)
def test_a_query_has_one_parameter_in_either_notation(
    tmp_path: Path, query: str, text: str, names: tuple[str, ...]
) -> None:
    assert auth_of(tmp_path, f'password_query = "{query}"').password_query == Query(text, names)


def test_the_query_of_a_digest_has_two_parameters(tmp_path: Path) -> None:
    by_name = auth_of(tmp_path, 'realm_query = "SELECT h FROM u WHERE r = %(realm)s AND n = %(user)s"').realm_query
    in_order = auth_of(tmp_path, 'realm_query = "SELECT h FROM u WHERE n = %s AND r = %s"').realm_query

    assert by_name is not None
    assert by_name.arguments({"user": "ann", "realm": "club"}) == ("club", "ann")
    assert in_order is not None
    assert in_order.arguments({"user": "ann", "realm": "club"}) == ("ann", "club")


def test_sqlite_gets_its_own_notation(tmp_path: Path) -> None:
    query = auth_of(tmp_path, "password_query = \"SELECT p FROM u WHERE n = %s AND k LIKE 'a%%'\"").password_query

    assert query is not None
    assert query.for_sqlite() == "SELECT p FROM u WHERE n = ? AND k LIKE 'a%'"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "auth has no query; write password_query, realm_query or group_query"),
        ("query = 'SELECT %s'", "auth.query is not a setting; write password_query"),
        ("password_query = 3", "auth.password_query must be a string in quotes, is a number"),
        ("password_query = ''", "auth.password_query must be a query in quotes with one parameter, %s or %(user)s"),
        ("password_query = 'SELECT 1'", "auth.password_query must be a query in quotes with one parameter"),
        ("password_query = 'SELECT %s, %s'", "auth.password_query must be a query in quotes with one parameter"),
        ("password_query = 'SELECT %(name)s'", "auth.password_query must be a query in quotes with one parameter"),
        ("password_query = 'SELECT %(user)s, %s'", "auth.password_query must be a query in quotes with one parameter"),
        ("password_query = 'SELECT ?'", "auth.password_query must be a query in quotes with one parameter"),
        ("password_query = 'SELECT %d'", "has a % that begins no parameter; write %% for a percent sign"),
        ("password_query = 'SELECT % s'", "has a % that begins no parameter; write %% for a percent sign"),
        ("password_query = \"SELECT '%s'\"", "has a parameter or a % in quotes; write %s without quotes"),
        ("password_query = \"SELECT '%(user)s'\"", "has a parameter or a % in quotes; write %s without quotes"),
        ("password_query = \"SELECT %s LIKE 'a%'\"", "has a parameter or a % in quotes"),
        ("realm_query = 'SELECT %s'", "with 2 parameters, %s and %s or %(user)s and %(realm)s"),
        ("realm_query = 'SELECT %(user)s'", "with 2 parameters, %s and %s or %(user)s and %(realm)s"),
        ("group_query = 'SELECT %s'\ncache_seconds = -1", "auth.cache_seconds must be a number of seconds from 0"),
    ],
)
def test_a_wrong_query_names_its_key_and_what_to_write(tmp_path: Path, lines: str, reason: str) -> None:
    message = complaint(write(tmp_path, auth_document(lines)))

    assert message.startswith(f"{tmp_path}/")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "auth.database must be the NAME of a table [databases.NAME]"),
        ('database = "order"', "auth.database: there is no [databases.order]; did you mean orders?"),
        ("database = 3", "auth.database must be a string in quotes, is a number"),
    ],
)
def test_the_users_are_in_a_database_of_the_settings(tmp_path: Path, line: str, reason: str) -> None:
    document = auth_document("password_query = 'SELECT %s'").replace('database = "orders"', line)

    assert reason in complaint(write(tmp_path, document))
