"""The same questions in other prompts: what is asked, what pairs, what is fragile, what can be guessed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite as suites
from benchmarks.compare import compare_reports
from benchmarks.flips import list_flips
from benchmarks.library import build_tasks
from benchmarks.lm import EngineLM
from benchmarks.robustness import find_fragile
from benchmarks.runner import build_plan, run_plan
from benchmarks.side import Side
from benchmarks.variants import CLOZE, LETTER, rotate, vary
from tests.benchmarks.test_runner import TableEngine, question, write_task
from workbench.errors import TaskError
from workbench.records import Checkpoint, Report

LETTERED, WORDS = "sample_general_letter", "sample_general_cloze"


def leaf(name: str) -> Any:
    return build_tasks([name])[name]


def varied(name: str, count: int = 6) -> list[Any]:
    task = leaf(name)
    (found,) = vary({name: task}, variants=count, choices_only=False)
    return list(found.leaves.values())


def test_every_variant_of_a_lettered_task_asks_the_same_with_the_right_answer_in_its_new_place() -> None:
    tasks = varied(LETTERED)
    assert [task.task_name for task in tasks] == [LETTERED, *(f"{LETTERED}@v{k}" for k in range(1, 6))]
    prompts: list[set[str]] = []
    for place, own in enumerate(tasks[0].eval_docs):
        rights = []
        for task in tasks:
            doc = task.eval_docs[place]
            text, labels, right = task.doc_to_text(doc), task.doc_to_choice(doc), task.doc_to_target(doc)
            assert own["question"] in text
            assert set(doc["choices"]) == set(own["choices"])
            # The line that bears the right label holds the right words.
            sign = re.escape(labels[right].strip("()"))
            (said,) = re.findall(rf"^\(?{sign}[.)] (.*)$", text, re.MULTILINE)
            assert said == own["choices"][own["answer"]]
            rights.append(right)
        assert len(set(rights)) == len(own["choices"]) or len(own["choices"]) < 4  # it stands in every place
        prompts.append({task.doc_to_text(task.eval_docs[place]) for task in tasks})
    assert min(map(len, prompts)) >= 5  # the sixth differs by its description
    assert len({task.config.description for task in tasks}) == 2


def test_variants_in_words_keep_the_choices_and_differ_in_what_stands_before_them() -> None:
    tasks = varied(WORDS)
    docs = [task.eval_docs[0] for task in tasks]
    asked = {(task.config.description, task.doc_to_text(doc)) for task, doc in zip(tasks, docs, strict=True)}
    assert len(asked) == len(CLOZE)
    assert len({tuple(task.doc_to_choice(doc)) for task, doc in zip(tasks, docs, strict=True)}) == 1


@pytest.mark.parametrize("last", ["all of the above", "both A and B", "neither (A) nor (B)", "None of the preceding"])
def test_options_that_speak_of_others_by_their_place_are_not_rotated(last: str) -> None:
    doc = {"choices": ["red", "blue", last], "answer": 2}
    assert rotate(doc, 1) == doc
    assert rotate({"choices": ["red", "blue", "grey"], "answer": 2, "right": [2]}, 2) == {
        "choices": ["blue", "grey", "red"],
        "answer": 1,
        "right": [1],
    }


def test_without_its_question_only_the_options_are_asked() -> None:
    for name in (LETTERED, WORDS):
        task = leaf(name)
        (found,) = vary({name: task}, variants=1, choices_only=True)
        (blind,) = found.leaves.values()
        for own, doc in zip(task.eval_docs, blind.eval_docs, strict=True):
            text = blind.doc_to_text(doc)
            assert own["question"] not in text and text.endswith("Answer:")
            assert blind.doc_to_target(doc) == own["answer"]
            assert all(choice in text for choice in own["choices"]) == (name == LETTERED)


def test_tasks_that_cannot_be_varied_are_named_with_the_reason_and_the_others_still_run() -> None:
    plan = build_plan(tasks=[WORDS, "sample_general_text"], variants=3, choices_only=True)
    assert [entry.name for entry in plan.entries] == [
        WORDS,
        f"{WORDS}@prompts",
        f"{WORDS}@choices_only",
        "sample_general_text",
    ]
    (note,) = plan.notes
    assert note.startswith("sample_general_text: it cannot be varied: only letter and cloze can be")
    with pytest.raises(TaskError, match="it cannot be varied"):
        build_plan(tasks=["sample_general_text"], variants=3)
    with pytest.raises(TaskError, match="2 to 6 are possible"):
        build_plan(tasks=[WORDS], variants=7)
    assert len(LETTER) == len(CLOZE) == 6


@pytest.mark.filterwarnings("ignore")
def test_an_lm_eval_task_is_asked_in_its_own_way_and_a_note_says_so(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "foreign", [question(i) for i in range(3)])
    plan = build_plan(tasks=["foreign", WORDS], include_path=[folder], variants=2)
    (note,) = plan.notes
    assert note.startswith("foreign: it cannot be varied: ")


def suite_file(folder: Path, *, required: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "robust.yaml").write_text(
        f"suite: robust\ntitle: t\ntasks:\n  - {{task: {WORDS}, variants: 3, required: {str(required).lower()}}}\n"
    )
    return folder


def test_a_suite_that_asks_for_variants_requires_the_mean_over_prompts_and_not_the_first_prompt(tmp_path: Path) -> None:
    plan = build_plan(suites=["robust"], include_path=[suite_file(tmp_path / "s")])
    assert [(entry.name, entry.card.required) for entry in plan.entries] == [
        (WORDS, False),
        (f"{WORDS}@prompts", True),
    ]
    plan = build_plan(suites=["robust"], include_path=[suite_file(tmp_path / "s", required=False)])
    assert not any(entry.card.required for entry in plan.entries)
    plan = build_plan(tasks=[WORDS], variants=3)  # asked on the command line: shown, never decisive
    assert [entry.card.required for entry in plan.entries] == [True, False]


def test_a_misspelt_or_impossible_number_of_variants_in_a_suite_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(f"suite: bad\ntasks:\n  - {{task: {WORDS}, variants: 9}}\n")
    with pytest.raises(Exception, match="variants"):
        suites.load_suite("bad", [tmp_path])


def ask(name: str, logprob: Any, **options: Any) -> Side:
    """Two checkpoints are two functions of the request."""
    lm = EngineLM(TableEngine(logprob), fingerprint=name.ljust(64, "0"), tokenizer_digest="t" * 64)
    outcome = run_plan(lm, build_plan(tasks=[WORDS], **options))
    checkpoint = Checkpoint(
        name=name, source=f"/m/{name}", kind="folder", fingerprint=name.ljust(64, "0"), tokenizer=""
    )
    report = Report(
        id=name.ljust(64, "0"),
        checkpoint=checkpoint,
        suites=(),
        results=outcome.results,
        settings={},
        created_at="",
        environment={},
    )
    return Side.of(report, list(outcome.items))


def likes(*, except_in: str = "\0") -> Any:
    """Right wherever the prompt does not hold `except_in`; there the longest choice wins."""
    rights = {doc["question"]: doc["choices"][doc["answer"]] for doc in leaf(WORDS).eval_docs}

    def logprob(request: Any) -> float:
        last = request.context.rsplit("\n\n", 1)[-1]
        right = next((answer for asked, answer in rights.items() if asked in last), None)
        is_right = right == request.continuation.strip()
        return -1.0 if is_right != (except_in in last) else -50.0

    return logprob


@pytest.fixture(scope="module")
def pair() -> tuple[Side, Side]:
    options: dict[str, Any] = {"variants": 4, "choices_only": True, "limit": 30}
    return ask("a", likes(), **options), ask("b", likes(except_in="Q: "), **options)


def test_a_loss_in_one_prompt_is_told_over_prompts_with_its_fragile_questions(pair: tuple[Side, Side]) -> None:
    comparison = compare_reports(*pair)
    tasks = {task.task: task for task in comparison.tasks}
    assert list(tasks) == [WORDS, f"{WORDS}@prompts"]  # what looks at the questions alone is not compared
    assert tasks[WORDS].difference is not None and tasks[WORDS].difference.value == 0.0
    over = tasks[f"{WORDS}@prompts"]
    assert over.difference is not None and over.difference.value == pytest.approx(-0.25)
    assert over.verdict == "inconclusive" and over.clusters == 30 and over.n == 120
    assert "change by prompt +0.0 -100.0 +0.0 +0.0 points" in over.notes[0]
    assert over.notes[1].endswith("0 of 30 questions before, 30 now")
    fragile = find_fragile(pair[1].rows(pair[1].results[f"{WORDS}@prompts"].subtasks), "acc_norm")
    assert len(fragile) == 30 and {one.right for one in fragile} == {3}


def test_a_flip_says_whether_it_hangs_on_the_prompt(pair: tuple[Side, Side]) -> None:
    lost_as_it_is = ask("c", likes(except_in="Question: "), variants=4, limit=30)
    comparison = compare_reports(pair[0], lost_as_it_is)
    own = [task for task in comparison.tasks if task.task == WORDS]
    notes = {note for flip in list_flips(own, pair[0], lost_as_it_is) for note in flip.notes}
    assert notes == {"fragile: right in 4 of 4 prompts before, in 2 of 4 now"}


def test_other_numbers_of_prompts_are_not_compared(pair: tuple[Side, Side]) -> None:
    fewer = ask("d", likes(), variants=3, limit=30)
    tasks = {task.task: task for task in compare_reports(pair[0], fewer).tasks}
    assert tasks[f"{WORDS}@prompts"].reason == "asked in 4 and 3 prompts"
    assert tasks[WORDS].verdict == "inconclusive" or tasks[WORDS].verdict == "kept"


def test_the_report_tells_what_can_be_guessed_and_which_prompt_scores_what(pair: tuple[Side, Side]) -> None:
    results = pair[1].results
    notes = " | ".join(results[f"{WORDS}@prompts"].notes)
    assert "acc_norm by prompt 100.0% 0.0% 100.0% 100.0%" in notes
    assert "30 of 30 questions (100.0%) are fragile" in notes
    probe = results[f"{WORDS}@choices_only"]
    assert probe.is_probe and not probe.required
    assert any("without its questions" in note or "from the options alone" in note for note in probe.notes)


def test_a_reader_of_an_old_report_sees_one_prompt(pair: tuple[Side, Side]) -> None:
    result = pair[0].results[WORDS]
    assert result.prompts is None and replace(result, prompts=None) == result
