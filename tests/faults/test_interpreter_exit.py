"""The exit and the fork of a program with pools: soon, and with an orderly end of sessions if possible.

The server counts in Aborted_clients the sessions that ended without COM_QUIT.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.harness import user_of
from faults.proxy import Proxy
from httpd.harness import AbortedClients, sessions
from wsgipool.demo.mariadb import MariaDB

pytestmark = pytest.mark.mariadb_only("what a program does at its end does not depend on the kind of server")

PATIENCE = 60.0
"""Maximum seconds of a program. It needs one or two, and the timeouts in the tests are far longer."""

PREAMBLE = """
import json, os, sys, threading, time, traceback, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # that is the test
sys.path.insert(0, {tests!r})
from faults.harness import pool_of, run, session_of, value
from unit.fakes import Task, eventually
import wsgipool

url = {url!r}
wsgipool.configure({{"databases": {{"shop": {{"url": url, "max_size": 4, **{settings!r}}}}}}})
pool = wsgipool.pool("shop")
report = {{}}

def fork(function):
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def outcome_of(program: str, url: str, **settings: Any) -> dict[str, Any]:
    """Run a program to its end; return all that it printed by `report`, merged."""
    preamble = PREAMBLE.format(tests=str(Path(__file__).parents[1]), url=url, settings=settings)
    with subprocess.Popen(
        [sys.executable, "-c", preamble + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # also its children, which have the pipes open
            raise
    assert process.returncode == 0, errors
    assert errors == ""
    report: dict[str, Any] = {}
    for line in output.splitlines():
        report |= json.loads(line)
    return report


@pytest.fixture
def aborted(mariadb: MariaDB, shop: str) -> AbortedClients:
    return AbortedClients(mariadb, user_of(shop))


WAYS = [{"reset": "rollback"}, {"reset": "session"}, {"reset": "session", "pipeline": False}]


# --- exit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", WAYS)
def test_at_exit_idle_connections_end_their_sessions(
    shop: str, aborted: AbortedClients, settings: dict[str, Any]
) -> None:
    report = outcome_of(
        """
with pool.connection() as one, pool.connection(readonly=True) as two:
    run(one, "SELECT * FROM books")
    run(two, "SELECT * FROM books")
print(json.dumps({"idle": pool.idle}))
""",
        shop,
        **settings,
    )

    assert report == {"idle": 2}
    assert aborted.count() == 0


def test_sys_exit_in_a_block_ends_the_session(shop: str, aborted: AbortedClients) -> None:
    outcome_of(
        """
with pool.connection() as connection:
    run(connection, "UPDATE books SET stock = 0")
    sys.exit(0)
""",
        shop,
    )

    assert aborted.count() == 0


def test_at_exit_a_connection_in_use_is_not_closed(shop: str, aborted: AbortedClients) -> None:
    # The holder may be in the middle of a command, where COM_QUIT would be read as something else.
    outcome_of(
        """
held = pool.getconn()
run(held, "UPDATE books SET stock = 0")
with pool.connection() as other:
    run(other, "SELECT 1")
""",
        shop,
    )

    assert aborted.count() == 1


def test_at_exit_a_thread_in_the_middle_of_a_query_is_not_waited_for(mariadb: MariaDB, shop: str) -> None:
    outcome_of(
        """
running = threading.Event()

def report():
    with pool.connection() as connection:
        running.set()
        run(connection, "SELECT SLEEP(600)")

threading.Thread(target=report, daemon=True).start()
assert running.wait(10)
with pool.connection() as connection:
    eventually(lambda: value(connection, "SELECT COUNT(*) FROM information_schema.processlist"
                                         " WHERE state = 'User sleep'"))
""",
        f"{shop}?autocommit=true",
    )

    # The server alone would notice the dead client only after some seconds.
    with mariadb.admin() as admin:
        for number in sessions(mariadb, user_of(shop)):
            admin.kill(number)


def test_at_exit_threads_that_wait_for_a_connection_are_not_waited_for(shop: str, aborted: AbortedClients) -> None:
    outcome_of(
        """
held = [pool.getconn() for _ in range(4)]
for _ in range(3):
    threading.Thread(target=pool.getconn, args=(600,), daemon=True).start()
eventually(lambda: pool.waiting == 3)
""",
        shop,
    )

    assert aborted.count() == 4


def test_at_exit_joined_threads_are_served_to_their_end(shop: str, aborted: AbortedClients) -> None:
    report = outcome_of(
        """
leave = threading.Event()
served = []

def request():
    leave.wait(10)
    time.sleep(0.2)  # the main thread is at its end by now
    with pool.connection() as connection:
        served.append(value(connection, "SELECT stock FROM books WHERE id = 2"))

def report():
    for thread in requests:
        thread.join()
    print(json.dumps({"served": served}))

requests = [threading.Thread(target=request) for _ in range(6)]
for thread in [*requests, threading.Thread(target=report)]:
    thread.start()
leave.set()
""",
        shop,
    )

    assert report == {"served": [20] * 6}
    assert aborted.count() == 0


def test_at_exit_a_thread_that_connects_is_not_waited_for(proxy: Proxy, shop: str, aborted: AbortedClients) -> None:
    proxy.greeting = "black hole"
    outcome_of(
        """
threading.Thread(target=pool.getconn, args=(600,), daemon=True).start()
eventually(lambda: pool.size == 1)
""",
        proxy.through(shop),
    )

    assert aborted.count() == 0


def test_at_exit_a_black_hole_is_not_waited_for(proxy: Proxy, shop: str) -> None:
    proxy.delay = 0.1
    outcome_of(
        """
with pool.connection(readonly=True) as connection:
    run(connection, "SELECT * FROM books")
""",
        proxy.through(shop),
        reset="session",
    )
    proxy.cut()


def test_a_pool_made_by_hand_and_closed_ends_its_sessions(shop: str, aborted: AbortedClients) -> None:
    outcome_of(
        """
pool = pool_of(url, max_size=2)
with pool.connection() as one, pool.connection() as two:
    run(one, "SELECT * FROM books")
pool.close()
""",
        shop,
    )

    assert aborted.count() == 0


def test_an_open_pool_does_not_keep_the_program_from_ending(shop: str, aborted: AbortedClients) -> None:
    outcome_of(
        """
pool = pool_of(url, max_size=2)
with pool.connection() as one, pool.connection() as two:
    run(one, "SELECT * FROM books")
""",
        shop,
    )

    assert aborted.count() <= 2


@pytest.mark.parametrize("made_by", ["a URL", "a callable"])
def test_at_exit_a_registered_pool_ends_its_sessions(shop: str, aborted: AbortedClients, made_by: str) -> None:
    report = outcome_of(
        f"made_by = {made_by!r}"
        """
import pymysql
from wsgipool.config import parse_url
parts = parse_url(url)

def connect():
    return pymysql.connect(
        unix_socket=parts.options.get("unix_socket"), host=parts.host or "", port=parts.port or 3306, user=parts.user,
        password=parts.password or "", database=parts.database,
    )

pool = wsgipool.register("by hand", url if made_by == "a URL" else connect, min_size=7)
eventually(lambda: pool.idle == 7)
print(json.dumps({"idle": pool.idle}))
""",
        shop,
    )

    assert report == {"idle": 7}
    assert aborted.count() == 0


def test_at_exit_maintenance_ends_and_so_do_the_sessions_it_has_opened(shop: str, aborted: AbortedClients) -> None:
    report = outcome_of(
        """
pool.resize(2)
eventually(lambda: pool.idle == 2)
print(json.dumps({"idle": pool.idle}))
""",
        shop,
    )

    assert report == {"idle": 2}
    assert aborted.count() == 0


def test_at_exit_a_connect_in_the_background_is_not_waited_for_long(
    proxy: Proxy, shop: str, aborted: AbortedClients
) -> None:
    proxy.greeting = "black hole"
    report = outcome_of(
        """
pool.resize(2)
eventually(lambda: pool.stats().connecting == 2)
print(json.dumps({"size": pool.size}))
""",
        f"{proxy.through(shop)}?connect_timeout=600",
        timeout=600,
    )

    assert report == {"size": 2}
    assert aborted.count() == 0


# --- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", WAYS)
def test_a_fork_leaves_the_parent_its_sessions_and_gives_the_child_its_own(
    shop: str, aborted: AbortedClients, settings: dict[str, Any]
) -> None:
    report = outcome_of(
        """
with pool.connection(readonly=True) as connection:
    run(connection, "SELECT * FROM books")
    report["before"] = session_of(connection)

def child():
    with pool.connection() as connection:
        stock = value(connection, "SELECT stock FROM books WHERE id = 2")
        print(json.dumps({"child": session_of(connection), "stock": stock}), flush=True)
    wsgipool.close()

report["status"] = fork(child)
with pool.connection() as connection:
    assert value(connection, "SELECT CONNECTION_ID()") == session_of(connection)
    report["after"] = session_of(connection)
print(json.dumps(report))
""",
        shop,
        **settings,
    )

    assert report["status"] == 0
    assert report["stock"] == 20
    assert report["after"] == report["before"] != report["child"]
    assert aborted.count() == 0


def test_a_child_that_exits_normally_ends_only_its_own_sessions(shop: str, aborted: AbortedClients) -> None:
    report = outcome_of(
        """
with pool.connection() as connection:
    report["before"] = session_of(connection)
held = pool.getconn()
run(held, "UPDATE books SET stock = 0 WHERE id = 2")

def child():
    with pool.connection() as connection:
        print(json.dumps({"child": session_of(connection)}), flush=True)
    sys.exit(0)

pid = os.fork()
if pid == 0:
    child()
report["status"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
report["held"] = value(held, "SELECT stock FROM books WHERE id = 2")
report["held again"] = session_of(held)
pool.putconn(held)
with pool.connection() as connection:
    report["after"] = session_of(connection)
print(json.dumps(report))
""",
        shop,
    )

    assert report["status"] == 0
    assert report["held"] == 0
    assert report["after"] == report["before"] == report["held again"] != report["child"]
    assert aborted.count() == 0


def test_the_first_connect_holds_no_lock_that_a_fork_would_keep(shop: str) -> None:
    # A fork or an exit while a thread is in ssl.create_default_context(), or imports a codec for getaddrinfo(), keeps
    # locks forever, or crashes. So both are done before a thread connects.
    report = outcome_of(
        """
import ssl

def too_late(*_, **__):
    raise AssertionError("the TLS context is built by the first connect")

ssl.create_default_context = too_late
before = set(sys.modules)
with pool.connection() as connection:
    report["stock"] = value(connection, "SELECT stock FROM books WHERE id = 2")
report["imported"] = [name for name in set(sys.modules) - before if name.startswith("encodings.")]
print(json.dumps(report))
""",
        shop,
    )

    assert report == {"stock": 20, "imported": []}


def test_a_fork_while_a_thread_connects_leaves_both_sides_a_working_pool(
    proxy: Proxy, shop: str, aborted: AbortedClients
) -> None:
    proxy.delay = 0.1
    report = outcome_of(
        """
def request():
    with pool.connection() as connection:
        return value(connection, "SELECT stock FROM books WHERE id = 2")

other = Task(request)
eventually(lambda: pool.size == 1)

def child():
    print(json.dumps({"child size": pool.size, "child": request()}), flush=True)
    wsgipool.close()

report["status"] = fork(child)
report["other"] = other.result()
report["mine"] = request()
print(json.dumps(report))
""",
        proxy.through(shop),
    )

    assert report == {"status": 0, "child size": 0, "child": 20, "other": 20, "mine": 20}
    assert aborted.count() == 0


MOMENTS = {
    "TCP connect": ("mysql", "_connect"),
    "greeting": ("mysql", "_read_packet"),
    "TLS handshake": ("mysql", "do_handshake"),
    "PostgreSQL": ("postgresql", "_finish_connecting"),
}
"""The places where a thread may be while it connects, by driver and function."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_forks_child_releases_a_socket_that_its_parent_was_opening(moment: str, shop: str) -> None:
    scheme, function = MOMENTS[moment]
    report = outcome_of(
        f"moment, scheme, function = {moment!r}, {scheme!r}, {function!r}\n"
        + """
import socket

def sockets():
    return sum("socket:" in os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0 if moment == "TCP connect" else 10)
address = listener.getsockname()
waiting = [socket.socket() for _ in range(4)] if moment == "TCP connect" else []
for one in waiting:  # until the listener's queue is full and the next connect gets no answer
    one.setblocking(False)
    one.connect_ex(address)

def offer_tls():
    client, _ = listener.accept()
    capabilities = (0x88A00).to_bytes(4, "little")  # 4.1, TLS, secure connections, plugins
    greeting = (
        b"\\x0a5.7.0\\0" + b"\\1\\0\\0\\0" + b"12345678\\0" + capabilities[:2] + b"\\x2d" + b"\\2\\0"
        + capabilities[2:] + b"\\x15" + b"\\0" * 10 + b"123456789012\\0" + b"mysql_native_password\\0"
    )
    client.sendall(len(greeting).to_bytes(3, "little") + b"\\0" + greeting)
    return client

def connects():
    stacks = [traceback.extract_stack(frame) for frame in sys._current_frames().values()]
    return sockets() > others and any(entry.name == function for stack in stacks for entry in stack)

server = Task(offer_tls) if moment == "TLS handshake" else None
others = sockets() + (server is not None)
pool = pool_of(f"{scheme}://shop@127.0.0.1:{address[1]}/shop")
other = Task(pool.getconn)
eventually(connects)

def child():
    print(json.dumps({"child's": sockets() - others}), flush=True)

report["status"] = fork(child)
report["parent's"] = sockets() - others
print(json.dumps(report), flush=True)
os._exit(0)
""",
        shop,
    )

    assert report == {"status": 0, "child's": 0, "parent's": 1}


def test_a_fork_while_threads_wait_and_query_leaves_both_sides_a_working_pool(
    shop: str, aborted: AbortedClients
) -> None:
    report = outcome_of(
        """
pool = pool_of(url, max_size=1)
in_query = threading.Event()

def slow():
    with pool.connection() as connection:
        in_query.set()
        return value(connection, "SELECT SLEEP(0.5) + 7")

def request():
    with pool.connection() as connection:
        return value(connection, "SELECT stock FROM books WHERE id = 2")

querying = Task(slow)
assert in_query.wait(10)
waiting = Task(request)
eventually(lambda: pool.waiting == 1)

def child():
    print(json.dumps({"child": [pool.size, pool.waiting, request(), pool.size]}), flush=True)
    pool.close()

report["status"] = fork(child)
report["parent"] = [querying.result(), waiting.result(), request()]
pool.close()
print(json.dumps(report))
""",
        shop,
    )

    assert report == {"status": 0, "child": [0, 0, 20, 1], "parent": [7, 20, 20]}
    assert aborted.count() == 0


def test_a_fork_in_the_middle_of_a_block_leaves_the_connection_to_the_parent(
    shop: str, aborted: AbortedClients
) -> None:
    report = outcome_of(
        """
with pool.connection() as connection:
    run(connection, "UPDATE books SET stock = 19 WHERE id = 2")

    def child():
        try:
            run(connection, "DELETE FROM books")
        except Exception as error:
            print(json.dumps({"child": type(error).__name__}), flush=True)

    report["status"] = fork(child)
    report["stock"] = value(connection, "SELECT stock FROM books WHERE id = 2")
with pool.connection() as connection:
    report["books"] = value(connection, "SELECT COUNT(*) FROM books")
print(json.dumps(report))
""",
        shop,
    )

    assert report["status"] == 0
    assert (report["stock"], report["books"]) == (19, 2)
    assert report["child"] in ("InterfaceError", "WrongThread")
    assert aborted.count() == 0


LEAVINGS = {"normally": "ValueError", "by an exception": "KeyError", "as a closed generator": None}
"""The ways in which the child of a fork leaves the parent's block, with the results."""


@pytest.mark.parametrize("way", LEAVINGS)
@pytest.mark.parametrize("settings", WAYS)
def test_a_forks_child_that_leaves_the_parents_block_commits_and_returns_nothing(
    shop: str, aborted: AbortedClients, settings: dict[str, Any], way: str
) -> None:
    report = outcome_of(
        f"way = {way!r}\n"
        + """
BOOK = "SELECT stock FROM books WHERE id = 2"

def leave():
    with pool.connection() as connection:
        run(connection, "UPDATE books SET stock = 19 WHERE id = 2")
        report["session"] = session_of(connection)
        if os.fork() == 0:
            report["is child"] = True
        else:
            report["status"] = os.waitstatus_to_exitcode(os.wait()[1])
            report["mine"] = value(connection, BOOK)
            with pool.connection(readonly=True) as other:
                report["others'"] = value(other, BOOK)
        yield connection
        if "is child" in report and way == "by an exception":
            raise KeyError("the child's")

leaving = leave()
next(leaving)
error = None
try:
    if "is child" in report and way == "as a closed generator":
        leaving.close()
    else:
        next(leaving, None)
except Exception as caught:
    error = type(caught).__name__
if "is child" in report:
    counts = pool.size, pool.idle, pool.in_use
    with pool.connection() as one, pool.connection() as two:
        sessions = {session_of(one), session_of(two)}
        stock = value(one, BOOK)
    child = {"error": error, "counts": counts, "stock": stock, "parent's": report["session"] in sessions}
    print(json.dumps({"child": child}), flush=True)
    wsgipool.close()
    os._exit(0)
with pool.connection() as connection:
    report["at last"] = value(connection, BOOK)
    report["again"] = session_of(connection) == report.pop("session")
print(json.dumps(report | {"error": error}))
""",
        shop,
        **settings,
    )

    child = {"error": LEAVINGS[way], "counts": [0, 0, 0], "stock": 20, "parent's": False}
    parent = {"status": 0, "mine": 19, "others'": 20, "at last": 19, "error": None}
    assert {name: report[name] for name in ["child", *parent]} == {"child": child, **parent}
    assert aborted.count() == 0


def test_after_a_fork_parent_and_child_each_have_maintenance(shop: str, aborted: AbortedClients) -> None:
    report = outcome_of(
        """
def has_maintenance():
    return any(thread.name == "wsgipool-maintenance" for thread in threading.enumerate())

def use_and_wait_for_its_end():
    with pool.connection() as connection:
        stock = value(connection, "SELECT stock FROM books WHERE id = 2")
    eventually(lambda: pool.size == 0)  # as nobody needs it
    return [stock, has_maintenance()]

with pool.connection() as connection:
    run(connection, "SELECT 1")
report["before"] = has_maintenance()

def child():
    print(json.dumps({"begin": has_maintenance(), "child": use_and_wait_for_its_end()}), flush=True)

report["status"] = fork(child)
report["parent"] = use_and_wait_for_its_end()
print(json.dumps(report))
""",
        shop,
        max_idle=0.2,
    )

    assert report == {"before": True, "begin": False, "child": [20, True], "parent": [20, True], "status": 0}
    assert aborted.count() == 0


def test_a_fork_while_connections_open_leaves_both_sides_a_working_pool(
    proxy: Proxy, shop: str, aborted: AbortedClients
) -> None:
    proxy.delay = 0.1
    report = outcome_of(
        """
def request():
    with pool.connection() as connection:
        return value(connection, "SELECT stock FROM books WHERE id = 2")

pool.resize(2)
eventually(lambda: pool.stats().connecting == 2)

def child():
    report = {"child before": pool.size, "child": request()}
    pool.resize(2)
    eventually(lambda: pool.idle == 2)
    print(json.dumps(report), flush=True)
    wsgipool.close()

report["status"] = fork(child)
eventually(lambda: pool.idle == 2)
report["parent"] = request()
print(json.dumps(report))
""",
        proxy.through(shop),
    )

    assert report == {"status": 0, "child before": 0, "child": 20, "parent": 20}
    assert aborted.count() == 0


# --- sub-interpreters ------------------------------------------------------------------------------------------------

# Python 3.12 has the other kind too, but an `import ssl` there is enough to crash it.
GILS = ["the GIL of all"] if sys.version_info < (3, 13) else ["the GIL of all", "a GIL of its own"]
ENDS = {"mod_wsgi": "wsgipool._runtime.end()", "nobody": "atexit._run_exitfuncs()"}
"""The call before an interpreter ends, as mod_wsgi calls its shutdown callbacks."""


@pytest.mark.parametrize("caller", ENDS)
@pytest.mark.parametrize("gil", GILS)
def test_an_interpreter_ends_with_maintenance_alive_while_others_go_on(
    shop: str, aborted: AbortedClients, gil: str, caller: str
) -> None:
    # An interpreter with a thread refuses to end, or aborts the process.
    report = outcome_of(
        f"gil, end = {gil!r}, {ENDS[caller]!r}"
        """
program = f'''
import atexit, sys
sys.path[:] = {sys.path!r}
from unit.fakes import eventually
import wsgipool
from wsgipool._background import background

wsgipool.configure({{"databases": {{"shop": {{"url": {url!r}, "max_size": 4}}}}}})
pool = wsgipool.pool("shop")
with pool.connection() as connection, connection.cursor() as cursor:
    cursor.execute("SELECT 1")
pool.resize(2)
eventually(lambda: pool.idle == 2)
assert background.is_running
{end}
'''

if sys.version_info < (3, 13):
    from _xxsubinterpreters import create, destroy, run_string

    def new():
        return create(isolated=False)
else:
    from _interpreters import create, destroy, run_string

    def new():
        return create("isolated" if gil == "a GIL of its own" else "legacy")

for ended in range(10):
    interpreter = new()
    if error := run_string(interpreter, program):  # older ones raise it
        raise RuntimeError(error.formatted)
    destroy(interpreter)
print(json.dumps({"ended": ended + 1}))
""",
        shop,
    )

    assert report == {"ended": 10}
    assert aborted.count() == 0
