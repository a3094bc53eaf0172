"""A file of questions -> a folder of lm-eval tasks: a domain MMLU variant. Knows files; knows no model.

The folder holds the cleaned rows (`test.jsonl`, `dev.jsonl`), one YAML file for each entry, a suite, and `rows.py`,
which reads the rows from beside itself: the folder can be moved, and plain `lm_eval --include_path FOLDER` runs it too.
Multiple choice becomes two entries, cloze and letter: below a billion parameters the letter form is chance.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import entries
from benchmarks.entries import Entry
from benchmarks.lint import Lint, lint
from benchmarks.metrics import ndcg_chance
from benchmarks.questions import ALIASES, Kind, Question, Reader, Reading
from benchmarks.rows import content_hash
from benchmarks.tables import Fault, read_table
from workbench.errors import TaskError

NAME = re.compile(r"[a-z][a-z0-9_]*")
ROWS_PY = '''"""Rows of the tasks in this folder, for lm-eval. Written by `workbench task new`; may be moved with it."""

import json
from pathlib import Path


def load(*, kind, subject=None, **_):
    """Return the test and dev rows of one kind and subject; dev rows of the subject come first."""
    import datasets

    splits = {}
    for split in ("test", "dev"):
        with (Path(__file__).parent / f"{split}.jsonl").open(encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if row["kind"] == kind]
        if split == "dev":
            rows.sort(key=lambda row: row["subject"] != (subject or row["subject"]))
        elif subject is not None:
            rows = [row for row in rows if row["subject"] == subject]
        splits[split] = datasets.Dataset.from_list(rows)
    return splits
'''


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to make a task of a file. None and empty: find out, or the default."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the file's column."""
    kind: Kind | None = None
    answers: Reading | None = None
    encoding: str = "utf-8-sig"
    shots: int | None = None
    """Few-shot examples; None: 5 where the file has as many, or can spare them."""
    title: str = ""
    licence: str = ""
    margin: float = 0.03
    """Loss that still counts as kept."""
    language: str = ""
    judge: str = ""
    """Registered judge that also scores generated texts; its name is written into the task."""
    tokens: int | None = None
    """Most tokens of a written answer; None: what the form gives it."""
    drop_faulty: bool = False
    """Leave faulty rows out instead of refusing the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A file that was read and judged. `errors` keep a task from being made of it."""

    path: str
    questions: tuple[Question, ...]
    faults: tuple[Fault, ...]
    lint: Lint
    reading: Reading | None

    @property
    def errors(self) -> list[Fault]:
        """Faults that must be mended."""
        return [fault for fault in self.faults if fault.level == "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Authored:
    """The folder that was written."""

    name: str
    folder: str
    entries: tuple[str, ...]
    items: dict[str, int]
    """Entry -> questions."""
    subjects: int
    shots: int
    draft: Draft


def read_questions(source: Path, options: Options | None = None) -> Draft:
    """Read and judge a file of questions: every fault in one pass, in the order of its rows."""
    options = options or Options()
    reader = Reader(fields=options.fields, kind=options.kind, answers=options.answers)
    questions = reader.read(read_table(source, encoding=options.encoding))
    judged = lint(questions)
    faults = sorted([*reader.faults, *judged.faults], key=lambda fault: (fault.row is not None, fault.row or 0))
    return Draft(
        path=str(source), questions=tuple(questions), faults=tuple(faults), lint=judged, reading=reader.reading
    )


def write_task(name: str, draft: Draft, folder: Path, options: Options | None = None) -> Authored:
    """Write the task folder. Raises TaskError: faults, a bad name, or a folder that holds something else."""
    options = options or Options()
    if not NAME.fullmatch(name):
        raise TaskError(f"task name {name!r}: small letters, digits and _ only, beginning with a letter")
    if draft.errors and not options.drop_faulty:
        raise TaskError("\n".join(f"{draft.path}: {fault}" for fault in draft.errors))
    questions = _without_faulty(draft)
    if folder.exists() and any(folder.iterdir()) and not (folder / f"{name}.yaml").is_file():
        raise TaskError(f"{folder}: holds other files; give another --out")
    test, dev = _split(questions, options.shots)
    if not test:
        raise TaskError(f"{draft.path}: no test questions; rows with split test are needed")
    shots = min(len(dev), 5 if options.shots is None else options.shots)
    kinds: list[Kind] = [kind for kind in ALIASES if any(question.kind == kind for question in test)]
    made = [entries.limit(e, options.tokens) for kind in kinds for e in _entries(name, kind, test, options)]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("*.yaml"), *folder.glob("*.jsonl")]:
        stale.unlink()
    (folder / "rows.py").write_text(ROWS_PY, encoding="utf-8")
    for split, rows in (("test", test), ("dev", dev)):
        lines = [json.dumps(_row(question, options), ensure_ascii=False) + "\n" for question in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    subjects = sorted({question.subject for question in test})
    for entry in made:
        own = [s for s in subjects if any(q.kind == entry.kind and q.subject == s for q in test)]
        known = sum(question.kind == entry.kind for question in dev)
        entries.write_entry(folder, entry, subjects=own, shots=min(shots, known))
    title = options.title or name.replace("_", " ")
    entries.write_group(folder, name, title, [entry.name for entry in made])
    return Authored(
        name=name,
        folder=str(folder),
        entries=tuple(entry.name for entry in made),
        items={entry.name: sum(question.kind == entry.kind for question in test) for entry in made},
        subjects=len([subject for subject in subjects if subject]),
        shots=shots,
        draft=draft,
    )


def _without_faulty(draft: Draft) -> list[Question]:
    faulty = {fault.row for fault in draft.errors if fault.row is not None}
    return [question for question in draft.questions if question.row not in faulty]


def _split(questions: Sequence[Question], shots: int | None) -> tuple[list[Question], list[Question]]:
    """Return (test, dev). Where the file has no dev rows, some are taken from it, if it can spare them.

    A row taken as an example takes its cluster out of the test as well: a shared passage would give answers away.
    """
    test = sorted((q for q in questions if q.split == "test"), key=_order)
    dev = [question for question in questions if question.split == "dev"]
    if dev or shots == 0:
        return test, dev
    for kind in dict.fromkeys(question.kind for question in test):
        pool = [question for question in test if question.kind == kind]
        wanted = min(5 if shots is None else shots, len(pool) // 10 if shots is None else len(pool) - 1)
        for question in pool:
            if wanted > 0 and not (_cluster(question) and _cluster(question) in {_cluster(q) for q in dev}):
                dev.append(question)
                wanted -= 1
    shown = {question.row for question in dev}
    clusters = {_cluster(question) for question in dev} - {""}
    return [q for q in test if q.row not in shown and _cluster(q) not in clusters], dev


def _order(question: Question) -> str:
    """A fixed random order, so that `--limit` takes a sample and not the first subject."""
    return content_hash({"question": question.question, "choices": question.choices, "context": question.context})


def _cluster(question: Question) -> str:
    if question.cluster or not question.context:
        return question.cluster
    return hashlib.sha256(question.context.encode()).hexdigest()[:16]


def _row(question: Question, options: Options) -> dict[str, Any]:
    """A line of the JSONL: all columns in every row, since lm-eval takes a file's columns from its first row."""
    row = {key: value for key, value in asdict(question).items() if key not in ("row", "split")}
    right = question.right or [0]
    return {
        **row,
        "cluster": _cluster(question) or question.id,
        "language": question.language or options.language,
        "answer": right[0],
        "right": right,
        "target": _target(question),
        "tolerance": question.tolerance,
        "judge": options.judge,
    }


def _target(question: Question) -> str:
    """What an example's answer looks like, and what a report shows."""
    if question.kind == "choice":
        return "; ".join(question.choices[index] for index in question.right)
    if question.kind == "ranking":
        order = sorted(range(len(question.relevance)), key=lambda index: -question.relevance[index])
        return ", ".join(str(index + 1) for index in order)
    return (", " if question.kind == "retrieval" else "; ").join(question.golds)


def _entries(name: str, kind: Kind, test: Sequence[Question], options: Options) -> list[Entry]:
    own = [question for question in test if question.kind == kind]
    several = any(len(question.right) > 1 for question in own)
    context = any(question.context for question in own)
    listed = kind == "ranking" and all(question.choices for question in own)
    clustered = any(question.cluster or question.context for question in own)
    common: dict[str, Any] = {
        "kind": kind,
        "title": options.title or name.replace("_", " "),
        "margin": options.margin,
        "licence": options.licence,
        "language": options.language or next((q.language for q in own if q.language), ""),
        "context": context,
        "cluster": "cluster" if clustered else None,
    }
    if kind == "choice":
        chance = sum(len(question.right) / len(question.choices) for question in own) / len(own)
        made = [entries.cloze(name, several=several, chance=chance, **common)]
        made.append(entries.letter(name, several=several, chance=chance, **common))
        return [*made, entries.select(name, **common)] if several else made
    if kind == "ranking":
        chance = sum(ndcg_chance(question.relevance) for question in own) / len(own)
        return [entries.ranking(name, listed=listed, chance=chance if listed else None, **common)]
    if kind == "retrieval":
        return [entries.retrieval(name, **common)]
    if kind == "extraction":
        return [entries.extraction(name, **common)]
    return [entries.short(name, **common)] if kind == "short" else [entries.text(name, judge=options.judge, **common)]
