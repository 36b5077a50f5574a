"""A plain WSGI application that reports on its pool in JSON. Each path is a kind of handler."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl

import wsgipool
from wsgipool.httpd.process import define, mod_wsgi, this_process

Answer = dict[str, Any]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    arguments = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream(arguments)
    try:
        status, answer = "200 OK", HANDLERS[path](arguments)
    except wsgipool.PoolError as error:
        status, answer = "503 Service Unavailable", {"error": type(error).__name__, "message": str(error)}
    where = {
        "pid": os.getpid(),
        "interpreter": environ.get("mod_wsgi.application_group"),
        "thread": threading.get_native_id(),
    }
    body = json.dumps({**where, **answer}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def hold(arguments: dict[str, str]) -> Answer:
    """Keep a connection for `seconds`, and check that it returns only rows of this request."""
    name = arguments.get("db", "shop")
    with wsgipool.connection(name) as connection:
        start = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID(), DATABASE()")
            connection_id, database = cursor.fetchone()
            own_rows = True
            token = threading.get_native_id() * 1_000_000
            deadline = start + float(arguments.get("seconds", "0"))
            while True:
                token += 1
                cursor.execute("SELECT CONNECTION_ID(), %s", (token,))
                own_rows = own_rows and cursor.fetchone() == (connection_id, token)
                if time.monotonic() >= deadline:
                    break
        end = time.monotonic()
    pool = wsgipool.pool(name)
    return {
        "connection": connection_id,
        "database": database,
        "start": start,
        "end": end,
        "own_rows": own_rows,
        "max_size": pool.max_size,
    }


def sleep(arguments: dict[str, str]) -> Answer:
    """Keep a connection for `seconds` without using it."""
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID(), SLEEP(%s)", (float(arguments["seconds"]),))
        return {"connection": cursor.fetchone()[0]}


def counts(arguments: dict[str, str]) -> Answer:
    pool = wsgipool.pool(arguments.get("db", "shop"))
    return {"size": pool.size, "idle": pool.idle, "in_use": pool.in_use, "waiting": pool.waiting}


def server(_: dict[str, str]) -> Answer:
    """Return the description of this process."""
    known, module = this_process(), mod_wsgi()
    assert known is not None
    assert module is not None
    return {
        **asdict(known),
        "version": module.version,
        "define": define("WSGIPOOL_CONFIG"),
        "no_define": define("NONE"),
    }


def wait(arguments: dict[str, str]) -> Answer:
    """Sleep for `seconds` without a connection, for comparison."""
    time.sleep(float(arguments["seconds"]))
    return {}


def write(arguments: dict[str, str]) -> Answer:
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes (text) VALUES (%s)", (arguments["text"],))
        cursor.execute("SELECT CONNECTION_ID()")
        return {"connection": cursor.fetchone()[0]}


def write_and_fail(arguments: dict[str, str]) -> Answer:
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes (text) VALUES (%s)", (arguments["text"],))
        raise RuntimeError("on purpose, in the middle of a transaction")


def leak(_: dict[str, str]) -> Answer:
    connection = wsgipool.pool("shop").getconn()
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return {"connection": cursor.fetchone()[0]}


def fork(_: dict[str, str]) -> Answer:
    """Fork while one connection is checked out and another is idle; the child uses the pool and exits normally."""
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        mine = cursor.fetchone()[0]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            answer: Answer = {}
            try:
                answer["inherited"] = wsgipool.pool("shop").size
                with wsgipool.connection("shop") as own, own.cursor() as own_cursor:
                    own_cursor.execute("SELECT CONNECTION_ID()")
                    answer["connection"] = own_cursor.fetchone()[0]
                wsgipool.close()
            except BaseException:
                answer["error"] = traceback.format_exc()
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            child_answer = json.loads(pipe.read())
        os.waitpid(child, 0)
        cursor.execute("SELECT CONNECTION_ID()")
        return {"connection": mine, "connection_after": cursor.fetchone()[0], "child": child_answer}


def stream(arguments: dict[str, str]) -> Iterator[bytes]:
    """Send a first chunk, wait for the file `until` to appear, send the rest; one connection throughout."""
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        first = cursor.fetchone()[0]
        yield f"{os.getpid()} {first}\n".encode()
        while not os.path.exists(arguments["until"]):  # noqa: PTH110 - one call, in a loop
            time.sleep(0.01)
        cursor.execute("SELECT CONNECTION_ID()")
        yield f"{os.getpid()} {cursor.fetchone()[0]}\n".encode()


locks = wsgipool.Locks()
locks.group("stock", scope="host")


@locks.requires("till", "stock", read="catalogue", timeout=30)
def place_order(arguments: dict[str, str]) -> Answer:
    """Hold a lock of the host for `seconds`."""
    start = time.monotonic()
    time.sleep(float(arguments["seconds"]))
    return {"connection": "the one of all orders", "start": start, "end": time.monotonic()}


HANDLERS: dict[str, Callable[[dict[str, str]], Answer]] = {
    "/hold": hold,
    "/counts": counts,
    "/sleep": sleep,
    "/server": server,
    "/wait": wait,
    "/place-order": place_order,
    "/write": write,
    "/write-and-fail": write_and_fail,
    "/leak": leak,
    "/fork": fork,
}
