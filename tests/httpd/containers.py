"""The Docker engine of the container `tests`, and containers of the images of docker/compose.yaml."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import pymysql

from httpd.harness import APP, RunningSite, Settings, SiteOptions, add_budget, eventually, write_config
from wsgipool.demo.mariadb import LocalServer, MariaDB, Server
from wsgipool.httpd.express import PACKAGE

COMPOSE_FILE = Path("docker/compose.yaml")
"""The path in the image."""
RESULTS = Path("/results")
"""The results of a run; see docker/compose-test."""

_WHILE_STARTING = 120.0
"""Seconds until a container must be healthy, on a busy machine where others start, too."""


def docker(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command of the docker client; return what it printed."""
    outcome = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert outcome.returncode == 0, f"docker {' '.join(map(str, arguments))}: {outcome.stdout}{outcome.stderr}"
    return outcome.stdout


class Container:
    """A container of the engine, by name or id."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.name))[0]
        return found

    def address_on(self, network: str) -> str:
        """Return its IP address."""
        return str(self.inspect()["NetworkSettings"]["Networks"][network]["IPAddress"])

    def published_port(self) -> str:
        """Return the port on the engine's host that is published for httpd's."""
        return str(self.inspect()["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"])

    def is_running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    def is_healthy(self) -> bool:
        return bool(self.inspect()["State"]["Health"]["Status"] == "healthy")

    def start(self) -> None:
        docker("start", self.name)

    def signal(self, name: str) -> None:
        docker("kill", f"--signal={name}", self.name)

    def pause(self) -> None:
        """Suspend all its processes."""

        def is_frozen() -> bool:
            try:
                docker("pause", self.name)
            except AssertionError as error:
                # With cgroups v1 the kernel may fail to freeze all processes of a busy container at once.
                if "unable to freeze" not in str(error):
                    raise
                return False
            return True

        eventually(is_frozen, f"{self.name} to be frozen")

    def unpause(self) -> None:
        docker("unpause", self.name)

    def stop(self, signal: str) -> None:
        """Send the signal and wait for the end."""
        if self.is_running():
            self.signal(signal)
            docker("wait", self.name)

    def stderr(self) -> str:
        outcome = subprocess.run(["docker", "logs", self.name], capture_output=True, check=True)
        return outcome.stderr.decode(errors="replace")

    def remove(self) -> None:
        """Remove the container, but keep its log."""
        logs = RESULTS / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{self.name}.log").write_text(self.stderr())
        docker("rm", "--force", "--volumes", self.name)


def wait_until_healthy(containers: list[Container]) -> None:
    eventually(lambda: all(container.is_healthy() for container in containers), "them to be healthy", _WHILE_STARTING)


class Compose:
    """The compose project that this container belongs to."""

    @cached_property
    def project(self) -> str:
        labels = Container(socket.gethostname()).inspect()["Config"]["Labels"]
        return str(labels["com.docker.compose.project"])

    def network(self, name: str) -> str:
        return f"{self.project}_{name}"

    def containers(self, service: str) -> list[Container]:
        """Return the containers of a service, without those of `compose run`."""
        labels = {"project": self.project, "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        names = docker("ps", "--all", "--format={{.Names}}", *filters).split()
        return [Container(name) for name in sorted(names)]

    def container(self, service: str) -> Container:
        (only,) = self.containers(service)
        return only

    def scale(self, service: str, number: int, *, hosts: int, port: str) -> None:
        """Run a number of containers of a service, with a budget for a number of hosts; return when they are healthy.

        `port` is published; 0 is one that the engine chooses, for each its own.
        """
        docker(
            "compose", f"--project-name={self.project}", f"--file={COMPOSE_FILE}",
            "up", "--detach", "--no-build", "--no-deps", f"--scale={service}={number}", service,
            environment={"WSGIPOOL_HOSTS": str(hosts), f"{service.upper()}_PORT": port},
        )  # fmt: skip
        wait_until_healthy(self.containers(service))

    @contextmanager
    def created(
        self, service: str, environment: Mapping[str, str], *arguments: str, networks: tuple[str, ...]
    ) -> Iterator[Container]:
        """Create, but do not start, a container like the service's with another environment."""
        config = self.container(service).inspect()["Config"]
        name = f"{self.project}-test-{service}-{secrets.token_hex(4)}"
        with tempfile.NamedTemporaryFile("w") as file:
            # The later one of equal names counts.
            file.writelines(f"{line}\n" for line in config["Env"])
            file.writelines(f"{name}={value}\n" for name, value in environment.items())
            file.flush()
            docker(
                "create", f"--name={name}", f"--network={self.network(networks[0])}", f"--env-file={file.name}",
                "--no-healthcheck", config["Image"], *arguments,
            )  # fmt: skip
        container = Container(name)
        try:
            for network in networks[1:]:
                docker("network", "connect", self.network(network), name)
            yield container
        finally:
            container.remove()


