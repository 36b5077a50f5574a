"""A Galera cluster of three nodes behind HAProxy, on loopback ports, by the files of docker/cluster."""

from __future__ import annotations

import csv
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pymysql
from pymysql.connections import Connection

from wsgipool.demo.mariadb import ADMIN
from wsgipool.httpd.express import free_port

FILES = Path(__file__).parents[2] / "docker" / "cluster"

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
"""Debian keeps servers in /usr/sbin, which is not on everybody's PATH."""
_PATIENCE = 60.0
"""Seconds that a node may take to start or to stop, on a busy machine."""


class Process:
    """A server with a log of its own that is stopped at the end in any case."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {}), "PATH": _PATH},
                start_new_session=True,  # a node starts rsync, which has to end with it
            )

    def wait_for(self, is_ready: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the server runs."""
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what}:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.01)

    def terminate(self) -> None:
        """Shut the server down and wait for its end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)
        self.kill()

    def kill(self) -> None:
        """Kill the server and its processes."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None


class Node(Process):
    """One MariaDB of the cluster."""

    def __init__(self, folder: Path, name: str, account: str | None) -> None:
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        super().__init__(folder / "log")
        self.name = name
        self._folder = folder
        self._account = account
        self.port, self.group_port, self._ist_port, self._sst_port = (free_port() for _ in range(4))
        if account:
            for each in (folder, self._data):
                shutil.chown(each, account)

    def start(self, running: Sequence[Node], password: str) -> None:
        """Start the node beside these nodes, or as the first of a new cluster; return when it can do work."""
        self._password = password
        # While a node sends its data to another, the balancer marks it down. So choose a node that is not in use.
        donors = sorted(running, key=lambda node: node.sessions("shop%"))
        command = self._command("gcomm://" + ",".join(f"127.0.0.1:{node.group_port}" for node in running))
        self.launch([*command, f"--wsrep-sst-donor={','.join(node.name for node in donors)}"])
        self.wait_for(self.can_work, f"{self.name} did not start")

    def admin(self, database: str | None = None) -> Connection:
        return Connection(  # type: ignore[no-untyped-call]
            host="127.0.0.1",
            port=self.port,
            user=ADMIN,
            password=self._password,
            database=database,
            autocommit=True,
            ssl_disabled=True,
            read_timeout=_PATIENCE,
        )

    def run(self, statement: str) -> None:
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def sessions(self, user: str) -> int:
        """Return the number of sessions of the users whose name matches."""
        with self.admin() as connection, connection.cursor() as cursor:
            return int(cursor.execute("SELECT 1 FROM information_schema.processlist WHERE user LIKE %s", (user,)))

    def can_work(self) -> bool:
        try:
            with self.admin() as connection, connection.cursor() as cursor:
                cursor.execute("SHOW STATUS WHERE Variable_name IN ('wsrep_local_state', 'wsrep_cluster_status')")
                return dict(cursor.fetchall()) == {"wsrep_local_state": "4", "wsrep_cluster_status": "Primary"}
        except pymysql.Error:
            return False

    def catch_up(self) -> None:
        """Wait until the node has all transactions that were committed on the others."""
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
            cursor.execute("SELECT 1 FROM mysql.user LIMIT 1")

    def isolate(self, is_isolated: bool) -> None:
        """Cut the node off from the others, or connect it with them again."""
        self.run(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(is_isolated)}'")

    def install(self) -> None:
        """Create the data of a new server without a cluster."""
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", *self._options(), "--auth-root-authentication-method=socket"],
            check=True,
            env={**os.environ, "PATH": _PATH},
            capture_output=True,
        )

    def _command(self, cluster: str) -> list[str | Path]:
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self.group_port}",
            "ist.recv_addr": f"127.0.0.1:{self._ist_port}",
            "gcache.size": "16M",
            # A silent node is evicted after 2 s instead of 5.
            "evs.keepalive_period": "PT0.5S",
            "evs.suspect_timeout": "PT2S",
        }
        return [
            "mariadbd",
            f"--defaults-file={FILES / 'galera.cnf'}",
            *self._options(),
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self._folder / 'sock'}",
            f"--pid-file={self._folder / 'pid'}",
            f"--init-file={self._folder.parent / 'init.sql'}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
            "--max-connections=100",
            f"--wsrep-cluster-address={cluster}",
            f"--wsrep-node-name={self.name}",
            "--wsrep-node-address=127.0.0.1",
            f"--wsrep-sst-receive-address=127.0.0.1:{self._sst_port}",
            "--wsrep-provider-options=" + ";".join(f"{name}={value}" for name, value in provider.items()),
        ]

    def _options(self) -> list[str]:
        options = [
            f"--datadir={self._data}",
            f"--tmpdir={self._folder}",
            # The data is temporary: do not wait for the disk.
            "--loose-debug-no-sync",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-log-file-size=16M",
        ]
        return [*options, f"--user={self._account}"] if self._account else options


