"""lm-eval's own packaged tasks through our engine, against lm-eval's own HFLM in float32: the same numbers.

Each task's YAML is lm-eval's (prompts, metrics, filters, aggregation); only the rows come from the local data folder,
mapped back to the fields that the hub's set has.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.loggers.evaluation_tracker import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

from benchmarks.importing.reading import read_runs
from benchmarks.lm import EngineLM
from benchmarks.offline import ensure_punkt
from benchmarks.runner import Entry, Plan, quiet, run_plan
from benchmarks.suite import card_of
from tests.tiny import save_tiny_checkpoint
from workbench.config import data_folder
from workbench.engines.base import Engine
from workbench.engines.transformers_engine import TransformersEngine

Row = dict[str, Any]
PACKAGED = Path(lm_eval.__file__).parent / "tasks"
LETTERS = "ABCDE"


def rows_of(file: str, count: int, **where: Any) -> list[Row]:
    folder = data_folder()
    if folder is None or not (folder / file).is_file():
        pytest.skip(f"no {file} in the data folder; set WORKBENCH_DATA")
    found: list[Row] = []
    with (folder / file).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if all(row[key] == value for key, value in where.items()):
                found.append(row)
            if len(found) == count:
                break
    return found


def mmlu() -> dict[str, list[Row]]:
    return {
        "test": rows_of("mmlu/test.jsonl", 8, subject="anatomy"),
        "dev": rows_of("mmlu/dev_fewshot.jsonl", 5, subject="anatomy"),
    }


def arc() -> dict[str, list[Row]]:
    rows = [
        {
            "question": r["question"],
            "choices": {"text": r["choices"], "label": list(LETTERS[: len(r["choices"])])},
            "answerKey": LETTERS[r["answer"]],
        }
        for r in rows_of("arc/arc_easy_test.jsonl", 16)
    ]
    return {"test": rows[:8], "train": rows[8:], "validation": rows[8:]}


def hellaswag() -> dict[str, list[Row]]:
    rows = []
    for r in rows_of("hellaswag/val_sample.jsonl", 8):
        label, _, context = r["question"].partition(": ")
        rows.append(
            {"activity_label": label, "ctx_a": context, "ctx_b": "", "endings": r["choices"], "label": str(r["answer"])}
        )
    return {"validation": rows, "train": rows}


def winogrande() -> dict[str, list[Row]]:
    rows = []
    for r in rows_of("winogrande/dev.jsonl", 8):
        first, second = (text.split(" ") for text in r["context_options"])
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        stem = "".join(f"{word} " for word in first[:shared])
        rows.append(
            {
                "sentence": f"{stem}_ {r['continuation']}",
                "option1": " ".join(first[shared:]),
                "option2": " ".join(second[shared:]),
                "answer": str(r["answer"] + 1),
            }
        )
    return {"validation": rows, "train": rows}


def lambada() -> dict[str, list[Row]]:
    rows = rows_of("lambada/test_sample.jsonl", 8)
    return {"test": [{"text": f"{r['context']} {r['continuation']}"} for r in rows]}


def wikitext() -> dict[str, list[Row]]:
    rows = [{"page": r["text"][:12000]} for r in rows_of("wikitext2/articles_valid_test.jsonl", 3)]
    return {"test": rows, "validation": rows, "train": rows}


def gsm8k() -> dict[str, list[Row]]:
    test, train = rows_of("gsm8k/test.jsonl", 4), rows_of("gsm8k/train_sample.jsonl", 12)
    return {
        name: [{"question": r["question"], "answer": r["solution"]} for r in rows]
        for name, rows in (("test", test), ("train", train))
    }


def ifeval() -> dict[str, list[Row]]:
    names = ("key", "prompt", "instruction_id_list", "kwargs")
    return {"train": [{name: r[name] for name in names} for r in rows_of("ifeval/input_data.jsonl", 6)]}


def truthfulqa() -> dict[str, list[Row]]:
    rows = []
    for r in rows_of("truthfulqa/truthfulqa.jsonl", 6):
        row: Row = {"question": r["question"]}
        for name in ("mc1_targets", "mc2_targets"):
            row[name] = {"choices": list(r[name]), "labels": list(r[name].values())}
        rows.append(row)
    return {"validation": rows}


def triviaqa() -> dict[str, list[Row]]:
    """Several right answers each; the first letter of what comes anyway, so that some are right."""
    rows = [
        {"question": r["question"], "answer": {"aliases": [r["final_answer"], "e", "the"]}}
        for r in rows_of("gsm8k/test.jsonl", 6)
    ]
    return {"validation": rows, "train": rows}


def commonsense() -> dict[str, list[Row]]:
    rows = [
        {"question": r["question"], "choices": {"text": r["choices"]}, "answerKey": LETTERS[r["answer"]]}
        for r in rows_of("commonsenseqa/validation.jsonl", 8)
    ]
    return {"validation": rows, "train": rows}


def cola() -> dict[str, list[Row]]:
    rows = [{"sentence": r["question"], "label": r["answer"] % 2} for r in rows_of("piqa/valid.jsonl", 12)]
    return {"validation": rows, "train": rows}


MUTUAL = {"metric_list": [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}]}
SHORT = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 40}
TASKS: dict[str, tuple[str, Callable[[], dict[str, list[Row]]], Row]] = {
    "letters, five shots": ("mmlu/default/mmlu_anatomy.yaml", mmlu, {"num_fewshot": 5}),
    "cloze, sampled shots": ("arc/arc_easy.yaml", arc, {"num_fewshot": 3}),
    "cloze, own documents": ("hellaswag/hellaswag.yaml", hellaswag, {}),
    "partial contexts": ("winogrande/default.yaml", winogrande, {}),
    "last word, greedy": ("lambada/lambada_openai.yaml", lambada, {}),
    "perplexity": ("wikitext/wikitext.yaml", wikitext, {}),
    "generation, two filters": ("gsm8k/gsm8k.yaml", gsm8k, {"num_fewshot": 2}),
    "instruction following": ("ifeval/ifeval.yaml", ifeval, {"generation_kwargs": SHORT}),
    "probability mass": ("truthfulqa/truthfulqa_mc2.yaml", truthfulqa, {}),
    "several targets": ("triviaqa/default.yaml", triviaqa, {}),
    "letter as target": ("commonsense_qa/default.yaml", commonsense, {}),
    "mutual information": ("arc/arc_easy.yaml", arc, MUTUAL),
    "correlation": ("glue/cola/default.yaml", cola, {}),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), window=4096)


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> HFLM:
    return HFLM(pretrained=str(checkpoint), dtype="float32", batch_size=1, logits_cache=False, device="cpu")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    engine = TransformersEngine.load(checkpoint, dtype="float32", device="cpu")
    yield engine
    engine.close()


def build_task(kind: str) -> Any:
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask

    ensure_punkt()
    file, rows, overrides = TASKS[kind]
    splits = rows()
    config = load_yaml(PACKAGED / file, resolve_func=True) | overrides
    for key in ("tag", "group", "dataset_path", "dataset_name"):
        config.pop(key, None)
    config["metadata"] = {}
    config["custom_dataset"] = lambda **_: DatasetDict({n: Dataset.from_list(own) for n, own in splits.items()})
    task = ConfigurableTask(config=config)
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    return task


def run_ours(engine: Engine, task: Any) -> Any:
    lm = EngineLM(engine, fingerprint="f" * 64, tokenizer_digest="t" * 64)
    name = task.task_name
    entry = Entry(name=name, card=card_of(task), leaves=(name,), is_group=False)
    return run_plan(lm, Plan(entries=(entry,), leaves={name: task}, limits={}))


def run_theirs(oracle: HFLM, task: Any) -> Any:
    task.set_fewshot_seed(1234)
    with quiet():
        return lm_eval.evaluate(oracle, {"tasks": {task.task_name: task}}, bootstrap_iters=0)


def write_log(theirs: Any, folder: Path) -> Path:
    """Write results and samples with lm-eval's own tracker, as its command line does; returns the folder."""
    results = {key: value for key, value in theirs.items() if key != "samples"}
    results |= {"config": {"model": "hf", "model_args": "", "fewshot_seed": 1234}, "lm_eval_version": "0.4.13"}
    samples = copy.deepcopy(theirs["samples"])  # the tracker turns its rows into text
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args("hf", "pretrained=tiny", None, None, False)
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TASKS)
def test_packaged_tasks_give_what_lm_eval_gives(kind: str, engine: Engine, oracle: HFLM, tmp_path: Path) -> None:
    task = build_task(kind)
    theirs = run_theirs(oracle, task)
    ours = run_ours(engine, build_task(kind))
    samples = theirs["samples"][task.task_name]

    by_filter = {(s["doc_id"], s["filter"]): s for s in samples}
    assert len({doc for doc, _ in by_filter}) == len(ours.items)
    for item in ours.items:
        sample = next(s for (doc, _), s in by_filter.items() if doc == item.doc_id)
        if task.OUTPUT_TYPE == "generate_until":
            assert item.answer == sample["resps"][0][0]
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            # one rounding error for each of some thousand tokens
            assert item.logprobs[0] == pytest.approx(sample["resps"][0][0], abs=1e-2)
        else:
            assert item.logprobs == pytest.approx([r[0][0] for r in sample["resps"]], abs=1e-4)
            assert item.greedy == tuple(bool(r[0][1]) for r in sample["resps"])

    (result,) = ours.results
    estimates = {e.metric: e.value for e in result.estimates}
    expected = {key: value for key, value in theirs["results"][task.task_name].items() if "," in key}
    expected = {k.removesuffix(",none"): v for k, v in expected.items() if "_stderr" not in k}
    assert estimates == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert result.notes == () or "tie" not in " ".join(result.notes)

    # Read from a log, the same run has the same items: a log of lm-eval's pairs with a report of ours.
    (log,) = read_runs([write_log(theirs, tmp_path)])
    imported = {item.item: item for item in log.items}
    assert set(imported) == {item.item for item in ours.items}
    for item in ours.items:
        other = imported[item.item]
        assert (other.answer, other.target, other.prompt) == (item.answer, item.target, item.prompt)
        assert other.metrics == pytest.approx(item.metrics, rel=1e-3, abs=1e-6)
    assert {e.metric: e.value for e in log.results[0].estimates} == pytest.approx(estimates, rel=1e-4, abs=1e-6)
    assert (log.results[0].metric, log.results[0].chance) == (result.metric, result.chance)
