"""What httpd and mod_wsgi take where the configuration says nothing. Nobody prints these, so they are written here.

DEFAULT_SERVER_LIMIT, DEFAULT_THREADS_PER_CHILD and DEFAULT_THREAD_LIMIT of httpd's server/mpm/*/*.c, as described in
https://httpd.apache.org/docs/2.4/mod/mpm_common.html; for daemon processes
https://modwsgi.readthedocs.io/en/master/configuration-directives/WSGIDaemonProcess.html.
"""

SERVER_LIMIT = {"prefork": 256, "worker": 16, "event": 16}
"""By MPM; the names are those of all MPMs that are known here."""

THREADS_PER_CHILD = 25
"""Of worker and event. Their default of MaxRequestWorkers is this times SERVER_LIMIT, whatever is configured for them;
prefork's is its SERVER_LIMIT."""

THREAD_LIMIT = 64
"""More ThreadsPerChild than this need a ThreadLimit of their own."""

DAEMON_PROCESSES = 1
DAEMON_THREADS = 15
