"""The sessions of database servers: how many, which are the site's, and whose the others are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drivers.shops import driver_of, new_name, run, settings_of, value
from servers.postgresql import PostgreSQL
from unit.fakes import eventually
from wsgipool.demo.mariadb import LocalServer
from wsgipool.drivers.limits import ask
from wsgipool.drivers.occupancy import Occupancy, Occupants, Sessions, of_site

HIDDEN = "accounts that this one may not see"


def asked(url: str) -> Occupancy:
    occupancy = ask(settings_of(url), timeout=10).occupancy
    assert occupancy is not None
    return occupancy


def seen(occupants: Occupants) -> tuple[int, int, dict[str, int]]:
    """Return the site's sessions, those that count only because of their account, and the others."""
    return occupants.ours, occupants.by_account, {each.who: each.count for each in occupants.others}


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """The connections that are open until the end of the test."""
    with ExitStack() as connections:
        yield connections


def hold(held: ExitStack, url: str, count: int) -> None:
    """Open connections as a pool does."""
    driver = driver_of(url)
    for _ in range(count):
        held.callback(driver.close, driver.connect(10))


def user_of(url: str) -> str:
    return str(settings_of(url).url.user)


# --- MariaDB and MySQL -----------------------------------------------------------------------------------------------


class OccupiedServer:
    """A server of which all sessions are known: the administrator's, and those that a test holds."""

    def __init__(self, server: LocalServer, admin: Any, held: ExitStack) -> None:
        self.admin = admin
        self._server = server
        self._held = held
        self._sessions = 1

    def new_account(self) -> str:
        """Return the URL of a new database and account."""
        return self._server.create_database(new_name())

    def hold(self, url: str, count: int) -> None:
        hold(self._held, url, count)
        self._sessions += count

    def hold_without_name(self, url: str, count: int) -> None:
        """Open connections of a program that gives no name."""
        for _ in range(count):
            self._held.enter_context(closing(self._server.connect(user_of(url), self._server.password)))
        self._sessions += count

    def occupants(self, *urls: str) -> Occupants:
        return of_site([self._asked(url) for url in urls])

    def _asked(self, url: str) -> Occupancy:
        # The server may notice the end of earlier sessions late.
        eventually(lambda: value(self.admin, CONNECTED) == self._sessions)
        return asked(url)


CONNECTED = "SELECT COUNT(*) FROM information_schema.processlist WHERE command <> 'Daemon'"


@pytest.fixture(scope="module")
def own_server(server_kind: type[LocalServer], servers_folder: Path) -> Iterator[LocalServer]:
    """A server without sessions of other tests, on which performance_schema shows the programs."""
    folder = servers_folder / f"occupied-{server_kind.kind}"
    folder.mkdir()
    with server_kind(folder, {"performance_schema": "ON", "loose_ssl": 0}) as server:
        server.start()
        yield server


@pytest.fixture
def server(own_server: LocalServer, held: ExitStack) -> Iterator[OccupiedServer]:
    with own_server.admin() as admin:
        yield OccupiedServer(own_server, admin, held)


def test_the_sessions_of_accounts_that_are_not_shown_are_counted(server: OccupiedServer) -> None:
    shop, other = server.new_account(), server.new_account()
    server.hold(shop, 3)
    server.hold_without_name(other, 4)

    occupants = server.occupants(shop)

    assert seen(occupants) == (3, 0, {HIDDEN: 4 + 1})
    assert occupants.total == 8
    assert occupants.most is not None
    assert occupants.most > occupants.total


def test_an_account_with_the_privilege_process_sees_whose_the_others_are(server: OccupiedServer) -> None:
    shop, other = server.new_account(), server.new_account()
    run(server.admin, f"GRANT PROCESS ON *.* TO {user_of(shop)}")
    server.hold(shop, 3)
    server.hold_without_name(other, 4)

    occupants = server.occupants(shop)

    assert seen(occupants) == (3, 0, {f"{user_of(other)} at 127.0.0.1": 4, "wsgipool_admin at 127.0.0.1": 1})


def test_an_account_that_may_read_performance_schema_sees_the_others_programs(server: OccupiedServer) -> None:
    shop, other = server.new_account(), server.new_account()
    for right in ("PROCESS ON *.*", "SELECT ON performance_schema.*"):
        run(server.admin, f"GRANT {right} TO {user_of(shop)}")
    server.hold(f"{other}?program_name=backup", 4)

    _, _, others = seen(server.occupants(shop))

    assert others == {f"{user_of(other)} at 127.0.0.1 (backup)": 4, "wsgipool_admin at 127.0.0.1": 1}


def test_another_program_of_the_same_account_is_not_the_sites(server: OccupiedServer) -> None:
    shop = server.new_account()
    server.hold(shop, 2)
    server.hold(f"{shop}?program_name=backup", 1)

    assert seen(server.occupants(shop)) == (2, 0, {f"{user_of(shop)} at 127.0.0.1 (backup)": 1, HIDDEN: 1})
    assert seen(server.occupants(f"{shop}?program_name=backup")) == (3, 0, {HIDDEN: 1})


