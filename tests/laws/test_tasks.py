"""Laws of every shipped task and suite: what a runner and a reader rely on, whatever the set."""

import functools

import pytest

from benchmarks import catalog
from benchmarks.library import build_tasks, card_of, group_of, task_card
from benchmarks.rows import find_file, question_hash
from benchmarks.suite import list_suites, load_suite
from workbench.config import data_folder
from workbench.errors import TaskError

TASKS = catalog.shipped_tasks()
LIMIT = 3


def leaves_of(built):
    return built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]


def build_or_skip(name):
    spec, _ = catalog.shipped_entries()[name]
    file = catalog.load_manifest().sets[spec.set].test
    if find_file(file, data_folder()) is None:
        pytest.skip(f"{file} is not in the data folder; set WORKBENCH_DATA")
    return build(name)


@functools.cache
def build(name):
    return build_tasks([name])[name]


@pytest.mark.parametrize("name", TASKS)
def test_task_builds_requests_and_its_target_is_among_its_choices(name):
    for task in leaves_of(build_or_skip(name))[:LIMIT]:
        task.build_all_requests(limit=LIMIT)
        assert task.instances
        for instance in task.instances:
            assert instance.request_type in ("loglikelihood", "loglikelihood_rolling", "generate_until")
            if task.OUTPUT_TYPE == "multiple_choice":
                assert instance.args[1].strip(), "an empty continuation has no likelihood"
        if task.OUTPUT_TYPE == "multiple_choice":
            for doc in list(task.eval_docs):
                gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
                assert 0 <= gold < len(task.doc_to_choice(doc))


@pytest.mark.parametrize("name", TASKS)
def test_task_never_shows_an_evaluation_row_as_an_example(name):
    built = build_or_skip(name)
    cluster = card_of(built).cluster
    for task in leaves_of(built):
        docs, shots = list(task.eval_docs), list(task.dataset["dev"])
        assert len(shots) >= task.config.num_fewshot
        assert not {question_hash(row) for row in docs} & {question_hash(row) for row in shots}
        if cluster:
            assert not {row[cluster] for row in docs} & {row[cluster] for row in shots}


@pytest.mark.parametrize("name", TASKS)
def test_task_has_a_card_a_reader_can_use(name):
    built = build_or_skip(name)
    card = card_of(built)
    assert card.role in ("domain", "general", "instruction", "safety")
    assert 0 < card.margin <= 0.1
    assert card.licence
    assert card.title
    metrics = {entry["metric"] for entry in leaves_of(built)[0].config.metric_list}
    assert card.metric.split(",")[0] in metrics
    higher = leaves_of(built)[0].higher_is_better()[card.metric.split(",")[0]]
    assert (card.direction == "higher") == higher
    assert (card.chance is None) == (card.form in ("word", "answer", "text", "generate"))
    if card.form == "letter":
        assert not card.required, "below a billion parameters the letter form is chance"
    if card.cluster:
        assert all(group_of(task, doc) for task in leaves_of(built) for doc in task.eval_docs)


@pytest.mark.parametrize("name", TASKS)
def test_task_orders_its_rows_at_random_and_without_repeats(name):
    for task in leaves_of(build_or_skip(name)):
        hashes = [question_hash(doc) for doc in task.eval_docs]
        assert len(set(hashes)) == len(hashes)
        ids = [doc["id"] for doc in task.eval_docs if "id" in doc]
        assert len(ids) < 30 or ids != sorted(ids), "the first rows of a file are no sample of it"


@pytest.mark.parametrize("name", list_suites())
def test_every_task_of_a_suite_is_known_and_has_role_and_margin(name):
    suite = load_suite(name)
    assert suite.title
    assert suite.tasks
    for task in suite.tasks:
        assert task_card(task.task).name == task.task
        assert task.margin > 0
        assert task.role
    assert any(task.required for task in suite.tasks), "a suite that requires nothing cannot hold a release"


@pytest.mark.parametrize("name", [task for task in TASKS if task_card(task).dataset.count("/") == 1])
def test_task_says_what_to_do_when_neither_file_nor_hub_can_be_reached(name, tmp_path):
    with pytest.raises(TaskError, match=r"^set .*: no .* in .*hub dataset"):
        build_tasks([name], data=tmp_path)


def test_samples_need_no_data(tmp_path):
    for suite in ("sample-domain", "sample-general"):
        for task in load_suite(suite).tasks:
            built = build_tasks([task.task], data=tmp_path)[task.task]
            built.build_all_requests(limit=2)
            assert built.instances
