"""Defaults of httpd and mod_wsgi, which neither of them prints.

They are DEFAULT_SERVER_LIMIT, DEFAULT_THREADS_PER_CHILD and DEFAULT_THREAD_LIMIT in httpd's server/mpm/*/*.c.

https://httpd.apache.org/docs/2.4/mod/mpm_common.html
https://modwsgi.readthedocs.io/en/master/configuration-directives/WSGIDaemonProcess.html
"""

SERVER_LIMIT = {"prefork": 256, "worker": 16, "event": 16}
"""By MPM; the keys are all MPMs that wsgipool knows."""

THREADS_PER_CHILD = 25
"""For worker and event. Their default MaxRequestWorkers is this times SERVER_LIMIT, even if ThreadsPerChild or
ServerLimit are configured; prefork's is its SERVER_LIMIT."""

THREAD_LIMIT = 64
"""Maximum of ThreadsPerChild without a ThreadLimit directive."""

MAX_SERVER_LIMIT = {"prefork": 200_000, "worker": 20_000, "event": 20_000}
MAX_THREAD_LIMIT = 20_000
"""Compiled into httpd: MAX_SERVER_LIMIT and MAX_THREAD_LIMIT of its MPMs."""

DAEMON_PROCESSES = 1
DAEMON_THREADS = 15