def test_the_sites_account_decides_if_a_program_gives_no_name(server: OccupiedServer) -> None:
    shop = server.new_account()
    server.hold(shop, 2)
    server.hold_without_name(shop, 1)

    assert seen(server.occupants(shop)) == (3, 1, {HIDDEN: 1})


def test_mysqlclients_sessions_are_known_by_their_account_only(server: OccupiedServer) -> None:
    shop = server.new_account()
    url = shop.replace("mysql:", "mysql+mysqlclient:")
    server.hold(url, 2)
    server.hold(f"{shop}?program_name=backup", 1)

    assert seen(server.occupants(url)) == (2, 2, {f"{user_of(shop)} at 127.0.0.1 (backup)": 1, HIDDEN: 1})


def test_the_accounts_of_one_site_are_not_others(server: OccupiedServer) -> None:
    shop, archive = server.new_account(), server.new_account()
    server.hold(shop, 2)
    server.hold(archive, 3)
    before = server.occupants(shop, archive)
    # It then sees the sessions of the second account, too, but not their programs.
    run(server.admin, f"GRANT PROCESS ON *.* TO {user_of(shop)}")

    after = server.occupants(shop, archive)

    assert seen(before) == (5, 0, {HIDDEN: 1})
    assert seen(after) == (5, 0, {"wsgipool_admin at 127.0.0.1": 1})


@pytest.mark.mariadb_only("performance_schema is on by default in MySQL")
def test_without_performance_schema_the_account_decides(mariadb_shop: str, held: ExitStack) -> None:
    url = mariadb_shop.replace("mysql+mysqlclient:", "mysql:")
    hold(held, url, 2)
    hold(held, f"{url}?program_name=backup", 1)

    occupants = of_site([asked(url)])

    assert (occupants.ours, occupants.by_account) == (3, 3)
    assert "this site's accounts have 3 (3 by an unknown program), others have " in occupants.in_words("db")


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def test_postgresql_shows_whose_the_sessions_are_to_every_role(
    postgresql: PostgreSQL, postgresql_shop: str, held: ExitStack
) -> None:
    other = new_name()
    theirs = postgresql.create_database(other)
    hold(held, postgresql_shop, 2)
    for program in ("backup", "backup", ""):
        held.enter_context(psycopg.connect(theirs, application_name=program))
    held.enter_context(psycopg.connect(postgresql_shop, application_name="psql"))

    occupants = of_site([asked(postgresql_shop)])

    ours, by_account, others = seen(occupants)
    shop = user_of(postgresql_shop)
    assert (ours, by_account, occupants.most) == (2, 0, None)
    assert others.items() >= {f"{other} (backup)": 2, other: 1, f"{shop} at 127.0.0.1 (psql)": 1}.items()


def test_postgresqls_own_processes_are_not_sessions(postgresql: PostgreSQL, postgresql_shop: str) -> None:
    with postgresql.admin() as admin:
        processes = {row[0] for row in admin.execute("SELECT backend_type FROM pg_stat_activity")}
    occupants = of_site([asked(postgresql_shop)])

    assert "logical replication launcher" in processes  # which has a role, but no database
    assert not [each for each in occupants.others if each.program == "logical replication launcher"]


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_line_has_the_sessions_now_and_at_most_and_whose_they_are() -> None:
    shown = [Sessions("django", "10.0.0.5", None, 29), Sessions("shop", "10.0.0.4", "wsgipool:shop", 12)]

    occupants = of_site([Occupancy("shop", "wsgipool:shop", 41, 58, shown)])

    assert occupants.in_words("mysql://db:3306") == (
        "mysql://db:3306 now: 41 sessions, at most 58 since its start; this site has 12, others have 29 "
        "(django at 10.0.0.5: 29)"
    )


def test_the_line_names_those_with_the_most_sessions() -> None:
    shown = [Sessions(f"user{number}", "", None, number) for number in range(1, 9)]

    occupants = of_site([Occupancy("shop", "wsgipool:shop", 36, None, shown)])

    assert occupants.in_words("db") == (
        "db now: 36 sessions; this site has 0, others have 36 "
        "(user8: 8, user7: 7, user6: 6, user5: 5, user4: 4, more: 6)"
    )


def test_a_session_that_begins_between_two_questions_is_no_contradiction() -> None:
    shown = [Sessions("shop", "db", "wsgipool:shop", 3)]

    occupants = of_site([Occupancy("shop", "wsgipool:shop", 2, 58, shown)])

    assert (occupants.total, occupants.ours, occupants.count_of_others) == (3, 3, 0)


def test_the_session_of_an_earlier_question_is_not_others() -> None:
    """The server may notice its end only after the next account has asked."""
    shop = Occupancy("shop", "wsgipool:shop", 5, 58, [Sessions("shop", "db", "wsgipool:shop", 3)])
    archive = Occupancy("archive", "wsgipool:archive", 6, 58, [Sessions("archive", "db", "wsgipool:archive", 2)])

    assert of_site([shop, archive]).count_of_others == 0