class Balancer(Process):
    """HAProxy in front of the nodes."""

    def __init__(self, folder: Path, nodes: Sequence[Node], ends_sessions: bool) -> None:
        folder.mkdir()
        super().__init__(folder / "log")
        self.port = free_port()
        self._nodes = nodes
        self._socket = folder / "admin.sock"
        self._configuration = folder / "haproxy.cfg"
        text = (FILES / "haproxy.cfg").read_text()
        self._configuration.write_text(text if ends_sessions else text.replace(_ENDS_SESSIONS, ""))

    def start(self) -> None:
        nodes = {f"NODE{number}": f"127.0.0.1:{node.port}" for number, node in enumerate(self._nodes, 1)}
        self.launch(
            ["haproxy", "-db", "-f", self._configuration],
            {"CLUSTER": f"127.0.0.1:{self.port}", "ADMIN_SOCKET": str(self._socket), **nodes},
        )
        self.wait_for(self._socket.exists, "HAProxy did not start")

    def wait_for_all(self) -> None:
        """Wait until all nodes are in use, or could be."""
        self.wait_for(lambda: set(self.states().values()) == {"UP"}, f"not all nodes are up: {self.states()}")

    def wait_until_down(self, node: Node) -> None:
        """Wait until the balancer has marked a node down."""
        self.wait_for(lambda: self.states()[node.name] == "DOWN", f"{node.name} is not noticed: {self.states()}")

    def states(self) -> dict[str, str]:
        """Return the state of each node: "UP", "DOWN", or a transition."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket))
            client.sendall(b"show stat -1 4 -1\n")
            answer = client.makefile(newline="").read().removeprefix("# ").strip()
        return {server["svname"]: server["status"] for server in csv.DictReader(answer.splitlines(keepends=True))}


_ENDS_SESSIONS = " on-marked-down shutdown-sessions"


class Cluster:
    """Three nodes and two balancers; a context manager that stops them all."""

    def __init__(self, folder: Path) -> None:
        account = self._account()
        self.password = secrets.token_hex(16)
        self.nodes = [Node(folder / f"node{number}", f"node{number}", account) for number in (1, 2, 3)]
        self.balancers = {
            True: Balancer(folder / "ending", self.nodes, ends_sessions=True),
            False: Balancer(folder / "keeping", self.nodes, ends_sessions=False),
        }
        """The balancers, by whether they end the sessions of a node that is marked down."""
        self._folder = folder

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.balancers.values(), *self.nodes):
            process.kill()

    def start(self) -> None:
        """Start the nodes and the balancers, and return when all can be used."""
        init = self._folder / "init.sql"
        init.write_text(
            f"CREATE USER IF NOT EXISTS {ADMIN}@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {ADMIN}@'%' WITH GRANT OPTION;\n"
            "CREATE USER IF NOT EXISTS balancer@'127.0.0.1' IDENTIFIED VIA mysql_native_password USING '';\n"
        )
        first, *others = self.nodes
        first.install()
        first.start([], self.password)
        init.write_text("")  # the others copy the data
        for node in others:
            node.start([node for node in self.nodes if node.runs], self.password)
        for balancer in self.balancers.values():
            balancer.start()
        self.heal()

    def create_database(self, name: str) -> str:
        """Create a database, and a user of the same name for this database only; return their URL at one node."""
        node = self.nodes[0]
        node.run(f"CREATE DATABASE {name}")
        node.run(f"CREATE USER {name} IDENTIFIED BY '{self.password}'")
        node.run(f"GRANT ALL ON {name}.* TO {name}")
        return f"mysql://{name}:{self.password}@127.0.0.1:{node.port}/{name}"

    def heal(self) -> None:
        """Restore and start all nodes, and wait until all can be used."""
        for node in self.nodes:
            if node.runs:
                node.run("SET GLOBAL read_only = 0")
                node.isolate(False)
            else:
                node.start([node for node in self.nodes if node.runs], self.password)
        for balancer in self.balancers.values():
            balancer.wait_for_all()

    def node_in_use(self, user: str) -> Node:
        """Return the node with the most sessions of a user."""
        return max((node for node in self.nodes if node.runs), key=lambda node: node.sessions(user))

    @staticmethod
    def _account() -> str | None:
        """Return the account to run as: MariaDB refuses to run as root."""
        if os.geteuid() != 0:
            return None
        known = {each.pw_name for each in pwd.getpwall()}
        return next(name for name in ("mysql", "nobody") if name in known)
