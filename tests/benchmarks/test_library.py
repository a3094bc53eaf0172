"""Tasks of any origin by name: shipped, in a folder, lm-eval's own; and suites of them."""

import json

import pytest

from benchmarks import rows
from benchmarks.library import build_tasks, card_of, expand_name, group_of, list_tasks, task_card
from benchmarks.runner import build_plan
from benchmarks.suite import list_suites, load_suite, suite_of
from workbench.errors import ConfigError, TaskError

OWN = """
task: own_quiz
custom_dataset: !function rows.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 3, workbench: {margin: 0.07, cluster: passage, nonsense: 1}}
"""
ROWS = """
from datasets import Dataset
def load(**_):
    return {"test": Dataset.from_list([{"question": "Q", "choices": ["a", "b"], "answer": 1, "passage": "p9"}])}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "rows.py").write_text(ROWS)
    (tmp_path / "suite.yaml").write_text(
        "suite: mine\ntitle: Mine\ntasks: [own_quiz, {task: arc_easy, limit: 5, margin: 0.01, required: false}]\n"
    )
    return tmp_path


def test_a_task_in_a_folder_is_found_with_its_card(folder):
    (task,) = build_tasks(["own_quiz"], include_path=[folder]).values()
    card = card_of(task)
    assert (card.name, card.margin, card.metric, card.version) == ("own_quiz", 0.07, "acc", "3")
    assert (card.role, card.source) == ("domain", "include")
    assert task_card("own_quiz", [folder]).margin == 0.07
    assert group_of(task, task.eval_docs[0]) == "p9"
    assert "own_quiz" in list_tasks([folder])


def test_a_suite_in_a_folder_takes_what_it_does_not_say_from_the_cards(folder):
    assert "mine" in list_suites([folder])
    own, arc = load_suite("mine", [folder]).tasks
    assert (own.margin, own.role, own.required, own.limit) == (0.07, "domain", True, None)
    assert (arc.margin, arc.role, arc.required, arc.limit) == (0.01, "general", False, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: s\ntitle: t\ntasks: [{task: arc_easy, wieght: 1}]", 'did you mean|unknown key'),
        ("suite: s\ntitle: t\ntasks: []", "tasks"),
        ("suite: s\ntitle: t\ntasks: [{task: arc_easy, margin: 0}]", "margin"),
        ("suite: s\ntitle: t\ntasks: [{task: arc_easy, role: main}]", "role"),
        ("suite: s\ntitle: t\ntasks: [arc_easy, arc_easy]", "listed twice"),
        ("suite: s\ntitle: t\ntasks: [arc_eazy]", "arc_easy"),
        ("suite: smoke\ntitle: t\ntasks: [arc_easy]", "also in"),
    ],
)  # fmt: skip
def test_a_faulty_suite_is_refused_in_a_line(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    name = "smoke" if "smoke" in text else "s"
    with pytest.raises((TaskError, ConfigError), match=message):
        load_suite(name, [tmp_path])


def test_unknown_names_bring_near_ones(tmp_path):
    data = tmp_path / "data"
    (data / "mmlu").mkdir(parents=True)
    row = {"id": "1", "question": "Which?", "choices": ["a", "b"], "answer": 0, "subject": "anatomy"}
    for name in ("test", "dev_fewshot"):
        (data / "mmlu" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(TaskError, match="suite 'anatomi': no such suite; did you mean \"anatomy\""):
        load_suite("anatomi")
    with pytest.raises(TaskError, match="mmlu_letter has no subject 'anatomi'; did you mean \"anatomy\""):
        build_tasks(["mmlu_letter_anatomi"], data=data)
    with pytest.raises(TaskError, match="no such folder"):
        build_tasks(["arc_easy"], include_path=[tmp_path / "none"])


def test_a_name_in_several_forms_stands_for_one_entry_each():
    assert expand_name("mmlu") == ["mmlu_letter", "mmlu_cloze"]
    assert expand_name("arc_easy") == ["arc_easy"]
    assert [task.task for task in suite_of(["sample_general", "piqa"], limit=3).tasks] == [
        "sample_general_cloze",
        "sample_general_letter",
        "piqa",
    ]
    assert [entry.name for entry in build_plan(tasks=["sample_general"]).entries] == [
        "sample_general_cloze",
        "sample_general_letter",
    ]


def test_more_shots_than_rows_for_them_are_refused(folder):
    with pytest.raises(TaskError, match="2 shots asked, 1 few-shot rows there"):
        build_tasks(["own_quiz"], num_fewshot=2, include_path=[folder])
    with pytest.raises(TaskError, match="6 shots asked, 5 few-shot rows there"):
        build_tasks(["sample_general_cloze"], num_fewshot=6)
    (task,) = build_tasks(["sample_general_cloze"], num_fewshot=0).values()
    assert task.config.num_fewshot == 0


def test_lm_evals_own_tasks_are_one_prefix_away():
    card = task_card("lm_eval:arc_easy")
    assert (card.source, card.dataset, card.metric) == ("lm_eval", "allenai/ai2_arc", "acc_norm")
    with pytest.raises(TaskError, match="lm-eval has no 'arc_eazy'"):
        build_tasks(["lm_eval:arc_eazy"])
    with pytest.raises(TaskError, match="lm-eval cannot load it"):
        build_tasks(["lm_eval:arc_easy"])  # tests have no hub


def test_a_larger_sample_holds_the_smaller_one_whatever_the_files_order():
    docs = [{"id": i, "question": f"q{i}"} for i in range(50)]
    first = rows.shuffled(docs)
    assert rows.shuffled(reversed(docs)) == first
    assert [doc["id"] for doc in first] != list(range(50))
    without = [doc for doc in docs if doc["id"] != first[0]["id"]]
    assert rows.shuffled(without) == first[1:]


def test_rows_that_differ_only_in_their_id_are_one_question():
    assert rows.shuffled([{"id": 1, "question": "q"}, {"id": 2, "question": "q"}]) == [{"id": 1, "question": "q"}]


def test_examples_take_their_cluster_with_them():
    docs = [{"id": i, "passage": i // 3} for i in range(30)]
    shots, rest = rows.carve(docs, 4, "passage")
    assert len({row["passage"] for row in shots}) == 4
    assert len(rest) == 30 - 12
    assert not {row["passage"] for row in rest} & {row["passage"] for row in shots}
    with pytest.raises(TaskError, match="too few"):
        rows.carve(docs, 30, None)
