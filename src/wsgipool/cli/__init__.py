"""The command line: `wsgipool serve`, `demo`, `plan`, `doctor`, `locks`, `apache`."""

from __future__ import annotations

import sys
from typing import Any

import click

import wsgipool
from wsgipool.cli.apache import apache
from wsgipool.cli.demo import demo
from wsgipool.cli.doctor import doctor
from wsgipool.cli.locks import locks
from wsgipool.cli.plan import plan
from wsgipool.cli.serve import serve


class _Commands(click.Group):
    """Shows the package's own errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except wsgipool.Error as error:
            click.echo(f"wsgipool: {error}", err=True)
            sys.exit(1)


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
