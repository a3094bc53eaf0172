"""lm-eval's own logs: the same numbers, the same items, and one clear line for what cannot be read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.importing.reading import read_runs
from benchmarks.importing.run import ImportedRun
from benchmarks.lm import EngineLM
from benchmarks.runner import build_plan, run_plan
from tests.benchmarks.importing.conftest import ASKED
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import LogError

GROUP_OF = {"choose_zero": "choose", "choose_one": "choose"}


@pytest.fixture(scope="module")
def run(lm_eval_output: Path) -> ImportedRun:
    (found,) = read_runs([lm_eval_output])
    return found


@pytest.fixture(scope="module")
def logged(lm_eval_output: Path) -> dict[str, Any]:
    (file,) = lm_eval_output.glob("**/results_*.json")
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def copied(lm_eval_output: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lm_eval_output, tmp_path / "copied"))


def one(folder: Path, pattern: str) -> Path:
    (file,) = folder.glob(f"**/{pattern}")
    return file


def test_estimates_are_the_numbers_that_lm_eval_printed(run: ImportedRun, logged: dict[str, Any]):
    values = {(r.task, e.metric): e.value for r in run.results for e in r.estimates}
    compared = 0
    for task, own in logged["results"].items():
        for key, value in own.items():
            metric, _, name = key.partition(",")
            if name and not metric.endswith("_stderr") and task not in GROUP_OF:
                imported = values[task, metric if name == "none" else key]
                assert imported == pytest.approx(value, rel=1e-9, abs=1e-12), (task, key)
                compared += 1
    assert compared == 1 + 1 + 2 + 2 + 3
    assert {r.task for r in run.results} == set(ASKED.split(","))


def test_each_item_has_what_its_row_says(run: ImportedRun, lm_eval_output: Path):
    items = {(item.task, item.doc_id): item for item in run.items}
    for file in lm_eval_output.glob("**/samples_*.jsonl"):
        for line in file.read_text(encoding="utf-8").split("\n"):
            if not line:
                continue
            row = json.loads(line)
            task = file.name.removeprefix("samples_").rsplit("_", 1)[0]
            item = items[task, row["doc_id"]]
            for metric in row["metrics"]:
                name = metric if row["filter"] == "none" else f"{metric},{row['filter']}"
                if isinstance(row[metric], int | float) and metric != "perplexity":
                    assert item.metrics[name] == row[metric]
            if "choose" in task:
                assert list(item.logprobs) == [float(own[0][0]) for own in row["resps"]]
                assert item.greedy == tuple(own[0][1] == "True" for own in row["resps"])
                assert item.target == row["doc"]["choices"][row["doc"]["answer"]]
                assert item.answer in row["doc"]["choices"]
            assert item.prompt in ("", row["arguments"]["gen_args_0"]["arg_0"])


def test_items_pair_with_our_own_run_of_the_same_tasks(run: ImportedRun, tasks_folder: Path, tiny_folder: Path):
    engine = TransformersEngine.load(tiny_folder, dtype="float32", device="cpu")
    lm = EngineLM(engine, fingerprint="f" * 64, tokenizer_digest="t" * 64)
    ours = run_plan(lm, build_plan(tasks=ASKED.split(","), include_path=[tasks_folder]))
    engine.close()

    theirs = {(item.task, item.item): item for item in run.items}
    assert {(item.task, item.item) for item in ours.items} == set(theirs)
    for item in ours.items:
        other = theirs[item.task, item.item]
        assert other.logprobs == pytest.approx(item.logprobs, abs=1e-4)
        assert other.metrics == pytest.approx(item.metrics, rel=1e-4)
        assert (other.answer, other.target, other.prompt) == (item.answer, item.target, item.prompt)
        assert other.extra["doc"] == item.extra["doc"]
    for mine, imported in zip(ours.results, sorted(run.results, key=lambda r: ASKED.index(r.task)), strict=True):
        assert (imported.metric, imported.n, imported.num_fewshot) == (mine.metric, mine.n, mine.num_fewshot)
        assert (imported.subtasks, imported.chance, imported.version) == (mine.subtasks, mine.chance, mine.version)
        assert imported.headline.method == mine.headline.method
        assert imported.headline.low == pytest.approx(mine.headline.low, rel=1e-3, abs=1e-6)


def test_a_group_is_pooled_over_its_subtasks(run: ImportedRun, logged: dict[str, Any]):
    (group,) = (r for r in run.results if r.task == "choose")
    assert group.subtasks == ("choose_zero", "choose_one")
    assert {e.metric for e in group.estimates} == {"acc", "acc_macro", "acc_norm", "acc_norm_macro"}
    assert group.n == logged["results"]["choose"]["sample_len"] == 12


def test_settings_hold_what_a_comparison_must_know(run: ImportedRun, tiny_folder: Path):
    assert run.importer == "lm-eval 0.4.13"
    assert run.model.path == str(tiny_folder)
    assert run.settings["importer"] == "lm-eval"
    assert run.settings["seed"] == 0  # lm-eval's default seed of shots is ours
    assert run.settings["apply_chat_template"] is False
    assert run.settings["model_args"] == {"pretrained": str(tiny_folder), "dtype": "float32"}


def test_a_column_of_the_documents_makes_clusters(lm_eval_output: Path):
    (run,) = read_runs([lm_eval_output], cluster="topic")
    assert {item.group for item in run.items if item.task == "choose_zero"} == {"topic 0", "topic 1", "topic 2"}
    assert all(item.group == item.item for item in run.items if item.task == "sums")
    with pytest.raises(LogError, match='--cluster topi: no such column; did you mean "topic"'):
        read_runs([lm_eval_output], cluster="topi")


def test_a_samples_file_stands_for_its_run(lm_eval_output: Path, run: ImportedRun):
    (found,) = read_runs([one(lm_eval_output, "samples_sums_*")])
    assert found.digest == run.digest


def test_two_choices_with_the_same_score_share_the_credit(copied: Path):
    file = one(copied, "samples_choose_zero_*")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    for answer in rows[0]["resps"]:
        answer[0][0] = "-12.5"
    rows[0]["acc"] = rows[0]["acc"] or 1.0  # the first of the tied is the right one, so lm-eval gives all of it
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    results = one(copied, "results_*")
    data = json.loads(results.read_text(encoding="utf-8"))
    data["results"]["choose_zero"]["acc,none"] = sum(row["acc"] for row in rows) / len(rows)
    results.write_text(json.dumps(data), encoding="utf-8")
    (run,) = read_runs([copied])
    (item,) = (item for item in run.items if item.task == "choose_zero" and item.doc_id == 0)
    assert item.metrics["acc"] == pytest.approx(1 / 3)
    assert any("tie exactly" in note for r in run.results for note in r.notes)


def test_a_number_that_the_samples_do_not_give_is_left_out_with_a_note(copied: Path):
    results = one(copied, "results_*")
    data = json.loads(results.read_text(encoding="utf-8"))
    data["results"]["last_word"]["perplexity,none"] = 3.25
    results.write_text(json.dumps(data), encoding="utf-8")
    (run,) = read_runs([copied])
    (result,) = (r for r in run.results if r.task == "last_word")
    assert [e.metric for e in result.estimates] == ["acc"]
    assert "perplexity is left out" in result.notes[0]


def cut_samples(folder: Path) -> None:
    file = one(folder, "samples_sums_*")
    file.write_bytes(file.read_bytes()[:-40])


def drop_rows(folder: Path) -> None:
    file = one(folder, "samples_choose_zero_*")
    file.write_text("".join(line + "\n" for line in file.read_text(encoding="utf-8").split("\n")[:4]))


def drop_filter(folder: Path) -> None:
    file = one(folder, "samples_sums_*")
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    file.write_text("".join(line + "\n" for line in lines if json.loads(line)["filter"] == "strict-match"))


def remove_samples(folder: Path) -> None:
    one(folder, "samples_fill_*").unlink()


def cut_results(folder: Path) -> None:
    file = one(folder, "results_*")
    file.write_bytes(file.read_bytes()[:900])


def empty_results(folder: Path) -> None:
    one(folder, "results_*").write_bytes(b"")


def remove_results(folder: Path) -> None:
    one(folder, "results_*").unlink()


def break_model(folder: Path) -> None:
    file = one(folder, "samples_choose_one_*")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    rows[2]["resps"][1][0][0] = "nan"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def break_score(folder: Path) -> None:
    file = one(folder, "results_*")
    data = json.loads(file.read_text(encoding="utf-8"))
    data["results"]["reading"]["bits_per_byte,none"] = float("nan")
    file.write_text(json.dumps(data), encoding="utf-8")


def change_shape(folder: Path) -> None:
    file = one(folder, "results_*")
    data = json.loads(file.read_text(encoding="utf-8"))
    data["configs"]["sums"] = ["a newer", "layout"]
    file.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_samples, "samples_sums_.*line 8: cut off or damaged"),
        (drop_rows, "samples_choose_zero_.*holds 4 of 6 items"),
        (drop_filter, "samples_sums_.*holds 0 of 4 items of filter any-letter"),
        (remove_samples, "samples_fill_.* is not beside it; run lm-eval with --log_samples"),
        (cut_results, "results_.*: damaged, line"),
        (empty_results, "results_.*: damaged, line 1"),
        (remove_results, "no log of lm-eval"),
        (break_model, "samples_choose_one_.*line 3: a log-probability is NaN"),
        (break_score, "reading: bits_per_byte is nan"),
        (change_shape, "not built as the versions known here build it"),
    ],
)
def test_what_is_damaged_is_told_in_one_line(copied: Path, damage: Any, message: str):
    damage(copied)
    with pytest.raises(LogError, match=message) as caught:
        read_runs([copied])
    assert "\n" not in str(caught.value)
