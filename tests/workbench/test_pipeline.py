"""The main path in one process: reports, the ledger, baselines and plans, on tiny real checkpoints."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.errors import CheckpointError, ConfigError, EngineError
from workbench.evaluation import describe_environment
from workbench.pipeline import (
    EvaluationRequest,
    Listener,
    evaluate,
    evaluate_many,
    plan_evaluation,
    resolve_checkpoint,
)
from workbench.store import Project, report_id

SUITE = EvaluationRequest(suites=["sample-domain"], limit=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new")):
        save_tiny_checkpoint(folder / name, seed=seed)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project.init(tmp_path / "project")
    yield project
    project.store.close()


def by_task(report: Any) -> dict[str, Any]:
    return {result.task: result for result in report.results}


def test_evaluate_records_a_report_whose_items_give_its_numbers(models: Path, project: Project) -> None:
    report = evaluate(models / "old", suites=["sample-domain"], limit=6, project=project)
    assert project.store.report("latest") == report
    items = project.store.items(report.id)
    assert report.id == report_id(report, items)
    for result in report.results:
        own = [item.metrics[result.metric] for item in items if item.task == result.task]
        assert result.n == len(own)
        if result.metric.startswith("acc"):
            assert result.headline.value == pytest.approx(sum(own) / len(own))
    assert report.checkpoint.name == "old"
    assert report.settings["scorer"].startswith("transformers/")
    assert report.environment["torch"] == describe_environment()["torch"]


def test_the_second_time_nothing_is_computed_and_the_report_is_the_same(models: Path, project: Project) -> None:
    first = evaluate_many([models / "old"], project=project, request=SUITE).evaluated[0]
    again = evaluate_many([models / "old"], project=project, request=SUITE).evaluated[0]
    assert first.computed > 0
    assert (again.computed, again.reused) == (0, first.computed)
    assert again.usage is not None and again.usage.prompt_tokens == 0
    assert again.report.id == first.report.id
    assert again.items == first.items


def test_a_larger_limit_pays_only_for_the_new_items(models: Path, project: Project) -> None:
    small = evaluate_many([models / "old"], project=project, request=SUITE).evaluated[0]
    large = evaluate_many([models / "old"], project=project, request=replace(SUITE, limit=9)).evaluated[0]
    fresh = evaluate_many(
        [models / "old"], project=project.root.parent / "other", request=replace(SUITE, limit=9)
    ).evaluated[0]
    assert large.reused == small.computed
    assert large.computed == fresh.computed - small.computed
    assert large.usage and fresh.usage and large.usage.prompt_tokens < fresh.usage.prompt_tokens
    stored = {item.item: item for item in small.items}
    assert all(item == stored[item.item] for item in large.items if item.item in stored)


def test_the_change_against_a_baseline_is_the_paired_difference(models: Path, project: Project) -> None:
    request = replace(SUITE, limit=30)
    evaluation = evaluate_many([models / "new"], baseline=models / "old", project=project, request=request)
    assert evaluation.baseline is not None and evaluation.baseline.report.checkpoint.name == "old"
    (one,) = evaluation.evaluated
    compared = {task.task: task for task in evaluation.comparisons[one.report.id].tasks}
    before = {item.item: item for item in evaluation.baseline.items}
    for task, change in compared.items():
        assert change.difference is not None
        pairs = [(before[item.item], item) for item in one.items if item.task == task]
        assert (change.n, change.missing) == (len(pairs), 0)
        if change.metric == "bits_per_byte":
            values = [by_task(e.report)[task].headline.value for e in (evaluation.baseline, one)]
            assert change.difference.value == pytest.approx(values[0] - values[1])  # fewer bits are better
            continue
        metric = change.metric
        a, b = ([item.metrics[metric] for item in side] for side in zip(*pairs, strict=True))
        assert change.difference.value == pytest.approx(sum(b) / len(b) - sum(a) / len(a))
        assert (change.baseline, change.candidate) == pytest.approx((sum(a) / len(a), sum(b) / len(b)))
    assert compared.keys() == by_task(one.report).keys()


def test_a_baseline_is_paid_once(models: Path, project: Project) -> None:
    evaluate(models / "old", suites=["sample-domain"], limit=6, project=project)
    evaluation = evaluate_many([models / "new"], baseline="old", project=project, request=SUITE)  # by its name
    assert evaluation.baseline is not None and evaluation.baseline.computed == 0
    assert len(project.store.reports()) == 2


def test_a_baseline_among_the_checkpoints_is_evaluated_once(models: Path, project: Project) -> None:
    loaded: list[str] = []
    listener = Listener(on_loaded=lambda checkpoint, *_: loaded.append(checkpoint.name))
    both = [models / "old", models / "new"]
    evaluation = evaluate_many(both, baseline=models / "old", project=project, request=SUITE, listener=listener)
    assert loaded == ["old", "new"]
    assert evaluation.baseline is evaluation.evaluated[0]
    assert list(evaluation.comparisons) == [evaluation.evaluated[1].report.id]


def test_a_baseline_whose_weights_are_gone_is_read_from_its_last_report(models: Path, project: Project) -> None:
    shutil.copytree(models / "old", project.root / "gone")
    evaluate(project.root / "gone", suites=["sample-domain"], limit=4, project=project)
    shutil.rmtree(project.root / "gone")
    evaluation = evaluate_many([models / "new"], baseline="gone", project=project, request=SUITE)
    assert evaluation.baseline is not None and evaluation.baseline.usage is None
    compared = evaluation.comparisons[evaluation.evaluated[0].report.id].tasks
    # four items of the baseline, six of the candidate: nothing may be certified on that
    assert {(c.verdict, c.n, c.missing) for c in compared if "text" not in c.task} == {("incomparable", 4, 2)}


def test_a_baseline_may_be_a_report(models: Path, project: Project) -> None:
    report = evaluate(models / "old", suites=["sample-domain"], limit=4, project=project)
    evaluation = evaluate_many([models / "new"], baseline=report.id[:12], project=project, request=SUITE)
    assert evaluation.baseline is not None and evaluation.baseline.report.checkpoint.name == "old"
    assert all(task.missing == 0 for task in evaluation.comparisons[evaluation.evaluated[0].report.id].tasks)


def test_an_unknown_baseline_is_one_line_and_costs_nothing(models: Path, project: Project) -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        evaluate_many([models / "new"], baseline="no-such-model", project=project, request=SUITE)
    assert project.store.ledger.count() == 0


def test_the_same_weights_twice_are_refused(models: Path, project: Project, tmp_path: Path) -> None:
    shutil.copytree(models / "old", tmp_path / "copy")
    with pytest.raises(ConfigError, match="copy: the same weights and tokenizer as old"):
        evaluate_many([models / "old", tmp_path / "copy"], project=project, request=SUITE)


def test_weights_changed_in_place_are_another_model(models: Path, project: Project, tmp_path: Path) -> None:
    place = shutil.copytree(models / "old", tmp_path / "run")
    first = evaluate_many([place], project=project, request=SUITE).evaluated[0]
    shutil.copy(models / "new" / "model.safetensors", place / "model.safetensors")
    second = evaluate_many([place], project=project, request=SUITE).evaluated[0]
    assert second.reused == 0
    assert [i.logprobs for i in second.items] != [i.logprobs for i in first.items]
    truth = evaluate_many([models / "new"], project=project.root.parent / "other", request=SUITE).evaluated[0]
    assert second.items == truth.items


def test_a_plan_says_what_the_run_then_costs(models: Path, project: Project) -> None:
    (cost,) = plan_evaluation([models / "old"], project=project, request=SUITE)
    assert cost.seconds is None  # nothing was ever measured
    assert project.store.ledger.count() == 0
    done = evaluate_many([models / "old"], project=project, request=SUITE).evaluated[0]
    assert done.usage is not None
    assert sum(task.requests for task in cost.tasks) == done.computed
    assert sum(task.tokens for task in cost.tasks) == done.usage.prompt_tokens
    assert sum(task.naive_tokens for task in cost.tasks) == done.usage.naive_tokens
    assert {task.task: task.items for task in cost.tasks} == {r.task: r.n for r in done.report.results}

    (rest,) = plan_evaluation([models / "old"], project=project, request=replace(SUITE, limit=9))
    assert sum(task.known for task in rest.tasks) == done.computed
    assert rest.seconds is not None and rest.seconds > 0
    (nothing,) = plan_evaluation([models / "old"], project=project, request=SUITE)
    assert (nothing.seconds, sum(task.tokens for task in nothing.tasks)) == (0.0, 0)


def test_progress_and_loading_are_told(models: Path, project: Project) -> None:
    heard: list[Any] = []
    listener = Listener(
        on_loaded=lambda checkpoint, engine, seconds: heard.append((checkpoint.name, engine.name)),
        on_progress=lambda checkpoint, report: heard.append(report),
    )
    evaluate_many([models / "old"], project=project, request=SUITE, listener=listener)
    assert heard[0] == ("old", "transformers")
    assert [r.phase for r in heard[1:]] == sorted((r.phase for r in heard[1:]), key=("score", "perplexity").index)
    assert heard[-1].done == heard[-1].total


def test_the_chat_template_makes_other_prompts_and_other_items(models: Path, project: Project) -> None:
    plain = evaluate_many([models / "old"], project=project, request=SUITE).evaluated[0]
    chat = evaluate_many([models / "old"], project=project, request=replace(SUITE, apply_chat_template=True))
    talk = chat.evaluated[0]
    questions = [item for item in talk.items if "text" not in item.task]
    assert all(item.prompt.startswith("[user]") or item.prompt.startswith("[system]") for item in questions)
    assert {item.item for item in questions}.isdisjoint(item.item for item in plain.items)
    assert {item.extra["doc"] for item in questions} <= {item.extra["doc"] for item in plain.items}


def test_task_files_of_the_project_are_found(models: Path, project: Project) -> None:
    (project.root / "suites" / "own.yaml").write_text(
        "suite: own\ntitle: Ours\ntasks:\n  - {task: sample_anatomy_cloze, limit: 3, margin: 0.1}\n"
    )
    report = evaluate(models / "old", suites=["own"], project=project)
    assert (report.results[0].n, report.results[0].margin) == (3, 0.1)


def test_options_of_arithmetic_are_refused_for_an_endpoint(project: Project) -> None:
    with pytest.raises(EngineError, match=r"--batch-tokens: .* is an endpoint"):
        evaluate("http://localhost:1/v1#some-model", suites=["sample-domain"], project=project, batch_tokens=64)


def test_a_checkpoint_is_found_by_path_by_name_and_by_fingerprint(models: Path, project: Project) -> None:
    found = resolve_checkpoint(models / "old", project)
    project.store.add_checkpoint(found)
    assert resolve_checkpoint("old", project) == found
    assert resolve_checkpoint(found.fingerprint[:10], project) == found
    assert resolve_checkpoint(found) is found
    with pytest.raises(CheckpointError, match="run workbench fetch smollm2"):
        resolve_checkpoint("smollm2", project)
