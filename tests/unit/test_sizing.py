from __future__ import annotations

import pytest

from wsgipool.sizing import pool_size


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_threads_is_a_connection_a_thread(threads: int) -> None:
    assert pool_size("threads", threads) == threads


@pytest.mark.parametrize(
    ("max_size", "threads", "expected"),
    [("threads/2", 8, 4), ("threads/2", 7, 4), ("threads/3", 25, 9), ("threads/2", 1, 1), ("threads/100", 8, 1)],
)
def test_a_share_of_the_threads_is_rounded_up(max_size: str, threads: int, expected: int) -> None:
    assert pool_size(max_size, threads) == expected


@pytest.mark.parametrize(("max_size", "threads", "expected"), [(3, 8, 3), (8, 8, 8), (40, 25, 25), (10, 1, 1)])
def test_a_number_is_taken_as_far_as_there_are_threads_to_use_it(max_size: int, threads: int, expected: int) -> None:
    assert pool_size(max_size, threads) == expected
