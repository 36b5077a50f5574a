"""The installed package."""

from __future__ import annotations

import ast
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

ORDER = [
    *("errors", "wording", "showing", "records", "files", "hints", "histogram", "plan"),
    *("_code", "_runtime", "_wakeup", "_background"),
    *("database_url", "_values", "_passwords", "_queries", "config"),
    "shared",
    *("httpd", "impersonation", "privileged"),
    "drivers",
    "budget",
    "pool",
    *("_sources", "_collection", "pools", "_keyed"),
    *("locks", "cache"),
    "request",
    "scoreboard",
    "wsgipool",
    "sqlalchemy",
    *("_checkouts", "_connection_proxy", "_stand_in", "pymysql", "MySQLdb"),
    *("doctor", "auth", "handlers", "demo", "otel", "pytest"),
    *("cli", "__main__"),
    "django",
]
"""The parts of the package. Each may import only earlier ones; docs/inside/architecture.md says why."""


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
        "drain",
        "pool",
        "register",
        "transaction",
    ]


@pytest.mark.parametrize("name", wsgipool.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(wsgipool, name))


def test_every_error_is_public() -> None:
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.Error)
    }

    assert defined <= set(wsgipool.__all__)


@pytest.mark.parametrize("name", ["ConnectFailed", "PoolClosed", "PoolDeadlock", "PoolTimeout"])
def test_errors_for_a_503_are_pool_errors(name: str) -> None:
    assert issubclass(getattr(wsgipool, name), wsgipool.PoolError)


def test_a_wrong_setting_is_no_pool_error() -> None:
    assert issubclass(wsgipool.ConfigError, wsgipool.Error)
    assert not issubclass(wsgipool.ConfigError, wsgipool.PoolError)


def test_the_version_is_the_one_of_the_metadata() -> None:
    assert wsgipool.__version__ == importlib.metadata.version("wsgipool")


def test_the_command_line_prints_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"wsgipool, version {wsgipool.__version__}\n"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "health.conf",
        "metrics.conf",
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
    naming = [line for line in lines if line.lstrip().startswith("Include ")]
    named = [line.split()[1].strip('"') for line in naming]

    assert len(named) == 6
    assert all(Path(path.replace("${WSGIPOOL_HOME}", str(PACKAGE))).is_file() for path in named)


def part_of(module: str) -> str:
    """Return the part that a module belongs to: "wsgipool.pool._slot" to "pool"."""
    return module.split(".")[1] if "." in module else module


def parts_used(tree: ast.Module) -> set[str]:
    """Return the parts that a module imports, inside functions too."""
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names if alias.name.startswith("wsgipool.")]
        elif isinstance(node, ast.ImportFrom) and node.module == "wsgipool":
            modules += [f"wsgipool.{alias.name}" if alias.name in ORDER else "wsgipool" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsgipool."):
            modules.append(str(node.module))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wsgipool":
            # __file__ and __path__ exist before the public names.
            modules += [] if node.attr in ("__file__", "__path__") else ["wsgipool"]
    return set(map(part_of, modules))


def test_imports_run_downwards() -> None:
    found: set[str] = set()
    upwards: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        part = "wsgipool" if part == "__init__" else part
        found.add(part)
        allowed = ORDER[: ORDER.index(part) + 1]
        used = parts_used(ast.parse(path.read_text()))
        upwards += [f"{path.relative_to(PACKAGE)} imports {other}" for other in used if other not in allowed]

    assert upwards == []
    assert found == set(ORDER)


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


def test_modules_that_httpd_loads_import_nothing_of_the_command_line() -> None:
    program = """
import sys
import wsgipool, wsgipool.request, wsgipool.drivers.pymysql, wsgipool.handlers.preload
print(sorted({"click", "rich", "tomlkit", "subprocess"} & set(sys.modules)))
"""
    assert run_python(program).splitlines()[-1] == "[]"
