"""The description of a process from inside, with a fake server; tests/httpd has real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wsgipool.httpd import process as httpd


@pytest.fixture
def mod_wsgi(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fakes of mod_wsgi's module in a daemon process, and of httpd's functions."""
    server: Any = ModuleType("mod_wsgi")
    server.process_group, server.application_group = "shop", ""
    server.threads_per_process, server.maximum_processes = 15, 4
    apache: Any = ModuleType("apache")
    apache.mpm_name = "event"
    monkeypatch.setitem(sys.modules, "mod_wsgi", server)
    monkeypatch.setitem(sys.modules, "apache", apache)
    return server


def script(path: Path) -> ModuleType:
    module = ModuleType("script")
    module.__file__ = str(path)
    return module


def test_outside_httpd_there_is_nothing_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mod_wsgi", None)

    assert httpd.mod_wsgi() is None
    assert httpd.this_process() is None
    assert httpd.define("WSGIPOOL_CONFIG") is None


def test_the_package_that_starts_servers_is_not_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mod_wsgi", ModuleType("mod_wsgi"))

    assert httpd.this_process() is None


@pytest.mark.usefixtures("mod_wsgi")
def test_a_daemon_process_knows_its_group() -> None:
    process = httpd.this_process()

    assert process == httpd.HttpdProcess("event", "shop", "", threads=15, max_processes=4)
    assert str(process) == (
        "daemon process group 'shop' (Apache's MPM: event), 15 threads a process, at most 4 processes"
    )


def test_an_embedded_process_asks_the_mpm(mod_wsgi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mod_wsgi.process_group = ""
    monkeypatch.setattr(httpd, "_ask_mpm", {6: 25, 12: 16}.get)

    process = httpd.this_process()

    assert process == httpd.HttpdProcess("event", "", "", threads=25, max_processes=16)
    assert process.embedded


def test_if_the_mpm_does_not_answer_mod_wsgi_does(mod_wsgi: Any) -> None:
    mod_wsgi.process_group = ""

    process = httpd.this_process()

    assert process == httpd.HttpdProcess("event", "", "", threads=15, max_processes=4)


def test_prefork_has_one_thread_although_its_mpm_says_none(mod_wsgi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mod_wsgi.process_group, mod_wsgi.threads_per_process = "", 0
    monkeypatch.setattr(httpd, "_ask_mpm", {6: 0, 12: 256}.get)

    process = httpd.this_process()

    assert process is not None
    assert (process.threads, process.max_processes) == (1, 256)


@pytest.mark.parametrize(
    ("group", "mpm", "lingers"),
    [("", "worker", True), ("", "event", True), ("", "prefork", False), ("", "new", False), ("shop", "worker", False)],
)
def test_an_embedded_child_with_threads_lingers_with_its_last_request(
    mod_wsgi: Any, group: str, mpm: str, lingers: bool
) -> None:
    mod_wsgi.process_group = group
    sys.modules["apache"].mpm_name = mpm  # type: ignore[attr-defined]

    process = httpd.this_process()

    assert process is not None
    assert process.lingers == lingers


@pytest.mark.parametrize(("state", "is_stopping"), [(None, False), (0, False), (1, False), (2, True)])
def test_the_mpm_says_whether_a_child_is_to_end(
    state: int | None, is_stopping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpd, "_ask_mpm", {13: state}.get)

    assert httpd.is_stopping() == is_stopping


ATTRIBUTES = ("threads_per_process", "maximum_processes", "application_group")


@pytest.mark.parametrize("missing", [*((name,) for name in ATTRIBUTES), ATTRIBUTES])
def test_a_daemon_process_works_without_an_attribute_of_mod_wsgi(mod_wsgi: Any, missing: tuple[str, ...]) -> None:
    for name in missing:
        delattr(mod_wsgi, name)

    assert httpd.this_process() == httpd.HttpdProcess(
        "event",
        "shop",
        "",
        threads=15,  # mod_wsgi's default, which it also reports here
        max_processes=1 if "maximum_processes" in missing else 4,
    )


@pytest.mark.parametrize(
    ("mpm", "threads", "max_processes"), [("prefork", 1, 256), ("worker", 25, 16), ("event", 25, 16), ("new", 25, 1)]
)
def test_an_embedded_process_without_answers_uses_the_defaults_of_its_mpm(
    mod_wsgi: Any, mpm: str, threads: int, max_processes: int
) -> None:
    mod_wsgi.process_group = ""
    sys.modules["apache"].mpm_name = mpm  # type: ignore[attr-defined]
    for name in ATTRIBUTES:
        delattr(mod_wsgi, name)

    assert httpd.this_process() == httpd.HttpdProcess(mpm, "", "", threads, max_processes)


def test_a_daemon_group_without_threads_has_the_thread_of_its_scripts(mod_wsgi: Any) -> None:
    mod_wsgi.threads_per_process = 0

    assert httpd.this_process() == httpd.HttpdProcess("event", "shop", "", threads=1, max_processes=4)


@pytest.mark.parametrize("value", [None, -1, "many"])
def test_an_attribute_that_is_not_a_number_is_ignored(mod_wsgi: Any, value: object) -> None:
    mod_wsgi.threads_per_process = mod_wsgi.maximum_processes = value

    assert httpd.this_process() == httpd.HttpdProcess("event", "shop", "", threads=15, max_processes=1)


def test_without_the_module_apache_httpd_names_its_mpm(mod_wsgi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mod_wsgi
    monkeypatch.delitem(sys.modules, "apache")
    monkeypatch.setattr(httpd, "_shown_mpm", lambda: "worker")

    process = httpd.this_process()

    assert process is not None
    assert process.mpm == "worker"


def test_without_the_module_apache_and_httpd_the_mpm_is_unknown(mod_wsgi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mod_wsgi
    monkeypatch.delitem(sys.modules, "apache")

    process = httpd.this_process()

    assert process is not None
    assert process.mpm == "unknown"


def test_a_shutdown_callback_is_registered(mod_wsgi: Any) -> None:
    callbacks: list[object] = []
    mod_wsgi.subscribe_shutdown = callbacks.append

    httpd.at_shutdown(print)

    assert callbacks == [print]


@pytest.mark.usefixtures("mod_wsgi")
def test_a_mod_wsgi_without_shutdown_callbacks_is_accepted() -> None:
    httpd.at_shutdown(print)


def test_the_script_of_the_application_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_mod_wsgi_0123", script(tmp_path / "handler.wsgi"))
    monkeypatch.setitem(sys.modules, "__wsgi__", script(tmp_path / "app.wsgi"))

    assert httpd.wsgi_scripts() == [tmp_path / "app.wsgi", tmp_path / "handler.wsgi"]


def test_outside_a_server_there_are_no_scripts() -> None:
    assert httpd.wsgi_scripts() == []
