from __future__ import annotations

from pathlib import Path

import wsgipool
from unit.fakes import run_python


def preload(tmp_path: Path, configuration: str, after: str = "") -> str:
    """Return what the error log gets when a server's process starts with these settings."""
    script = Path(wsgipool.__file__).parent / "handlers" / "preload.py"
    path = tmp_path / "wsgipool.toml"
    path.write_text(configuration)
    program = f"""
import logging, os, runpy, sys
sys.stderr = sys.stdout
os.environ["WSGIPOOL_CONFIG"] = {str(path)!r}
runpy.run_path({str(script)!r})
{after}
"""
    return run_python(program)


def test_the_error_log_names_the_settings(tmp_path: Path) -> None:
    printed = preload(tmp_path, '[databases.shop]\nurl = "mysql://shop:s3cret@db/orders"\n')

    assert printed == (
        f"wsgipool INFO: not in httpd; settings from {tmp_path / 'wsgipool.toml'}\n"
        "wsgipool INFO: pool 'shop': up to 10 connections a process to mysql://shop@db/orders\n"
    )


def test_a_wrong_setting_is_one_line_in_the_error_log_and_the_process_starts(tmp_path: Path) -> None:
    printed = preload(tmp_path, "[databases.shop]\n", after="print('started')")

    assert printed == (
        f'wsgipool ERROR: {tmp_path / "wsgipool.toml"}: databases.shop: no url; write url = "mysql://user@host/database"\n'
        "started\n"
    )


def test_a_site_that_sets_up_logging_gets_the_lines_once(tmp_path: Path) -> None:
    after = """
logging.basicConfig(format="site: %(message)s", stream=sys.stdout)
logging.getLogger("wsgipool").warning("later")
"""
    printed = preload(tmp_path, '[databases.shop]\nurl = "mysql://db/orders"\n', after)

    assert printed.splitlines()[2:] == ["site: later"]
