"""Loaded by httpd: a text of the database, cached in each process; a POST changes it and tells them all."""

import json
import os
import time

import wsgipool


def read(key):
    with wsgipool.connection("shop", readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT text FROM notes WHERE id = %s", (key,))
        return cursor.fetchone()[0]


notes = wsgipool.SharedCache(10, 600, read, name="notes")


def application(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE notes SET text = %s WHERE id = 1", (environ["QUERY_STRING"],))
        notes.invalidate(1)
    created = notes.stats().creations
    text = notes.get_or_create(1)
    time.sleep(0.01)  # so that another process gets the next request
    answer = {"pid": os.getpid(), "text": text, "created": notes.stats().creations - created}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
