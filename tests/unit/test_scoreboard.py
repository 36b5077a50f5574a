"""The scoreboard: what each process publishes, and how the reports of a host are combined."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wsgipool
from unit.fakes import FakeDatabase, Task, eventually, run_python
from wsgipool import SharedCache, pools, records
from wsgipool.scoreboard import combining, history, reading
from wsgipool.scoreboard.model import (
    Activity,
    BudgetUse,
    CacheReport,
    ClosedPools,
    DatabaseReport,
    Gauges,
    PoolReport,
    ProcessReport,
    Sample,
    Totals,
)
from wsgipool.scoreboard.publishing import publisher
from wsgipool.shared import published
from wsgipool.shared.published import Publication


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def _settings(folder: Path) -> Iterator[None]:
    with pools.override({"runtime_dir": str(folder), "databases": {"other": {"url": "sqlite:////tmp/never-opened"}}}):
        yield


@pytest.fixture
def pool(database: FakeDatabase, _settings: None) -> wsgipool.Pool[Any]:
    return wsgipool.register("shop", database, max_size=2)


def report_of(folder: Path, name: str = "shop") -> PoolReport:
    host, _ = reading.host(folder)
    (process,) = host.processes
    return next(pool for pool in process.pools if pool.name == name)


def run_site(folder: Path, code: str) -> None:
    """Run code in a process that shares the folder and ends."""
    settings = {"runtime_dir": str(folder), "databases": {"shop": {"url": "sqlite:////tmp/never-opened"}}}
    run_python(f"""
import wsgipool
from wsgipool.scoreboard.publishing import publisher
wsgipool.configure({settings})
{code}
publisher.publish()
""")


# --- one process -----------------------------------------------------------------------------------------------------


def test_the_report_counts_as_the_pool_does(pool: wsgipool.Pool[Any], folder: Path) -> None:
    for _ in range(3):
        with pool.connection():
            pass
    with pool.connection():
        report, stats = report_of(folder), pool.stats()

    assert (report.idle, report.in_use, report.connecting, report.waiting) == (0, 1, 0, 0)
    assert (report.max_in_use, report.max_waiting, report.max_size) == (1, 0, 2)
    assert (report.totals.checkouts, report.totals.opened, report.totals.waits) == (stats.checkouts, 1, 0)
    assert sum(report.totals.use_time.values()) == 3
    assert sum(report.totals.create_time.values()) == 1


def test_holders_and_waiters_name_their_place_their_path_and_what_they_do(
    pool: wsgipool.Pool[Any], folder: Path
) -> None:
    release = threading.Event()

    def application(environ: dict[str, Any], start_response: object) -> list[bytes]:  # noqa: ARG001 # as PEP 3333 has it
        with pool.connection(timeout=30):
            release.wait()
        return []

    environ = {"SCRIPT_NAME": "/shop", "PATH_INFO": "/\u00c3\u00a4", "QUERY_STRING": "password=secret"}
    wrapped = wsgipool.Middleware(application)
    requests = [Task(lambda: wrapped(environ, lambda *_: None)) for _ in range(3)]

    def activities() -> list[Activity]:
        report = report_of(folder)
        return [*report.holders, *report.waiters]

    eventually(lambda: [bool(each.doing) for each in activities()] == [True, True, True])
    *holders, waiter = activities()
    release.set()
    for request in requests:
        request.result()

    assert {each.path for each in [*holders, waiter]} == {"/shop/\u00e4"}
    assert all(" in application" in holder.place and __file__ in holder.place for holder in holders)
    assert {holder.doing.partition(", at ")[0] for holder in holders} == {"runs"}
    assert waiter.doing.startswith(f"waits for a connection, at {__file__}:")
    assert holders[0].since <= holders[1].since


def test_the_variables_of_the_sites_own_function_are_left_alone(pool: wsgipool.Pool[Any], folder: Path) -> None:
    release = threading.Event()

    def application(environ: dict[str, Any]) -> list[str]:
        before = list(environ)
        seen = locals()
        with pool.connection():
            release.wait()
        return [name for name in seen if name not in ("environ", "before", "pool", "release")]

    request = Task(lambda: application({"PATH_INFO": "/"}))
    eventually(lambda: [bool(each.doing) for each in report_of(folder).holders] == [True])
    (holder,) = report_of(folder).holders
    release.set()

    assert request.result() == []
    assert holder.path == ("/" if sys.version_info >= (3, 13) else "")


def test_a_brief_holder_is_not_looked_at(pool: wsgipool.Pool[Any], folder: Path) -> None:
    with pool.connection():
        (holder,) = report_of(folder).holders

    assert (holder.path, holder.doing) == ("", "")
    assert " in test_a_brief_holder_is_not_looked_at" in holder.place


@pytest.mark.usefixtures("pool")
def test_caches_of_one_name_are_one(folder: Path) -> None:
    caches: list[SharedCache[int, int]] = [SharedCache(10, 60, lambda key: key, name="prices") for _ in range(2)]
    for cache in caches:
        cache.get_or_create(1)
        cache.get_or_create(1)

    (report,) = [cache for cache in reading.host(folder)[0].caches if cache.name == "prices"]

    assert (report.maxsize, report.size, report.hits, report.misses) == (20, 2, 2, 2)


def test_an_unchanged_report_is_not_written_again(pool: wsgipool.Pool[Any], folder: Path) -> None:
    with pool.connection():
        pass
    publisher.publish()
    (file,) = folder.glob("process-*")

    def is_unchanged() -> bool:
        before = file.stat().st_ino, file.read_text()
        publisher.publish()
        return (file.stat().st_ino, file.read_text()) == before

    eventually(is_unchanged)  # objects of earlier tests may still be dropped
    with pool.connection():
        assert not is_unchanged()


def test_a_process_publishes_more_often_while_somebody_looks(pool: wsgipool.Pool[Any], folder: Path) -> None:
    with pool.connection():
        publisher.reset()
        usual = publisher.maintain()
        published.announce_reader(folder)
        publisher.reset()
        watched = publisher.maintain()

    assert (usual, watched) == (1.0, 0.25)


def test_without_connections_locks_and_caches_nothing_is_due(folder: Path) -> None:
    program = f"""
