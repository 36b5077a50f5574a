"""`python -m benchmarks` runs all benchmarks, `python -m benchmarks NAME` one of them."""

from benchmarks import (
    auth,
    budget,
    contended,
    frameworks,
    httpd,
    locks,
    price,
    queries,
    report,
    roundtrips,
    scoreboard,
    threads,
    uncontended,
)

if __name__ == "__main__":
    report.main(
        uncontended.measure,
        contended.measure,
        roundtrips.measure,
        queries.measure,
        locks.measure,
        price.measure,
        httpd.measure,
        auth.measure,
        budget.measure,
        scoreboard.measure,
        threads.measure,
        frameworks.measure,
    )
