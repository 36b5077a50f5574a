"""The syntax errors that `wsgipool serve` finds before it starts httpd."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest

from wsgipool.cli.syntax import syntax_error
from wsgipool.impersonation import as_user


@pytest.fixture
def script(servers_folder: Path) -> Path:
    """A script in a folder that all users can enter."""
    folder = Path(tempfile.mkdtemp(dir=servers_folder))
    folder.chmod(0o755)
    path = folder / "app.wsgi"
    path.write_text("import shop\n")
    return path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1\ndef f(:\n", ", line 2: SyntaxError: invalid syntax."),
        ("if True:\nx\n", ", line 2: IndentationError: expected an indented block after 'if' statement on line 1."),
        ("return 1\n", ", line 1: SyntaxError: 'return' outside function."),
    ],
)
def test_a_syntax_error_is_named_with_file_and_line(script: Path, text: str, error: str) -> None:
    script.write_text(text)

    assert syntax_error(script) == f"{script}{error}"


@pytest.mark.parametrize("content", [b"a\0b", b"# coding: latin-9000\n", b"x = '\xff'\n"])
def test_a_file_that_is_no_python_is_an_error(script: Path, content: bytes) -> None:
    script.write_bytes(content)

    assert str(syntax_error(script)).startswith(str(script))


def test_a_module_that_cannot_be_read_is_an_error(script: Path) -> None:
    (script.parent / "shop.py").write_text("")
    (script.parent / "shop.py").chmod(0)

    error = as_user("nobody", partial(syntax_error, script)) if os.geteuid() == 0 else syntax_error(script)

    assert error == f"{script.parent}/shop.py: Permission denied."


def test_modules_beside_the_script_are_compiled_too(script: Path) -> None:
    write(script.parent, {"shop.py": "import views\n", "views.py": "def page(:\n"})

    assert syntax_error(script) == f"{script.parent}/views.py, line 1: SyntaxError: invalid syntax."


@pytest.mark.parametrize(
    "statement",
    [
        "import shop.pages.home",
        "from shop.pages import home",
        "from shop.pages.home import page",
        "from shop import api",
    ],
)
def test_modules_of_packages_are_found(script: Path, statement: str) -> None:
    script.write_text(f"{statement}\n")
    broken = "shop/pages/home.py" if "home" in statement else "shop/api.py"
    write(script.parent, {"shop/__init__.py": "", "shop/pages/__init__.py": "", broken: "def page(:\n"})

    assert str(syntax_error(script)).startswith(f"{script.parent}/{broken}, line 1: ")


def test_relative_imports_are_found(script: Path) -> None:
    files = {"__init__": "from . import api\n", "api": "from .pages import home\n", "models": "x = (\n"}
    files |= {"pages/__init__": "", "pages/home": "from .. import models\n"}
    write(script.parent, {f"shop/{name}.py": text for name, text in files.items()})

    assert str(syntax_error(script)).startswith(f"{script.parent}/shop/models.py, line 1: ")


def test_modules_that_import_each_other_are_compiled_once(script: Path) -> None:
    write(script.parent, {"shop.py": "import views, os, no_such_module\n", "views.py": "import shop\n"})

    assert syntax_error(script) is None


def test_modules_that_the_script_does_not_import_may_be_broken(script: Path) -> None:
    write(script.parent, {"shop.py": "", "draft.py": "def page(:\n"})

    assert syntax_error(script) is None


def test_nothing_is_executed(script: Path) -> None:
    script.write_text("raise SystemExit\n")

    assert syntax_error(script) is None


def test_a_file_whose_tree_is_too_deep_to_search_is_compiled_all_the_same(script: Path) -> None:
    script.write_text(f"x = {'+'.join(['1'] * 1500)}\n")
    assert syntax_error(script) is None

    script.write_text(f"x = {'+'.join(['1'] * 1500)}\nreturn\n")
    assert str(syntax_error(script)).startswith(f"{script}, line 2: SyntaxError: ")
