"""A real Ray cluster on this machine: what several workers answer is what one process answers, whoever is killed."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.engines.prefix_tree import plan_requests
from workbench.engines.ray_workers import SHARDS_PER_WORKER, cut_shards
from workbench.errors import RunError
from workbench.evaluation import EvaluationRequest, Listener
from workbench.moderation import ModerationRequest, moderate
from workbench.pipeline import evaluate_many
from workbench.store import Project

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning:ray.*")
ASKED = {"suites": ["sample-domain", "sample-general"], "limit": 24, "batch_tokens": 256}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("workers")
    save_tiny_checkpoint(home / "model")
    return home


@pytest.fixture(scope="module", autouse=True)
def cluster_ends() -> Any:
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def workers_here() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Worker")]


def test_a_killed_worker_changes_no_bit_of_a_report(home: Path) -> None:
    alone = evaluate_many([home / "model"], project=home / "alone", request=EvaluationRequest(**ASKED)).evaluated[0]
    killed: list[int] = []

    def kill_one(_: Any, report: Any) -> None:
        if 0 < report.done < report.total and not killed:
            killed.append(workers_here()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    request = EvaluationRequest(**ASKED, workers="2")
    listener = Listener(on_progress=kill_one)
    many = evaluate_many([home / "model"], project=home / "many", request=request, listener=listener).evaluated[0]
    assert killed and "a worker died" in many.report.environment["notes"]
    assert many.report.id == alone.report.id and many.items == alone.items
    files = [next((home / name / "reports").rglob("*.parquet")).read_bytes() for name in ("alone", "many")]
    assert files[0] == files[1]
    # prefixes are still shared: what is computed twice at the borders of shards is less than what sharing saves
    assert alone.usage and many.usage
    once, twice = alone.usage.prompt_tokens, many.usage.prompt_tokens
    assert once <= twice < 1.5 * once < many.usage.naive_tokens
    with Project.find(home / "many") as project:
        paid = project.store.ledger.count()
    again = evaluate_many([home / "model"], project=home / "many", request=request).evaluated[0]
    assert (again.computed, again.reused, again.report.id) == (0, paid, alone.report.id)


def test_moderation_by_workers_writes_the_bytes_of_one_process(home: Path) -> None:
    posts = [{"id": str(n), "text": f"The market sold {n} apples"} for n in range(24)]
    (home / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))

    def run(name: str, workers: str | None) -> bytes:
        output = home / name
        request = ModerationRequest(
            policy="moderation",
            input=home / "posts.jsonl",
            output=output,
            min_mass=1e-9,
            chunk=12,
            batch_tokens=256,
            workers=workers,
        )
        moderate(home / "model", project=home / "posts", request=request)
        return output.read_bytes()

    assert run("two.jsonl", "2") == run("one.jsonl", None)


def test_what_kills_every_worker_ends_the_run_with_what_was_answered_kept(home: Path) -> None:
    def kill_all(*_: Any) -> None:
        for process in workers_here():
            os.kill(process.pid, signal.SIGKILL)

    request = EvaluationRequest(**(ASKED | {"seed": 1}), workers="2")
    with pytest.raises(RunError, match=r"a worker died .*; none is left, what was answered before is kept"):
        evaluate_many([home / "model"], project=home / "none", request=request, listener=Listener(on_loaded=kill_all))


def test_shards_are_whole_tiles_in_order_and_compute_hardly_anything_twice() -> None:
    """Forty subjects with long examples, ten questions each, four choices: the tree of a real suite."""
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(40):
        shots = rng.integers(0, 40_000, 500).tolist()
        for _ in range(10):
            asked = shots + rng.integers(0, 40_000, int(rng.integers(40, 140))).tolist()
            requests += [(tuple(asked), (choice,)) for choice in range(4)]
    names, sequences = ["mmlu"] * len(requests), [context + choice[:-1] for context, choice in requests]
    plan = plan_requests(requests, budget=1024, path_limit=40_000, tiles=names)
    tiles = [list(batch.requests) for batch in plan.batches if batch.requests]
    everything = set(range(len(requests)))

    def cost(shards: list[tuple[int, ...]]) -> int:
        pending = [plan.pending(everything - set(shard)) for shard in shards]
        return sum(len(plan.batches[batch].tokens) for batches in pending for batch in batches)

    for workers in (2, 4):
        shards = cut_shards(tiles, sequences, names, workers)
        assert [i for shard in shards for i in shard] == [i for tile in tiles for i in tile]
        assert workers <= len(shards) <= workers * SHARDS_PER_WORKER
        even = np.array_split(np.array([i for tile in tiles for i in tile]), len(shards))
        assert cost(shards) < 1.2 * plan.tokens
        assert cost(shards) < cost([tuple(part.tolist()) for part in even])
    answered = [[i for i in tile if i % 3] for tile in tiles]
    assert {i for shard in cut_shards(answered, sequences, names, 2) for i in shard} == {i for i in everything if i % 3}


@pytest.mark.parametrize(
    ("workers", "complaint"),
    [
        ("two", "a number of processes is expected"),
        ("0", "a number of processes is expected"),
        ("ray://user:secret@host:1", "--workers ray://...@host:1: a number of processes is expected"),
        ("ray://127.0.0.1:1", "no Ray cluster answers there"),
    ],
)
def test_workers_that_cannot_be_had_are_one_line(
    home: Path, workers: str, complaint: str, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as ended:
        main(["eval", "model", "--suite", "sample-domain", "--workers", workers, "--project", "bad"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert [complaint in line for line in err.splitlines() if line.startswith("error: ")] == [True]


def test_without_ray_the_extra_is_named(home: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        main(["eval", "model", "--suite", "sample-domain", "--workers", "2", "--project", "bad"])
    assert ended.value.code == 2
    assert "ray is not installed; pip install 'model-workbench[scale]'" in capsys.readouterr().err
