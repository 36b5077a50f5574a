"""The JSON document of a host."""

from __future__ import annotations

import json

from unit.reports import budget, full_pool, host, process, sample
from wsgipool import records
from wsgipool.locks.statistics import LockRow, LocksReport
from wsgipool.scoreboard.document import document
from wsgipool.scoreboard.model import HostReport

REPORT = host(
    process(1, [full_pool(budget=budget())]), process(2, [full_pool()]), history=[sample(1, orders={"in_use": 8})]
)
LOCKS = LocksReport([LockRow("stock", "host", "", 200, 50, 0, 0.0, 0.1, 0.1, 0.2, "leave it")])


def test_the_document_has_the_whole_report_and_can_be_read_back() -> None:
    read = json.loads(json.dumps(document(REPORT, LOCKS)))

    added = {key: read.pop(key) for key in ("databases", "findings", "locks")}
    assert records.plain(records.restored(HostReport, read)) == records.plain(REPORT)
    assert [finding["code"] for finding in added["findings"]] == ["pool-exhausted"]


def test_the_document_has_the_sums_of_each_database() -> None:
    (orders,) = document(REPORT, LOCKS)["databases"]

    assert (orders["in_use"], orders["waiting"], orders["max_size"]) == (8, 6, 8)
    assert orders["totals"]["checkouts"] == 2000
    assert (orders["budget"]["taken"], orders["budget"]["held"]) == (15, 5)


def test_the_document_has_the_share_of_contended_turns_of_each_lock() -> None:
    (stock,) = document(REPORT, LOCKS)["locks"]

    assert (stock["name"], stock["share_contended"]) == ("stock", 0.25)