import wsgipool
from wsgipool.scoreboard.publishing import publisher
wsgipool.configure({{"runtime_dir": {str(folder)!r}, "databases": {{"shop": {{"url": "sqlite:////tmp/never-opened"}}}}}})
wsgipool.pool("shop")
print(publisher.maintain())
"""

    assert run_python(program) == "None\n"
    assert list(folder.glob("process-*"))


@pytest.mark.usefixtures("pool")
def test_pools_work_without_a_usable_folder(folder: Path, log: pytest.LogCaptureFixture) -> None:
    folder.mkdir(mode=0o755)

    for _ in range(2):
        publisher.reset()
        assert publisher.maintain() == 1.0

    assert log.text.count("the scoreboard cannot be written") == 1


def test_replaced_and_closed_pools_stay_counted(pool: wsgipool.Pool[Any], database: FakeDatabase, folder: Path) -> None:
    def checkouts() -> int:
        return sum(each.totals.checkouts for each in reading.host(folder)[0].databases() if each.name == "shop")

    with pool.connection():
        pass
    assert checkouts() == 1
    other = wsgipool.register("shop", database, max_size=3)
    with other.connection():
        pass
    assert checkouts() == 2
    pools.close()

    assert checkouts() == 2


@pytest.mark.usefixtures("_settings")
def test_a_process_that_cannot_connect_is_on_the_scoreboard(folder: Path) -> None:
    def refuse() -> Any:
        raise OSError("cannot connect to mysql://shop:s3cret@db")

    wsgipool.register("down", refuse)
    with pytest.raises(wsgipool.ConnectFailed), wsgipool.connection("down"):
        pass

    eventually(lambda: any('connect_failures":1' in file.read_text() for file in folder.glob("process-*.json")))
    assert report_of(folder, "down").failure == "the last connect failed; see the log"
    assert not any("s3cret" in file.read_text() for file in folder.glob("process-*.json"))


def test_a_removed_report_is_written_again(pool: wsgipool.Pool[Any], folder: Path) -> None:
    with pool.connection():
        pass
    publisher.publish()
    for file in folder.glob("process-*.json"):
        file.unlink()

    publisher.publish()

    assert len(list(folder.glob("process-*.json"))) == 1


def test_the_child_of_a_fork_counts_from_0(folder: Path) -> None:
    site = f"""
