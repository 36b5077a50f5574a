from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.galera import Cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def running_cluster(servers_folder: Path) -> Iterator[Cluster]:
    folder = servers_folder / "cluster"
    folder.mkdir()
    with Cluster(folder) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster with all its nodes in use."""
    running_cluster.heal()
    return running_cluster


@pytest.fixture
def url(cluster: Cluster) -> str:
    """The URL of a new database, at the first node."""
    return cluster.create_database(f"shop{next(_numbers)}")
