"""A folder that `task new` writes: run by us and by plain lm-eval, movable, its examples never in its test."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.author import Options, read_questions, write_task
from benchmarks.library import build_tasks, card_of, expand_name, group_of
from benchmarks.suite import load_suite, suite_of
from workbench.errors import TaskError

FRUIT = ["apple", "pear", "plum", "fig", "lime", "kiwi", "date", "peach", "melon", "grape"]


def questions(n=30, **more):
    """Rows with a key spread over the letters."""
    rows = []
    for i in range(n):
        choices = [f"{FRUIT[(i + k) % 10]} number {i}" for k in range(4)]
        row = {
            "question": f"Which one is in basket {i} of {FRUIT[i % 7]}?",
            "choices": choices,
            "answer": "ABCD"[i % 4],
        }
        rows.append({**row, **{key: value(i) if callable(value) else value for key, value in more.items()}})
    return rows


def author(folder, rows, name="shop", **options):
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    made = Options(**options)
    return write_task(name, read_questions(source, made), folder / name, made)


def leaves(built):
    return built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]


def test_one_file_makes_a_cloze_and_a_letter_entry_and_a_suite(tmp_path):
    made = author(tmp_path, questions(), title="Our shop", licence="ours", margin=0.04)
    assert made.entries == ("shop_cloze", "shop_letter")
    assert made.items == {"shop_cloze": 27, "shop_letter": 27}
    path = [tmp_path / "shop"]
    assert expand_name("shop", path) == ["shop_cloze", "shop_letter"]
    suite = load_suite("shop", path)
    assert [(t.task, t.role, t.margin, t.required) for t in suite.tasks] == [
        ("shop_cloze", "domain", 0.04, True),
        ("shop_letter", "domain", 0.04, False),
    ]
    assert [task.task for task in suite_of(["shop"], include_path=path).tasks] == ["shop_cloze", "shop_letter"]
    built = build_tasks(list(made.entries), include_path=path)
    card = card_of(built["shop_cloze"])
    assert (card.metric, card.chance, card.licence, card.source) == ("acc_norm", 0.25, "ours", "include")


def test_prompts_of_both_forms(tmp_path):
    author(tmp_path, questions(), shots=1)
    built = build_tasks(["shop_cloze", "shop_letter"], include_path=[tmp_path / "shop"])
    for task in built.values():
        task.build_all_requests(limit=1)
    cloze, letter = (task.instances for task in built.values())
    doc = cloze[0].doc
    assert cloze[0].args[0].startswith("The following are questions (with answers).\n\nQuestion: ")
    assert cloze[0].args[0].endswith(f"\n\nQuestion: {doc['question']}\nAnswer:")
    assert [i.args[1] for i in cloze] == [" " + choice for choice in doc["choices"]]
    listed = "".join(f"{x}. {choice}\n" for x, choice in zip("ABCD", doc["choices"], strict=True))
    assert letter[0].args[0].endswith(f"\n\n{doc['question']}\n{listed}Answer:")
    assert [i.args[1] for i in letter] == [" A", " B", " C", " D"]
    right = doc["choices"][doc["answer"]]
    assert right == next(row for row in questions() if row["question"] == doc["question"])["choices"][doc["answer"]]


@pytest.mark.parametrize("n", [2, 3, 26])
def test_any_number_of_choices_from_2_to_26(tmp_path, n):
    choices = [f"choice {k}" for k in range(n)]
    rows = [
        {"question": f"Question {i}?", "choices": choices, "answer": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[n - 1]}
        for i in range(3)
    ]
    author(tmp_path, rows)
    (task,) = build_tasks(["shop_letter"], include_path=[tmp_path / "shop"]).values()
    task.build_all_requests()
    assert len(task.instances) == 3 * n
    assert card_of(task).chance == pytest.approx(1 / n)
    scored = task.process_results(task.eval_docs[0], [(-1.0 if k == n - 1 else -2.0, False) for k in range(n)])
    assert scored["acc"] == 1


def test_subjects_become_leaves_of_one_entry_with_their_own_examples_first(tmp_path):
    def subject(i):
        return ["fruit & veg", "{{braces}}"][i % 2]

    author(tmp_path, questions(subject=subject, split=lambda i: "dev" if i < 4 else "test"), shots=2)
    (group,) = build_tasks(["shop_letter"], include_path=[tmp_path / "shop"]).values()
    names = [leaf.task_name for leaf in leaves(group)]
    assert names == ["shop_letter::fruit & veg", "shop_letter::{{braces}}"]
    for leaf in leaves(group):
        own = leaf.task_name.split("::")[1]
        assert {doc["subject"] for doc in leaf.eval_docs} == {own}
        assert [doc["subject"] for doc in leaf.fewshot_docs()][:2] == [own, own]
        leaf.build_all_requests(limit=1)
        assert (
            leaf.instances[0]
            .args[0]
            .startswith(f"The following are multiple choice questions (with answers) about {own}.\n\n")
        )
    assert card_of(group).metric == "acc"


def test_examples_and_all_of_their_cluster_stay_out_of_the_test(tmp_path):
    author(tmp_path, questions(60, context=lambda i: f"Basket list {i // 3}."), shots=4)
    (task,) = build_tasks(["shop_cloze"], include_path=[tmp_path / "shop"]).values()
    test, dev = list(task.eval_docs), list(task.fewshot_docs())
    assert len(dev) == 4
    assert len(test) == 60 - 4 * 3
    assert not {doc["context"] for doc in test} & {doc["context"] for doc in dev}
    assert group_of(task, test[0]) == test[0]["cluster"]
    assert len({doc["cluster"] for doc in test}) == 16
    task.build_all_requests(limit=1)
    assert task.instances[0].args[0].count("Basket list") == 5


def test_several_right_answers_credit_any_of_them_and_the_whole_set_when_written(tmp_path):
    rows = [{**row, "answer": "A, C" if i % 2 else "B"} for i, row in enumerate(questions(12))]
    made = author(tmp_path, rows, shots=0)
    assert made.entries == ("shop_cloze", "shop_letter", "shop_select")
    built = build_tasks(list(made.entries), include_path=[tmp_path / "shop"])
    doc = next(doc for doc in built["shop_cloze"].eval_docs if doc["right"] == [0, 2])
    for name in ("shop_cloze", "shop_letter"):
        for best, credit in ((0, 1), (1, 0), (2, 1)):
            scored = built[name].process_results(doc, [(-1.0 if k == best else -9.0, False) for k in range(4)])
            assert scored["acc"] == credit
    assert card_of(built["shop_cloze"]).chance == pytest.approx((6 * 2 + 6 * 1) / 12 / 4)
    score = built["shop_select"].process_results
    assert built["shop_select"].doc_to_target(doc) == "A, C"
    assert score(doc, [" A, C\n"]) == {"exact_match": 1.0, "jaccard": 1.0}
    assert score(doc, ["A"]) == {"exact_match": 0.0, "jaccard": 0.5}
    assert score(doc, ["A, B, C, D"]) == {"exact_match": 0.0, "jaccard": 0.5}


KINDS = [
    ({"question": "Rank:", "candidates": ["x", "yy"], "relevance": [0, 2]}, "ranking",
     [(-9.0, False), (-1.0, False)], {"ndcg": 1.0, "hit_at_1": 1.0}),
    ({"question": "Rank 1. x 2. y", "relevance": [0, 2]}, "ranking", ["2, 1"], {"ndcg": 1.0, "hit_at_1": 1.0}),
    ({"question": "Pick three", "type": "retrieval", "answer": [4, 2]}, "retrieval", ["2, 9, 1"],
     {"recall_at_3": 0.5, "hit_at_3": 1.0}),
    ({"question": "Brands?", "answer": ["Acme", "Bolt"]}, "extraction", ["acme, Zip"],
     {"span_f1": 0.5, "exact_match": 0.0}),
    ({"question": "Price?", "answer": 12.5}, "short", ["about $12.50"], {"exact_match": 1.0}),
    ({"question": "Price?", "answer": 12.5, "tolerance": 0.2}, "short", ["14"], {"exact_match": 1.0}),
    ({"question": "Colour?", "answer": "dark red"}, "short", ["Dark red."], {"exact_match": 1.0, "token_f1": 1.0}),
    ({"question": "Why?", "answer": "Because the left valve of it was closed."}, "text",
     ["Because the left valve of it was closed."], {"rouge_l": 1.0, "token_f1": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "kind", "answer", "scores"), KINDS, ids=[str(i) for i in range(len(KINDS))])
def test_other_kinds_run_and_score(tmp_path, row, kind, answer, scores):
    made = author(tmp_path, [row, {**row, "question": row["question"] + " And now?"}])
    assert made.entries == (f"shop_{kind}",)
    (task,) = build_tasks(list(made.entries), include_path=[tmp_path / "shop"]).values()
    task.build_all_requests()
    got = task.process_results(task.eval_docs[0], answer)
    assert {name: got[name] for name in scores} == pytest.approx(scores)
    assert card_of(task).metric in got


def test_a_judge_scores_texts_only_where_one_is_named(tmp_path):
    from benchmarks.scoring import judges

    @judges.register("polite-judge", replace=True)
    def polite(question, answer, golds):
        return 1.0 if "please" in answer else 0.0

    row = {"question": "Ask me for the salt.", "answer": "Could you pass me the salt, please?"}
    made = author(tmp_path, [row], judge="polite-judge")
    (task,) = build_tasks(list(made.entries), include_path=[tmp_path / "shop"]).values()
    assert card_of(task).metric == "judge"
    assert task.process_results(task.eval_docs[0], ["Salt, please"])["judge"] == 1.0
    assert task.process_results(task.eval_docs[0], ["Salt!"])["judge"] == 0.0


def test_a_mixed_file_becomes_one_entry_for_each_kind(tmp_path):
    rows = [*questions(4), *[row for row, *_ in KINDS]]
    made = author(tmp_path, rows, shots=0)
    assert made.entries == (
        "shop_cloze", "shop_letter", "shop_ranking", "shop_retrieval", "shop_extraction", "shop_short", "shop_text"
    )  # fmt: skip
    assert made.items["shop_short"] == 3


def test_the_folder_can_be_moved_and_plain_lm_eval_runs_it(tmp_path):
    author(tmp_path / "first", questions(subject=lambda i: ["a", "b"][i % 2]), shots=2)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "first" / "shop", moved)
    # What `lm_eval --include_path` does, without listing lm-eval's own 14,000 tasks first.
    program = (
        "import json, sys, lm_eval; from lm_eval.tasks import TaskManager;"
        "manager = TaskManager(include_path=sys.argv[1], include_defaults=False);"
        "out = lm_eval.simple_evaluate('dummy', tasks=['shop'], task_manager=manager, limit=3, bootstrap_iters=0);"
        "assert 'workbench' not in sys.modules and 'benchmarks' not in sys.modules;"
        "print(json.dumps({'groups': sorted(out['groups']), 'n': out['n-samples']}))"
    )
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(moved)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["groups"] == ["shop_cloze", "shop_letter"]
    assert found["n"]["shop_letter::a"] == {"original": 14, "effective": 3}


def test_a_faulty_file_makes_nothing_unless_its_rows_are_left_out(tmp_path):
    rows = [*questions(12), {"question": "Bad?", "choices": ["a", "a"], "answer": "A"}]
    with pytest.raises(TaskError, match="row 13, choices: choices A and B are the same"):
        author(tmp_path, rows)
    assert not (tmp_path / "shop").exists()
    assert author(tmp_path, rows, drop_faulty=True, shots=0).items["shop_cloze"] == 12


def test_an_example_that_is_also_asked_is_an_error(tmp_path):
    rows = questions(12)
    rows.append({**rows[3], "split": "dev"})
    with pytest.raises(TaskError, match="row 4: few-shot row 13 is the same as this question; take one out"):
        author(tmp_path, rows)
    made = author(tmp_path, rows, drop_faulty=True)
    assert made.items["shop_cloze"] == 11


def test_names_and_folders_are_guarded(tmp_path):
    with pytest.raises(TaskError, match="small letters"):
        author(tmp_path, questions(), name="My Shop")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "precious.txt").write_text("mine")
    with pytest.raises(TaskError, match="holds other files"):
        author(tmp_path, questions())
    assert (tmp_path / "shop" / "precious.txt").read_text() == "mine"


def test_writing_again_replaces_what_was_there(tmp_path):
    author(tmp_path, questions(subject=lambda i: str(i % 2)))
    made = author(tmp_path, [{"question": "Price?", "answer": 3}])
    assert made.entries == ("shop_short",)
    assert sorted(path.name for path in (tmp_path / "shop").glob("*.yaml")) == [
        "shop.yaml",
        "shop_short.yaml",
        "suite.yaml",
    ]


def test_a_name_that_ships_with_the_workbench_is_refused_when_it_is_used(tmp_path):
    author(tmp_path, [{"question": "Price?", "answer": 3}], name="piqa")
    with pytest.raises(TaskError, match="rename"):
        suite_of(["piqa"], include_path=[tmp_path / "piqa"])
