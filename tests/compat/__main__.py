"""Run the test suites of others on their stock backend and on wsgipool's, and compare.

    python -m compat [SUITE ...] [--list]

A SUITE is a name or a pattern such as 'django-*', and `all` is all of them. Without names, all run that are not long.
A test that passes on the stock backend and not on ours is a failure, unless the suite expects it and says why; so is an
expected difference that does not occur, and a run that crashes or has no tests.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from compat import suites
from compat.suite import BrokenRun, Results, Suite, faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m compat", description="Run the test suites of others.")
    parser.add_argument("suite", nargs="*", help="a name, a pattern, or all")
    parser.add_argument("--list", action="store_true", help="list the suites, and run none")
    arguments = parser.parse_args()
    available = [
        suite
        for module in pkgutil.iter_modules(suites.__path__)
        for suite in importlib.import_module(f"compat.suites.{module.name}").SUITES
    ]
    chosen = [suite for suite in available if _is_chosen(suite, arguments.suite)]
    if arguments.list:
        print(*(f"{suite.name}{' (long)' if suite.long else ''}" for suite in available), sep="\n")
        return 0
    if not chosen:
        parser.error(f"no suite is called {' or '.join(arguments.suite)}: see --list")
    failed = [suite.name for suite in chosen if not _passes(suite)]
    print(f"\n== suites of others: {len(chosen)} run", *(f"FAILED: {name}" for name in failed), sep="\n")
    return bool(failed)


def _is_chosen(suite: Suite, patterns: list[str]) -> bool:
    if not patterns:
        return not suite.long
    return any(pattern == "all" or fnmatch(suite.name, pattern) for pattern in patterns)


def _passes(suite: Suite) -> bool:
    """Run a suite twice, print what came out, and return whether wsgipool's backend does what it should."""
    print(f"\n== {suite.name}", flush=True)
    try:
        stock, ours = _run(suite, pooled=False), _run(suite, pooled=True)
    except (BrokenRun, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}", flush=True)
        return False
    found = [*faults(stock, ours, suite.expected)]
    for fault in found:
        print("FAILED:", fault)
    print(f"{len(suite.expected)} expected differences, {len(found)} faults", flush=True)
    return not found


def _run(suite: Suite, *, pooled: bool) -> Results:
    since = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wsgipool-compat-") as scratch:
        results = suite.run(pooled, Path(scratch))
    counts = Counter(result.outcome.name.lower() for result in results.values())
    backend = "wsgipool" if pooled else "stock"
    seconds = f"{time.monotonic() - since:.0f} s"
    print(f"{backend:>8}:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())), seconds, flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
