"""What the error log of a real httpd says about a pool that is too busy."""

from __future__ import annotations

import inspect
import re

from httpd.app import site_under_test
from httpd.harness import Settings, eventually
from httpd.place import Place


def test_the_error_log_names_the_page_that_holds_an_exhausted_pool(shop: str, place: Place) -> None:
    settings: Settings = {"max_size": 4, "log_slow": 2}
    with place.running_site("daemon", {"shop": shop}, processes=1, threads=31, settings=settings) as site:
        # The page /hold takes no time of its own.
        site.load(lambda number: "/hold" if number == 30 else "/sleep?seconds=0.5", requests=31, clients=31)
        eventually(lambda: "has recovered" in site.log(), "the pool to recover")
        log = site.log()

    exhausted = re.findall(r"pool 'shop' is exhausted: a checkout has waited for (\S+) s; (.*)", log)
    assert len(exhausted) == 1, "one line for the episode"
    assert 1.0 <= float(exhausted[0][0]) < 2.0
    counts = re.match(
        r"(\d) in use, 0 connecting, 0 idle of max_size 4, (\d+) waiting; held: (\d) checked out at \S+/"
        rf"site_under_test.py:{checkout_in_sleep()} in sleep, the longest for (\S+) s",
        exhausted[0][1],
    )
    assert counts is not None, exhausted
    assert counts[1] == "4"
    assert int(counts[3]) >= 3, "the fourth may be on its way in or out"
    assert int(counts[2]) > 10
    assert float(counts[4]) < 1.5
    recovered = re.findall(r"has recovered: it was exhausted for (\S+) s, in which (\d+) checkouts waited", log)
    assert len(recovered) == 1
    assert float(recovered[0][0]) > 2.0
    assert int(recovered[0][1]) > 10
    slow = re.findall(r"a checkout of pool 'shop' at \S+ in (\w+) waited (\S+) s, behind \d+ others; (.*)", log)
    assert {name for name, _, _ in slow} <= {"sleep", "hold"}
    assert all(float(seconds) >= 2.0 for _, seconds, _ in slow)
    assert all(f":{checkout_in_sleep()} in sleep, " in cause for _, _, cause in slow)
    assert slow


def checkout_in_sleep() -> int:
    """Return the line at which the page /sleep checks its connection out."""
    lines, first = inspect.getsourcelines(site_under_test.sleep)
    return first + next(number for number, line in enumerate(lines) if "wsgipool.connection(" in line)
