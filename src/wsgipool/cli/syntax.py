"""Syntax errors of a script and of the modules beside it that it imports, found without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def syntax_error(script: Path) -> str | None:
    """Return the first syntax error in a script or in a module of its folder; None if there is none.

    A file that this user may not read counts, too.
    """
    waiting, seen = [script], {script}
    while waiting:
        file = waiting.pop(0)
        try:
            source = file.read_bytes()
            compile(source, str(file), "exec", dont_inherit=True)  # finds more than ast, such as a misplaced `return`
            tree = ast.parse(source, str(file))
        except SyntaxError as error:
            line = "" if error.lineno is None else f", line {error.lineno}"
            return f"{file}{line}: {type(error).__name__}: {error.msg}."
        except (OSError, ValueError) as error:
            return f"{file}: {getattr(error, 'strerror', None) or error}."
        except RecursionError:
            continue  # Python compiles it, but its tree is too deep to look for imports
        imported = [each for each in _imports(tree, file, script.parent) if each not in seen]
        seen.update(imported)
        waiting += dict.fromkeys(imported)
    return None


def _imports(tree: ast.AST, file: Path, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else folder
            module = f"{node.module}." if node.module else ""
            for alias in node.names:
                yield from _files(start, module + alias.name)


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of a dotted name: those of its packages, and its module."""
    for part in name.split("."):
        for file in (folder / part / "__init__.py", folder / f"{part}.py"):
            with suppress(OSError):  # a folder that this user may not enter
                if file.is_file():
                    yield file
        folder /= part
