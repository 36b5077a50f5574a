from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker.visitors import Database
from httpd.containers import Compose


@pytest.fixture(scope="session")
def compose() -> Compose:
    """The services of docker/compose.yaml, which run the demo site."""
    return Compose()


@pytest.fixture
def database(compose: Compose) -> Iterator[Database]:
    """The service db, as its administrator sees it; after the test it works again."""
    database = Database(compose)
    yield database
    database.wait_until_it_answers()