import os, wsgipool
from wsgipool.scoreboard import reading
from pathlib import Path
shop = {{"url": "sqlite:///{folder}.db", "max_size": 1}}
wsgipool.configure({{"runtime_dir": {str(folder)!r}, "databases": {{"shop": shop}}}})
locks = wsgipool.Locks()
with locks.hold("stock"), wsgipool.connection("shop"):
    try:
        with wsgipool.connection("shop", timeout=0):
            pass
    except (wsgipool.PoolTimeout, wsgipool.PoolDeadlock):
        pass
before = reading.host(Path({str(folder)!r}))
child = os.fork()
if not child:
    reading.host(Path({str(folder)!r}))
    os._exit(0)
os.waitpid(child, 0)
after = reading.host(Path({str(folder)!r}))
print(*(host.databases()[0].totals == before[0].databases()[0].totals for host, _ in [after]))
print(*(lock.turns for lock in after[1].locks))
"""

    assert run_python(site) == "True\n1\n"


def test_the_last_report_counts_the_connections_that_the_end_closes(folder: Path) -> None:
    settings = {"runtime_dir": str(folder), "databases": {"shop": {"url": f"sqlite:///{folder}.db"}}}
    run_python(f"import wsgipool; wsgipool.configure({settings})\nwith wsgipool.connection('shop'): pass")

    (database,) = combining.report(folder)[0].databases()

    assert (database.totals.opened, database.totals.closed) == (1, {"surplus": 1})


# --- the host --------------------------------------------------------------------------------------------------------


PROGRAM = """
import sys, wsgipool
wsgipool.configure({"runtime_dir": sys.argv[1], "databases": {"shop": {"url": f"sqlite:///{sys.argv[1]}.db"}}})
for line in sys.stdin:
    with wsgipool.connection("shop") as connection:
        connection.execute("SELECT 1")
    print(line, end="", flush=True)
"""


def test_the_counts_of_a_killed_process_stay_and_its_connections_go(folder: Path) -> None:
    python = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert python.stdin is not None
    assert python.stdout is not None
    for line in ("1\n", "2\n", "3\n"):
        python.stdin.write(line)
        python.stdin.flush()
        assert python.stdout.readline() == line

    def shop() -> DatabaseReport:
        return combining.report(folder)[0].databases()[0]

    eventually(lambda: any(folder.glob("process-*.json")) and (shop().totals.checkouts, shop().idle) == (3, 1))
    live = shop()
    python.kill()
    python.communicate()
    ended = shop()
    combining.add_up(folder)
    added_up = shop()

    assert (live.idle, len(live.pools)) == (1, 1)
    assert (ended.idle, len(ended.pools)) == (added_up.idle, len(added_up.pools)) == (0, 0)
    assert ended.totals == added_up.totals == live.totals
    assert not list(folder.glob("process-*"))
    assert combining.report(folder)[0].ended_processes == 1


def test_the_locks_of_ended_processes_are_counted(folder: Path) -> None:
    code = """
locks = wsgipool.Locks()
for _ in range(5):
    with locks.hold("only here"):
        pass
