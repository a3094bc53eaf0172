"""Check a task of any origin, or a file of questions: lint, and contamination by training text. Knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.author import Options, read_questions
from benchmarks.contamination import Contamination, TestItem, find_contamination
from benchmarks.library import build_tasks, expand_name
from benchmarks.lint import Lint, lint
from benchmarks.questions import Question
from benchmarks.tables import Fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What was found. `contamination` is None where no training text was given."""

    target: str
    faults: tuple[Fault, ...]
    lint: Lint
    contamination: Contamination | None


def check(
    target: str,
    *,
    against: Sequence[Path] = (),
    n: int = 13,
    include_path: Iterable[str | Path] = (),
    data: Path | str | None = None,
    options: Options | None = None,
) -> Check:
    """Check a file of questions, or a task by name (its first entry: all entries ask the same questions).

    Raises TaskError: unknown name, unreadable file.
    """
    if Path(target).is_file():
        draft = read_questions(Path(target), options)
        questions, faults, judged = list(draft.questions), draft.faults, draft.lint
    else:
        name = expand_name(target, include_path)[0]
        questions = questions_of(build_tasks([name], include_path=include_path, data=data)[name])
        judged = lint(questions)
        faults = judged.faults
    items = [item_of(question) for question in questions if question.split == "test"]
    found = find_contamination(items, against, n=n) if against else None
    return Check(target=target, faults=faults, lint=judged, contamination=found)


def item_of(question: Question) -> TestItem:
    """A question as text to look for."""
    answer = " ".join([question.choices[index] for index in question.right] or question.golds)
    return TestItem(id=question.id, question=question.question, answer=answer, subject=question.subject)


def questions_of(task: Any) -> list[Question]:
    """Questions of a built lm-eval task or group; few-shot rows too, where the task has a split for them."""
    if hasattr(task, "get_all_tasks"):
        leaves = [question for leaf in task.get_all_tasks() for question in questions_of(leaf)]
        # Leaves may share their few-shot rows.
        return list({(q.split, q.id, q.question): q for q in leaves}.values())
    split = task.fewshot_cfg.split if task.fewshot_cfg is not None else None
    dev = (
        list(task.fewshot_docs())
        if split and split not in (task.config.test_split, task.config.validation_split)
        else []
    )
    asked = [_question(task, doc, number, "test") for number, doc in enumerate(task.eval_docs, 1)]
    return asked + [_question(task, doc, number, "dev") for number, doc in enumerate(dev, 1)]


def _question(task: Any, doc: Mapping[str, Any], row: int, split: Any) -> Question:
    question = Question(
        row=row,
        kind="short",
        id=str(doc.get("id") or f"{task.task_name}#{row}"),
        question="",
        split=split,
        subject=str(doc.get("subject") or ""),
        context=str(doc.get("context") or doc.get("passage") or ""),
    )
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        question.question, question.kind = str(task.doc_to_target(doc)), "text"
    elif task.OUTPUT_TYPE != "multiple_choice":
        question.question = str(doc.get("question") or doc.get("prompt") or task.doc_to_text(doc))
        question.golds = [str(task.doc_to_target(doc))]
    elif getattr(task, "multiple_input", 0):
        gold = task.doc_to_text(doc)
        question.choices, question.right, question.kind = list(task.doc_to_choice(doc)), [gold], "choice"
        question.question = f"{question.choices[gold]} {task.doc_to_target(doc)}"
    else:
        question.kind = "choice"
        gold = task.doc_to_target(doc)
        shown = list(task.doc_to_choice(doc))
        # In the letter form the choices are letters; the document knows the texts.
        texts = doc["choices"] if isinstance(doc.get("choices"), list) else shown
        several = gold if isinstance(gold, list) else [gold]
        question.choices = texts
        question.right = [index if isinstance(index, int) else shown.index(index) for index in several]
        question.question = str(doc.get("question") or doc.get("query") or doc.get("goal") or task.doc_to_text(doc))
    return question
