"""The command line: `wsgipool serve`, `demo`, `plan`, `doctor`, `locks`, `apache`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

import wsgipool
from wsgipool.cli.apache import apache
from wsgipool.cli.demo import demo
from wsgipool.cli.doctor import doctor
from wsgipool.cli.locks import locks
from wsgipool.cli.plan import plan
from wsgipool.cli.serve import serve
from wsgipool.httpd.dump import ConfigurationError
from wsgipool.wording import printable, shortened


class _Commands(click.Group):
    """Shows the package's own errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # What the terminal's character set lacks, or a path has that is no text, is shown as a number.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            with _files_of_our_own():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `| head`: click ends quietly
        except ConfigurationError as error:
            # httpd's own words, on lines of their own.
            _fail(str(error), keep="\n")
        except wsgipool.Error as error:
            _fail(str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            _fail(f"{where}{error.strerror or error}")


def _fail(message: str, keep: str = "") -> NoReturn:
    click.echo(f"wsgipool: {printable(shortened(message), keep)}", err=True)
    sys.exit(1)


@contextmanager
def _files_of_our_own() -> Iterator[None]:
    """Let nobody else write the files that are made, whatever the umask of the shell is."""
    umask = os.umask(0o022)
    os.umask(umask | 0o022)
    try:
        yield
    finally:
        os.umask(umask)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(wsgipool.__version__, prog_name="wsgipool")
def main() -> None:
    """One database connection pool per Apache process, sized to the MPM."""


main.add_command(serve)
main.add_command(demo)
main.add_command(plan)
main.add_command(doctor)
main.add_command(locks)
main.add_command(apache)