class MariaDBContainer(Server):
    """A MariaDB in a separate container."""

    def __init__(self, container: Container, password: str) -> None:
        super().__init__(container.name, 3306, password)
        self._container = container

    def start(self) -> None:
        self._container.start()
        eventually(self._answers, "MariaDB to answer")

    def stop(self) -> None:
        self._container.stop("TERM")

    def _answers(self) -> bool:
        assert self._container.is_running(), self._container.stderr()
        try:
            with self.admin():
                return True
        except pymysql.OperationalError:
            return False


class ContainerSite(RunningSite):
    """A site in a separate container."""

    def __init__(self, container: Container) -> None:
        super().__init__(f"http://{container.name}:8080", Path("/run/wsgipool"))
        self._container = container
        self._last_log: str | None = None

    def log(self) -> str:
        return self._container.stderr() if self._last_log is None else self._last_log

    def end(self) -> None:
        """Stop httpd and keep its log, which tests read after the container was removed."""
        self._container.stop("TERM")
        self._last_log = self._container.stderr()

    def touch(self, path: Path) -> None:
        docker("exec", self._container.name, "touch", path)

    def children(self) -> list[int]:
        return [int(child) for child in docker("exec", self._container.name, "cat", "/proc/1/task/1/children").split()]

    def kill(self, pid: int) -> bool:
        command = ["docker", "exec", self._container.name, "sh", "-c", f"kill -KILL {pid}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def graceful_restart(self) -> None:
        self._container.signal("USR1")

    def stop_gracefully(self) -> None:
        self._container.stop("WINCH")

    def has_ended(self) -> bool:
        return not self._container.is_running()


class Containers:
    """A Place: containers of the compose services' images."""

    def __init__(self, compose: Compose, folder: Path) -> None:
        self._compose = compose
        self._folder = folder

    @contextmanager
    def running_site(
        self, mode: str, databases: dict[str, str], **options: Unpack[SiteOptions]
    ) -> Iterator[ContainerSite]:
        config = self._folder / "wsgipool.toml"
        write_config(config, databases, options.get("settings", {}))
        if "budget" in options:
            add_budget(config, Path("/run/wsgipool/budget"), options["budget"])
        environment = {
            "WSGIPOOL_PROCESSES": str(options["processes"]),
            "WSGIPOOL_THREADS": str(options.get("threads", 1)),
        }
        # The image has the demo site, at a path that depends on its Python.
        if "script" not in options or not options["script"].is_relative_to(PACKAGE):
            environment["WSGIPOOL_SCRIPT"] = "/srv/app.wsgi"
        with self._compose.created(mode, environment, networks=("front", "back")) as container:
            app = Path(shutil.copytree(APP, self._folder / "srv"))
            docker("cp", "--archive", f"{app}/.", f"{container.name}:/srv")
            docker("cp", "--archive", config, f"{container.name}:/etc/wsgipool.toml")
            container.start()
            eventually(lambda: _accepts(container), "httpd to accept connections")
            site = ContainerSite(container)
            yield site
            site.end()

    @contextmanager
    def running_mariadb(self, settings: Settings, kind: type[LocalServer] = MariaDB) -> Iterator[MariaDBContainer]:
        assert kind is MariaDB
        password = secrets.token_hex(16)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        environment = {"MARIADB_ADMIN_PASSWORD": password, "MARIADB_DATABASE": "unused", "MARIADB_USER": "unused"}
        with self._compose.created("db", environment, *options, networks=("back",)) as container:
            server = MariaDBContainer(container, password)
            server.start()
            yield server
            server.stop()


def _accepts(container: Container) -> bool:
    assert container.is_running(), container.stderr()
    try:
        socket.create_connection((container.name, 8080), timeout=1).close()
    except OSError:
        return False
    return True
