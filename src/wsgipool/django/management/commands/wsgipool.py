"""`manage.py wsgipool plan` and `manage.py wsgipool status`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from wsgipool import pools
from wsgipool.budget.budget import Budget
from wsgipool.cli import main
from wsgipool.django._planning import DjangoSettings
from wsgipool.django._wrapper import PooledWrapper


class Command(BaseCommand):
    """The command `manage.py wsgipool`."""

    help = (
        "plan compares the connections that the site can ask for with those that its databases allow; it takes the "
        "options of the command `wsgipool plan`. status connects to each database and prints its pool and the budget."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("action", choices=("plan", "status"))
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="options of `wsgipool plan`")

    def handle(self, *_: Any, action: str, arguments: list[str], **__: Any) -> None:
        if action == "plan":
            main.main(["plan", *arguments], prog_name="manage.py wsgipool", obj=DjangoSettings())
        elif arguments:
            raise CommandError(f"status takes no {arguments[0]}")
        else:
            self._print_status()

    def _print_status(self) -> None:
        failed = False
        for alias in connections:
            wrapper = connections[alias]
            if not (isinstance(wrapper, PooledWrapper) and wrapper.is_pooled):
                self.stdout.write(f"{alias}: not in a pool of wsgipool")
                continue
            try:
                wrapper.ensure_connection()
            except DatabaseError as error:
                failed = True
                self.stdout.write(f"{alias}: {error}")
                continue
            pool = pools.pool(wrapper.pool_name(wrapper.get_connection_params()))
            budget = pool.permits
            counted = "no budget"
            if isinstance(budget, Budget):
                taken, limit = budget.usage()
                counted = f"{taken} of {limit} connections of this host's budget to {budget.server} are open"
            self.stdout.write(f"{alias}: pool {pool.name!r}, up to {pool.max_size} connections a process; {counted}")
            wrapper.close()
        if failed:
            raise CommandError("not all databases can be reached")
