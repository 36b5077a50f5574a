"""The package as it is installed."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner

import wsgipool
from unit.fakes import run_python
from wsgipool import errors
from wsgipool.cli import main

PACKAGE = Path(wsgipool.__file__).parent


def test_the_public_names() -> None:
    assert wsgipool.__all__ == [
        "CacheDeadlock",
        "CacheStats",
        "CacheTimeout",
        "ConfigError",
        "ConnectFailed",
        "Error",
        "LockError",
        "LockLost",
        "LockOrderError",
        "LockTimeout",
        "Locks",
        "Middleware",
        "Pool",
        "PoolClosed",
        "PoolDeadlock",
        "PoolError",
        "PoolTimeout",
        "SharedCache",
        "Stats",
        "TooManyRequests",
        "WrongThread",
        "close",
        "configure",
        "connection",
        "pool",
        "transaction",
    ]


@pytest.mark.parametrize("name", wsgipool.__all__)
def test_every_public_name_is_there_and_says_what_it_is_for(name: str) -> None:
    assert inspect.getdoc(getattr(wsgipool, name))


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}

    assert defined <= set(wsgipool.__all__)


@pytest.mark.parametrize("name", ["ConnectFailed", "PoolClosed", "PoolDeadlock", "PoolTimeout"])
def test_what_a_site_answers_with_503_is_a_pool_error(name: str) -> None:
    assert issubclass(getattr(wsgipool, name), wsgipool.PoolError)


def test_a_wrong_setting_is_no_pool_error() -> None:
    assert issubclass(wsgipool.ConfigError, wsgipool.Error)
    assert not issubclass(wsgipool.ConfigError, wsgipool.PoolError)


def test_the_version_is_the_one_of_the_metadata() -> None:
    assert wsgipool.__version__ == importlib.metadata.version("wsgipool")


def test_the_command_line_says_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"wsgipool, version {wsgipool.__version__}\n"


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "daemon.conf",
        "mpm-event.conf",
        "mpm-prefork.conf",
        "mpm-worker.conf",
        "status.conf",
        "wsgipool.conf",
        "wsgipool.toml",
    ],
)
def test_the_apache_files_are_installed(name: str) -> None:
    assert (PACKAGE / "apache" / name).is_file()


def test_the_files_that_the_drop_in_includes_are_installed() -> None:
    lines = (PACKAGE / "apache" / "wsgipool.conf").read_text().splitlines()
    naming = [line for line in lines if line.lstrip().startswith(("Include ", "WSGIImportScript "))]
    named = [line.split()[1].strip('"') for line in naming]

    assert len(named) == 6
    assert all(Path(path.replace("${WSGIPOOL_HOME}", str(PACKAGE))).is_file() for path in named)


FOREIGN = """
import sys
sys.modules["cryptography"] = None  # which PyMySQL imports where it is installed
before = set(sys.modules)
import wsgipool
{use}
packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(packages - set(sys.stdlib_module_names) - {{"wsgipool"}}))
"""


def test_importing_the_package_imports_nothing_but_the_standard_library() -> None:
    assert run_python(FOREIGN.format(use="")) == "[]\n"


def test_using_a_mysql_database_imports_nothing_more_than_its_driver() -> None:
    use = 'wsgipool.configure({"databases": {"orders": {"url": "mysql://db/orders"}}}); wsgipool.pool("orders")'

    assert run_python(FOREIGN.format(use=use)) == "['pymysql']\n"


def test_the_preload_handler_imports_nothing_more_than_a_driver() -> None:
    use = f"import runpy; runpy.run_path({str(PACKAGE / 'handlers' / 'preload.py')!r})"

    assert run_python(FOREIGN.format(use=use)) in ("[]\n", "['pymysql']\n")


def test_what_httpd_loads_needs_nothing_of_the_command_line() -> None:
    program = """
import sys
import wsgipool, wsgipool.request, wsgipool.drivers.pymysql, wsgipool.handlers.preload
print(sorted({"click", "rich", "tomlkit", "tomli_w", "subprocess"} & set(sys.modules)))
"""
    assert run_python(program).splitlines()[-1] == "[]"
