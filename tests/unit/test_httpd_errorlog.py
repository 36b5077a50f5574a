"""The package's lines in the error log, in a separate Python whose stderr stands for the log."""

from __future__ import annotations

import pytest

from unit.fakes import run_python

SHOW = """
import logging, sys
sys.stderr = sys.stdout
from wsgipool.httpd import errorlog
logger = logging.getLogger("wsgipool")
"""


def test_repeated_calls_show_each_line_once() -> None:
    assert run_python(f"{SHOW}errorlog.show_lines(); errorlog.show_lines(); logger.info('settings')") == (
        "wsgipool INFO: settings\n"
    )


@pytest.mark.parametrize("whose", ["", "wsgipool"])
def test_a_site_that_configures_logging_gets_its_own_format(whose: str) -> None:
    site = f"logging.getLogger({whose!r}).addHandler(logging.StreamHandler(sys.stdout))"

    assert run_python(f"{SHOW}{site}; errorlog.show_lines(); logger.info('settings'); logger.warning('pool')") == (
        "pool\n"
    )
