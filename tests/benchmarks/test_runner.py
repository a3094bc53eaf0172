"""From suites to results and items: ties, clusters, pooled groups, pairing, notes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.proportion import proportion_confint

from benchmarks.items import read_items, share_credit
from benchmarks.lm import EngineLM, ItemFacts
from benchmarks.runner import build_plan, run_plan
from tests.reference import ReferenceEngine
from tests.tiny import tiny_model, tiny_tokenizer
from workbench.engines.base import ScoreRequest
from workbench.errors import RunError, TaskError
from workbench.records import Estimate, ItemScore, TaskResult
from workbench.store import Project


class TableEngine(ReferenceEngine):
    """Scores by a function of the request instead of a network: numbers that a test can choose."""

    def __init__(self, logprob: Any) -> None:
        super().__init__(tiny_model(), tiny_tokenizer())
        self.logprob = logprob

    def _score_one(self, request: ScoreRequest) -> Any:
        from workbench.engines.base import Score

        return Score(logprob=self.logprob(request), is_greedy=False, tokens=len(request.continuation_ids))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_task(folder: Path, name: str, rows: Sequence[dict[str, Any]], **config: Any) -> Path:
    """An lm-eval task file of questions with three choices, `config` on top."""
    import yaml

    folder.mkdir(exist_ok=True)
    data = write_rows(folder / f"{name}.jsonl", rows)
    body: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(body | config))
    return folder


def question(number: int, answer: int = 0, **more: Any) -> dict[str, Any]:
    return {"question": f"Question {number}?", "choices": ["red", "blue", "greenish"], "answer": answer} | more


def run(engine: Any, folder: Path, *tasks: str, **options: Any) -> Any:
    lm = EngineLM(engine, fingerprint="f" * 64, tokenizer_digest="t" * 64)
    return run_plan(lm, build_plan(tasks=tasks, include_path=[folder], **options))


def estimate(result: TaskResult, metric: str) -> Estimate:
    return next(e for e in result.estimates if e.metric == metric)


def prefers(words: dict[str, float]) -> Any:
    """Log-probability by the continuation's text, -9 for what isn't named."""
    return lambda request: words.get(request.continuation.strip(), -9.0)


# Ties ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "gold", "credit"),
    [([-1.0, -2.0], {0}, 1.0), ([-1.0, -1.0], {1}, 0.5), ([-1.0, -1.0, -1.0], {0, 2}, 2 / 3), ([-3.0, -1.0], {0}, 0.0)],
)
def test_ties_share_the_credit(values: list[float], gold: set[int], credit: float) -> None:
    assert share_credit(values, gold) == pytest.approx(credit)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("answer", [0, 1])
def test_a_tie_counts_alike_wherever_the_right_choice_stands(tmp_path: Path, answer: int) -> None:
    folder = write_task(tmp_path / "t", "tied", [question(i, answer) for i in range(4)])
    outcome = run(TableEngine(prefers({"red": -1.0, "blue": -1.0})), folder, "tied")
    (result,) = outcome.results
    assert estimate(result, "acc").value == 0.5  # lm-eval says 1.0 or 0.0, by the order of the choices
    assert [item.metrics["acc"] for item in outcome.items] == [0.5] * 4
    assert "4 of 4 items tie exactly; the credit is shared" in result.notes


@pytest.mark.filterwarnings("ignore")
def test_length_normalised_accuracy_divides_by_characters(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "norm", [question(i, 2) for i in range(3)])
    outcome = run(TableEngine(prefers({"red": -4.0, "blue": -6.0, "greenish": -8.0})), folder, "norm")
    assert estimate(outcome.results[0], "acc").value == 0.0
    assert estimate(outcome.results[0], "acc_norm").value == 1.0  # -8/8 beats -4/3


# Intervals ------------------------------------------------------------------------------------------------------------


def right_if(rights: Sequence[bool]) -> Any:
    """The first choice of question i is preferred where `rights[i]`, else the second."""

    def logprob(request: ScoreRequest) -> float:
        right = rights[int(request.context.split()[1].rstrip("?"))]
        return {"red": -1.0, "blue": -2.0}.get(request.continuation.strip(), -9.0) * (1 if right else -1)

    return logprob


@pytest.mark.filterwarnings("ignore")
def test_independent_right_or_wrong_items_get_wilsons_interval(tmp_path: Path) -> None:
    rights = [i % 3 == 0 for i in range(30)]
    folder = write_task(tmp_path / "t", "plain", [question(i) for i in range(30)])
    found = estimate(run(TableEngine(right_if(rights)), folder, "plain").results[0], "acc")
    assert found.method == "wilson"
    assert (found.value, found.n) == (10 / 30, 30)
    assert (found.low, found.high) == pytest.approx(proportion_confint(10, 30, method="wilson"))


@pytest.mark.filterwarnings("ignore")
def test_items_of_one_passage_are_one_cluster(tmp_path: Path) -> None:
    rights = [(i // 5) % 2 == 0 for i in range(40)]
    rows = [question(i, passage=f"p{i // 5}") for i in range(40)]
    metadata = {"version": 1, "workbench": {"cluster": "passage"}}
    folder = write_task(tmp_path / "t", "grouped", rows, metadata=metadata)
    outcome = run(TableEngine(right_if(rights)), folder, "grouped")
    found = estimate(outcome.results[0], "acc")
    groups = np.repeat(np.arange(8), 5)
    fit = sm.OLS(np.array(rights, float), np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert (found.method, found.clusters) == ("cluster-t", 8)
    low, high = fit.conf_int(0.05)[0]
    assert (found.low, found.high) == pytest.approx((max(0.0, low), min(1.0, high)))
    assert {item.group for item in outcome.items} == {f"p{i}" for i in range(8)}


@pytest.mark.filterwarnings("ignore")
def test_a_group_is_pooled_over_its_subjects_and_also_averaged_over_them(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write_task(folder, "sub_easy", [question(i) for i in range(30)])
    write_task(folder, "sub_hard", [question(i) for i in range(30, 40)])
    (folder / "both.yaml").write_text("group: both\ntask: [sub_easy, sub_hard]\n")
    rights = [i % 5 != 0 for i in range(30)] + [i == 33 for i in range(30, 40)]
    outcome = run(TableEngine(right_if(rights)), folder, "both")
    (result,) = outcome.results
    assert (result.task, result.subtasks, result.n) == ("both", ("sub_easy", "sub_hard"), 40)
    pooled, macro = estimate(result, "acc"), estimate(result, "acc_macro")
    assert pooled.value == pytest.approx(25 / 40)
    assert macro.value == pytest.approx((24 / 30 + 1 / 10) / 2)
    variance = (30 / 40) ** 2 * (0.8 * 0.2 / 29) + (10 / 40) ** 2 * (0.1 * 0.9 / 9)
    from scipy import stats

    half = stats.t.ppf(0.975, 38) * math.sqrt(variance)
    assert (pooled.low, pooled.high) == pytest.approx((25 / 40 - half, 25 / 40 + half))
    assert pooled.method == "stratified-t"


@pytest.mark.filterwarnings("ignore")
def test_perplexity_gets_a_bootstrap_interval_and_keeps_its_parts(tmp_path: Path) -> None:
    texts = ["The heart pumps.", "He went to the market because it was late.", "B", "The lung. " * 9, "apples"]
    rows = [{"text": text} for text in texts]
    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "doc_to_choice": None,
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        ],
    }
    folder = write_task(tmp_path / "t", "prose", rows, **config)
    first = run(ReferenceEngine(tiny_model(), tiny_tokenizer()), folder, "prose")
    found = estimate(first.results[0], "bits_per_byte")
    total = sum(item.extra["loglikelihood"] for item in first.items)
    assert found.value == pytest.approx(-total / sum(len(text) for text in texts) / math.log(2))
    assert found.direction == "lower"
    assert found.method == "bootstrap-bca" and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    for item, text in zip(first.items, texts, strict=True):
        assert item.extra["bytes"] == len(text)
        assert item.extra["words"] == len(text.split()) + text.endswith(" ")
        assert item.extra["tokens"] == len(tiny_tokenizer().encode(text))
        assert item.extra["loglikelihood"] == item.logprobs[0]
        assert item.prompt == ""
    again = run(ReferenceEngine(tiny_model(), tiny_tokenizer()), folder, "prose")
    assert again.results == first.results  # the seed draws the resamples
    other = run(ReferenceEngine(tiny_model(), tiny_tokenizer()), folder, "prose", seed=1)
    assert estimate(other.results[0], "bits_per_byte").low != found.low


@pytest.mark.filterwarnings("ignore")
def test_f1_is_aggregated_by_lm_eval_and_keeps_its_pairs(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score

    answers, rights = [i % 2 for i in range(20)], [i % 3 == 0 for i in range(20)]
    rows = [question(i, answers[i]) | {"choices": ["red", "blue"]} for i in range(20)]
    config = {"metric_list": [{"metric": "f1", "aggregation": "f1", "higher_is_better": True}]}
    folder = write_task(tmp_path / "t", "judged", rows, **config)
    outcome = run(TableEngine(right_if(rights)), folder, "judged")
    found = estimate(outcome.results[0], "f1")
    chosen = [0 if right else 1 for right in rights]
    assert found.value == pytest.approx(f1_score(answers, chosen))
    assert found.method.startswith("bootstrap")
    assert [item.extra["parts"]["f1"] for item in outcome.items] == [list(p) for p in zip(answers, chosen, strict=True)]


# Items ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_items_pair_by_content_whatever_their_place(tmp_path: Path) -> None:
    rows = [question(i, i % 3) for i in range(6)]
    one = write_task(tmp_path / "a", "moved", rows)
    two = write_task(tmp_path / "b", "moved", rows[::-1])
    engine = TableEngine(prefers({"red": -1.0}))
    first, second = run(engine, one, "moved").items, run(engine, two, "moved").items
    assert [i.item for i in first] == [i.item for i in second][::-1]
    edited = [rows[0] | {"answer": 1}, *rows[1:]]
    third = run(engine, write_task(tmp_path / "c", "moved", edited), "moved").items
    assert [a.item == b.item for a, b in zip(first, third, strict=True)] == [False] + [True] * 5


@pytest.mark.filterwarnings("ignore")
def test_a_question_that_stands_twice_is_two_items(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "twice", [question(1), question(2), question(1)])
    items = run(TableEngine(prefers({})), folder, "twice").items
    assert len({item.item for item in items}) == 3
    assert items[0].extra["doc"] == items[2].extra["doc"]


def test_letter_and_cloze_form_of_a_question_share_the_document() -> None:
    engine = ReferenceEngine(tiny_model(), tiny_tokenizer())
    lm = EngineLM(engine, fingerprint="f" * 64, tokenizer_digest="t" * 64)
    outcome = run_plan(lm, build_plan(tasks=["sample_anatomy_letter", "sample_anatomy_cloze"], limit=5))
    letter, cloze = ({i.extra["doc"]: i for i in outcome.items if i.task.endswith(f)} for f in ("letter", "cloze"))
    assert letter.keys() == cloze.keys() and len(letter) == 5
    for doc, item in letter.items():
        assert item.item != cloze[doc].item
        assert item.target in "ABCD" and len(cloze[doc].target) > 1


@pytest.mark.filterwarnings("ignore")
def test_an_item_keeps_what_was_asked_and_answered(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "kept", [question(7, 2)])
    (item,) = run(TableEngine(prefers({"red": -3.0, "blue": -1.5, "greenish": -2.0})), folder, "kept").items
    assert isinstance(item, ItemScore)
    assert (item.prompt, item.answer, item.target) == ("Question 7?", "greenish", "greenish")  # acc_norm leads
    assert item.logprobs == (-3.0, -1.5, -2.0)
    assert item.metrics == {"acc": 0.0, "acc_norm": 1.0}
    assert item.group == item.item


@pytest.mark.filterwarnings("ignore")
def test_generations_keep_text_and_finish(tmp_path: Path) -> None:
    config = {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    folder = write_task(tmp_path / "t", "written", [question(i) for i in range(3)], **config)
    outcome = run(ReferenceEngine(tiny_model(), tiny_tokenizer()), folder, "written")
    assert all(item.extra["finish"] in ("stop", "length") for item in outcome.items)
    long = sum(item.extra["finish"] == "length" for item in outcome.items)
    assert long and f"{long} of 3 answers ran out of tokens" in outcome.results[0].notes
    assert all(item.answer for item in outcome.items)


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_second_checkpoint_sees_the_same_shots(tmp_path: Path) -> None:
    rows = [question(i) for i in range(12)]
    data = {"data_files": {"test": str(write_rows(tmp_path / "rows.jsonl", rows))}}
    shots = {"dataset_kwargs": data, "fewshot_split": "test", "num_fewshot": 3}
    folder = write_task(tmp_path / "t", "shown", rows, **shots)
    plan = build_plan(tasks=["shown"], include_path=[folder])
    lms = [EngineLM(TableEngine(prefers({})), fingerprint=f * 64, tokenizer_digest="t" * 64) for f in "ab"]
    first, second = (run_plan(lm, plan) for lm in lms)
    assert [i.item for i in first.items] == [i.item for i in second.items]
    assert [i.prompt for i in first.items] == [i.prompt for i in second.items]
    other = run_plan(lms[0], build_plan(tasks=["shown"], include_path=[folder], seed=1))
    assert [i.prompt for i in other.items] != [i.prompt for i in first.items]


@pytest.mark.filterwarnings("ignore")
def test_limits_take_the_first_items_and_one_below_1_is_a_share(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "cut", [question(i) for i in range(10)])
    for limit, expected in ((3, 3), (0.25, 3), (1.0, 1), (50, 10), (None, 10)):
        outcome = run(TableEngine(prefers({})), folder, "cut", limit=limit)
        assert [item.doc_id for item in outcome.items] == list(range(expected))
    with pytest.raises(TaskError, match="--limit: must be above 0"):
        build_plan(tasks=["cut"], include_path=[folder], limit=0)


def test_suites_give_role_and_margin_and_a_task_named_twice_runs_once() -> None:
    plan = build_plan(suites=["sample-domain"], tasks=["sample_anatomy_cloze", "sample_general_cloze"])
    names = [entry.name for entry in plan.entries]
    assert len(names) == len(set(names))
    roles = {entry.name: entry.card.role for entry in plan.entries}
    assert roles["sample_anatomy_cloze"] == "domain" and roles["sample_general_cloze"] == "general"


def test_a_task_asked_with_different_shots_is_refused(tmp_path: Path) -> None:
    for shots in (0, 2):
        text = f"suite: s{shots}\ntitle: t\ntasks:\n  - {{task: sample_anatomy_cloze, num_fewshot: {shots}}}\n"
        (tmp_path / f"s{shots}.yaml").write_text(text)
    with pytest.raises(TaskError, match="asked with 0 and with 2 shots"):
        build_plan(suites=["s0", "s2"], include_path=[tmp_path])
    assert build_plan(suites=["s0", "s2"], include_path=[tmp_path], num_fewshot=1).entries


def test_nothing_to_run_is_said() -> None:
    with pytest.raises(TaskError, match="nothing to run"):
        build_plan()


@pytest.mark.filterwarnings("ignore")
def test_a_task_whose_own_code_fails_is_one_line_and_answers_are_kept(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "code.py").write_text("def judge(doc, results):\n    raise ValueError('cannot\\njudge')\n")
    folder = write_task(tmp_path / "t", "failing", [question(i) for i in range(3)])
    file = folder / "failing.yaml"
    file.write_text(file.read_text() + "process_results: !function code.judge\n")
    project = Project.init(tmp_path / "project")
    lm = EngineLM(
        TableEngine(prefers({})), ledger=project.store.ledger, fingerprint="f" * 64, tokenizer_digest="t" * 64
    )
    with pytest.raises(RunError, match="lm-eval: cannot judge; what was computed is kept"):
        run_plan(lm, build_plan(tasks=["failing"], include_path=[folder]))
    assert project.store.ledger.count() == 9


def test_cut_prompts_are_reported(tmp_path: Path) -> None:
    engine = ReferenceEngine(tiny_model(window=96), tiny_tokenizer())
    lm = EngineLM(engine, fingerprint="f" * 64, tokenizer_digest="t" * 64)
    outcome = run_plan(lm, build_plan(tasks=["sample_anatomy_letter"], limit=4))
    cut = [item.truncated for item in outcome.items]
    assert all(cut)
    expected = f"4 of 4 prompts did not fit the model's window of 96 tokens and were cut from the left, by {max(cut)}"
    assert any(note.startswith(expected) for note in outcome.results[0].notes)


def test_no_items_is_an_error_not_a_zero() -> None:
    plan = build_plan(tasks=["sample_anatomy_letter"], limit=1)
    (task,) = plan.leaves.values()
    with pytest.raises(TaskError, match="it has no items"):
        read_items(task, [], {("x", 0): ItemFacts()})
