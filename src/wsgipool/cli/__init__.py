"""The command line: `wsgipool serve`, `demo`, `plan`, `doctor`, `status`, `top`, `drain`, `apache`."""

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
from wsgipool.cli.drain import drain
from wsgipool.cli.plan import plan
from wsgipool.cli.serve import serve
from wsgipool.cli.status import status
from wsgipool.cli.top import top
from wsgipool.cli.typed import typed
from wsgipool.httpd.dump import HttpdConfigError
from wsgipool.wording import printable, shortened


class _Commands(click.Group):
    """A group of commands that prints the package's errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # Print characters that the terminal lacks, and undecodable bytes of paths, as escapes.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            with _safe_umask():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # as with `| head`; click exits quietly
        except HttpdConfigError as error:
            # httpd's messages may have several lines.
            _fail(str(error), keep="\n")
        except wsgipool.Error as error:
            _fail(str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            _fail(f"{where}{error.strerror or error}")


def _fail(message: str, keep: str = "") -> NoReturn:
    click.echo(f"wsgipool: {printable(typed(shortened(message)), keep)}", err=True)
    sys.exit(1)


@contextmanager
def _safe_umask() -> Iterator[None]:
    """Create files that only their owner can write, whatever the umask of the shell is."""
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
main.add_command(status)
main.add_command(top)
main.add_command(drain)
main.add_command(apache)