"""
    run_site(folder, code)
    combining.add_up(folder)
    run_site(folder, code)

    turns = {lock.name: lock.turns for lock in combining.report(folder)[1].locks}

    assert turns["only here"] == 10


def test_pools_of_the_same_name_and_another_address_are_another_database(folder: Path) -> None:
    for number in (1, 2):
        run_site(folder, f'wsgipool.register("cart", "sqlite:////tmp/never-opened-{number}")')

    databases = [database for database in combining.report(folder)[0].databases() if database.name == "cart"]

    assert [database.address[-1] for database in databases] == ["1", "2"]


def strange_reports(good: dict[str, Any]) -> Iterator[Any]:
    yield from (None, 5, [], {}, {"pid": 1})
    for key, value in good.items():
        yield {each: good[each] for each in good if each != key}
        yield {**good, key: [value, value] if not isinstance(value, list) else 5}
    pool = good["pools"][0]
    for key in pool:
        yield {**good, "pools": [{**pool, key: {"x": {}}}]}
    yield {**good, "pools": [{**pool, "totals": {**pool["totals"], "wait_time": {"-1": 1}}}]}
    yield {**good, "pools": [{**pool, "totals": {**pool["totals"], "closed": {"idle": "1"}}}]}


@pytest.mark.usefixtures("pool")
def test_the_report_of_a_stranger_is_skipped(folder: Path) -> None:
    good = records.plain(reading.host(folder)[0].processes[0])
    for number, report in enumerate(strange_reports(good)):
        publication = Publication(folder)
        publication.write({"process": report, "locks": {"locks": [], "takes": []}})

        assert len(combining.report(folder)[0].processes) == 1, (number, report)
        publication.close()
        combining.add_up(folder)


@pytest.mark.parametrize("content", ['{"files":[],"sum":{"ended":5,"locks":{}}}', '{"files":[],"sum":{"ended":{}}}'])
@pytest.mark.usefixtures("pool")
def test_a_damaged_sum_begins_again(folder: Path, content: str) -> None:
    reading.host(folder)
    (folder / "ended-2.json").write_text(content)

    assert combining.report(folder)[0].ended_processes == 0


def test_totals_add_up() -> None:
    one = Totals(checkouts=1, wait_seconds=0.5, closed={"idle": 1, "leaked": 2}, wait_time={3: 1})
    other = Totals(checkouts=2, timeouts=1, closed={"leaked": 1}, wait_time={3: 1, 4: 1})

    both = one + other

    assert (both.checkouts, both.timeouts, both.wait_seconds, both.leaked) == (3, 1, 0.5, 3)
    assert (both.closed, both.wait_time) == ({"idle": 1, "leaked": 3}, {3: 2, 4: 1})


# --- the last ten minutes --------------------------------------------------------------------------------------------


def test_one_sample_is_taken_in_ten_seconds(pool: wsgipool.Pool[Any], folder: Path) -> None:
    with pool.connection():
        reading.host(folder)
        for _ in range(3):
            history.record(folder)

    (sample,) = reading.host(folder)[0].history

    assert (sample.databases["shop"].in_use, sample.databases["shop"].checkouts) == (1, 1)


@pytest.mark.usefixtures("pool")
def test_samples_are_kept_for_ten_minutes(folder: Path) -> None:
    host, _ = reading.host(folder)
    old = [{"at": host.at - age, "databases": {}} for age in (5000, 700, 500, 20, -1000)]
    published.record(folder, {"samples": old})
    a_minute_ago = host.at - 60
    os.utime(folder / "record-2.json", (a_minute_ago, a_minute_ago))

    history.record(folder)

    samples = reading.host(folder)[0].history
    assert [round(host.at - sample.at) for sample in samples] == [500, 20, 0]


def test_documents_of_another_shape_have_another_version() -> None:
    kinds = (ProcessReport, PoolReport, Totals, Activity, BudgetUse, CacheReport, ClosedPools, Gauges, Sample)
    shape = "".join(f"{each.name}: {each.type}\n" for kind in kinds for each in dataclasses.fields(kind))

    # If this fails, count the version in the names of shared/published.py up by one, and put the new numbers here.
    assert (published.VERSION, zlib.crc32(shape.encode())) == (2, 1562387661)


def test_a_report_survives_json() -> None:
    process = ProcessReport(1, 1.0, 2.0, "worker", "", "", 0, 2, 2, False, "", [], [], [])

    assert records.restored(ProcessReport, json.loads(json.dumps(records.plain(process)))) == records.restored(
        ProcessReport, records.plain(process)
    )
