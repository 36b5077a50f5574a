"""Loaded by httpd: the application of tests/httpd, whose answers say which connection served them and when."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from site_under_test import application  # noqa: E402 - found by the path above

__all__ = ["application"]
