"""`python -m benchmarks` runs all benchmarks, `python -m benchmarks NAME` one of them."""

from benchmarks import budget, contended, httpd, locks, queries, report, roundtrips, uncontended

if __name__ == "__main__":
    report.main(
        uncontended.measure,
        contended.measure,
        roundtrips.measure,
        queries.measure,
        locks.measure,
        httpd.measure,
        budget.measure,
    )
