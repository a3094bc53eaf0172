"""Four ways in which lm-eval 0.4.13 silently reports wrong numbers, each shown on lm-eval, and that ours does not.

`use_cache` leaves the model out of its key; `cache_requests` misses edited data; the logits cache reads the wrong rows
when two requests split one text at different points; `samples=` out of order attaches ids to the wrong documents.
Where lm-eval mends one of them, its half of the test fails and says so: then it can go.
"""

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks.lm import EngineLM
from benchmarks.runner import build_plan, run_plan
from tests.reference import ReferenceEngine
from tests.tiny import tiny_model, tiny_tokenizer
from workbench.store import Project

ROWS = [
    {
        "id": i,
        "question": f"Which of these is number {i}?",
        "choices": [f"no {i}", f"yes {i}", f"never {i}"],
        "answer": i % 3,
    }
    for i in range(8)
]


def write_task(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A task folder as people write them for lm-eval."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "faulty.yaml").write_text(
        "task: faulty_cases\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{question}} Answer:"\n'
        "doc_to_choice: choices\n"
        "doc_to_target: answer\n"
        "num_fewshot: 0\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return folder


def hflm(seed: int, **options: Any) -> HFLM:
    return HFLM(pretrained=tiny_model(seed=seed), tokenizer=tiny_tokenizer(), batch_size=1, **options)


def engine_lm(seed: int, project: Project | None = None) -> EngineLM:
    engine = ReferenceEngine(tiny_model(seed=seed), tiny_tokenizer())
    ledger = project.store.ledger if project else None
    return EngineLM(engine, ledger=ledger, fingerprint=f"{seed:064}", tokenizer_digest="t" * 64)


def lm_eval_run(lm: Any, folder: Path, **options: Any) -> Any:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        lm, tasks=["faulty_cases"], task_manager=manager, bootstrap_iters=0, **{"limit": 4} | options
    )


def logprobs(results: Any) -> list[float]:
    return [answers[0][0] for sample in results["samples"]["faulty_cases"] for answers in sample["resps"]]


def our_run(lm: EngineLM, folder: Path, **options: Any) -> Any:
    return run_plan(lm, build_plan(tasks=["faulty_cases"], include_path=[folder], **{"limit": 4} | options))


def our_logprobs(outcome: Any) -> list[float]:
    return [logprob for item in outcome.items for logprob in item.logprobs]


@pytest.mark.filterwarnings("ignore")
def test_one_models_scores_are_never_read_for_anothers(tmp_path: Path) -> None:
    folder, cache = write_task(tmp_path / "tasks"), str(tmp_path / "cache")
    first = logprobs(lm_eval_run(hflm(1), folder, use_cache=cache))
    second = logprobs(lm_eval_run(hflm(2), folder, use_cache=cache))
    truth = logprobs(lm_eval_run(hflm(2), folder))
    assert second == first and second != truth, "lm-eval's use_cache knows the model now"

    project = Project.init(tmp_path / "project")
    ours = {seed: our_logprobs(our_run(engine_lm(seed, project), folder)) for seed in (1, 2)}
    assert ours[1] == pytest.approx(first, abs=1e-4)
    assert ours[2] == pytest.approx(truth, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_an_edited_question_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.caching.cache

    monkeypatch.setattr(lm_eval.caching.cache, "PATH", str(tmp_path / "requests"))
    folder = write_task(tmp_path / "tasks")
    edited = [{**row, "question": row["question"].replace("number", "colour")} for row in ROWS]
    project = Project.init(tmp_path / "project")

    before = logprobs(lm_eval_run(hflm(1), folder, cache_requests=True))
    ours_before = our_run(engine_lm(1, project), folder)
    write_task(folder, edited)
    stale = lm_eval_run(hflm(1), folder, cache_requests=True)
    truth = logprobs(lm_eval_run(hflm(1), folder))
    assert logprobs(stale) == before != truth, "lm-eval's cache_requests sees edits now"
    assert "colour" in stale["samples"]["faulty_cases"][0]["doc"]["question"]  # and the log shows the new question

    ours = our_run(engine_lm(1, project), folder)
    assert our_logprobs(ours) == pytest.approx(truth, abs=1e-4)
    assert {item.item for item in ours.items}.isdisjoint(item.item for item in ours_before.items)


def test_a_text_split_at_two_points_gets_both_numbers_right() -> None:
    pairs = [
        ("The heart pumps blood", " through"),
        ("The heart pumps", " blood through"),
        ("The heart", " pumps blood through"),
    ]
    requests = [Instance("loglikelihood", {}, pair, 0, ("t", i, 1)) for i, pair in enumerate(pairs)]
    truth = [a for a, _ in hflm(1, logits_cache=False).loglikelihood(requests, disable_tqdm=True)]
    cached = [a for a, _ in hflm(1, logits_cache=True).loglikelihood(requests, disable_tqdm=True)]
    assert cached != pytest.approx(truth, abs=1e-3), "lm-eval's logits cache slices its rows now"
    assert [a for a, _ in engine_lm(1).loglikelihood(requests)] == pytest.approx(truth, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_ids_stay_with_their_documents(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "tasks")
    shuffled = lm_eval_run(hflm(1), folder, limit=None, samples={"faulty_cases": [7, 2, 5]})
    wrong = {s["doc_id"]: s["doc"]["id"] for s in shuffled["samples"]["faulty_cases"]}
    assert wrong != {7: 7, 2: 2, 5: 5}, "lm-eval keeps ids and documents together now"

    for limit in (3, 8, None):
        outcome = our_run(engine_lm(1), folder, limit=limit)
        assert [item.doc_id for item in outcome.items] == list(range(limit or 8))
        for item in outcome.items:
            assert f"number {item.doc_id}?" in item.prompt
    # and a part pairs with the whole by content
    part, whole = our_run(engine_lm(1), folder, limit=3), our_run(engine_lm(1), folder, limit=8)
    assert [item.item for item in part.items] == [item.item for item in whole.items][:3]
