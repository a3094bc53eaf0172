"""A queue on each database, with people in it."""

from collections.abc import Iterator

import pytest

from safety.review.queue import ReviewQueue
from tests.safety.review.people import People
from workbench.store.database import Database


@pytest.fixture
def queue(store_url, tmp_path) -> Iterator[ReviewQueue]:
    database = Database(store_url, folder=tmp_path)
    yield ReviewQueue.over(database, tmp_path)
    database.close()


@pytest.fixture
def people(queue) -> People:
    return People(queue)
