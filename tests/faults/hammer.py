"""A program that wants more connections than its budget has, in many threads and in forked children.

The argument is a wsgipool.toml. Every tenth of a second the program prints the number of served requests. It prints
errors at once, and ends at the end of its standard input.
"""

from __future__ import annotations

import os
import random
import select
import sys
import threading
import traceback

import wsgipool

DATABASES = ("shop", "archive")
THREADS = 6
"""For each database."""


def say(line: str) -> None:
    # Not by print(): another thread may hold its lock during a fork.
    os.write(1, f"{line}\n".encode())


class Hammer:
    """Threads that check connections out, one after the other."""

    def __init__(self) -> None:
        self.served = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[name]) for name in DATABASES * THREADS]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        while not self._is_over.is_set():
            try:
                request(name)
                if random.random() < 0.005:
                    self._fork(name)
            except Exception:
                say(f"trouble: {traceback.format_exc()!r}")
            else:
                with self._lock:
                    self.served += 1

    @staticmethod
    def _fork(name: str) -> None:
        child = os.fork()
        if child == 0:
            try:
                request(name)
                wsgipool.close()
            except BaseException:
                say(f"trouble of a fork's child: {traceback.format_exc()!r}")
            os._exit(0)
        os.waitpid(child, 0)


def request(name: str) -> None:
    with wsgipool.connection(name, readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", (random.uniform(0, 0.01),))


def main() -> None:
    wsgipool.configure(sys.argv[1])
    hammer = Hammer()
    hammer.start()
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        say(f"served {hammer.served}")
        wsgipool.pool(random.choice(DATABASES)).resize(0, random.randint(1, THREADS))
    hammer.stop()
    wsgipool.close()


if __name__ == "__main__":
    main()
