"""Other budgets for the same server, found by the files that processes have open."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.file import path_of
from wsgipool.budget.others import OtherBudget, other_budgets

SERVER = "mysql://others-of-the-budget:3306"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Budget]:
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    budget = Budget(folder, SERVER, BudgetLimit(5))
    yield budget
    budget.file.close()


@pytest.mark.usefixtures("other")
def test_a_budget_in_another_folder_is_found(tmp_path: Path) -> None:
    assert other_budgets(path_of(tmp_path / "own", SERVER)) == [
        OtherBudget(tmp_path / "other", os.getpid(), getpass.getuser())
    ]


def test_the_same_budget_is_no_other_one(other: Budget) -> None:
    assert other_budgets(other.path) == []


def test_a_link_to_the_folder_leads_to_the_same_budget(other: Budget, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(other.path.parent)

    assert other_budgets(tmp_path / "link" / other.path.name) == []


def test_a_replaced_file_is_no_other_budget(other: Budget) -> None:
    other.path.unlink()

    assert other_budgets(other.path) == []


@pytest.mark.usefixtures("other")
def test_budgets_of_other_servers_do_not_count(tmp_path: Path) -> None:
    assert other_budgets(path_of(tmp_path / "own", "mysql://another:3306")) == []
