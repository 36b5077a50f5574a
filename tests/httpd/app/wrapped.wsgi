"""Loaded by httpd: the application of app.wsgi in a middleware, whose frame shows the scoreboard the path of the URL."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import wsgipool  # noqa: E402 - found by the path above, as the next one
from site_under_test import application as bare  # noqa: E402

application = wsgipool.Middleware(bare)
