"""For all tests: SIGTERM ends a run as Ctrl-C does, so that every server is stopped and every folder removed."""

import signal

signal.signal(signal.SIGTERM, signal.default_int_handler)
