"""A table of questions in any usual layout -> questions in ours, with every fault named. Knows no prompt and no file.

Which column is what is found by its usual name or told (`fields`). How answers are written (letters, texts, numbers
from 0 or from 1) is decided for the whole file: the reading that fits every row. Two readings that both fit and
disagree are a fault, since a key that is off by one would pass unnoticed and make every score wrong.
"""

import ast
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.tables import LETTERS, Fault, Table

Kind = Literal["choice", "ranking", "retrieval", "extraction", "short", "text"]
Reading = Literal["letter", "text", "index0", "index1"]

NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "qid", "uid", "question_id", "row_id"),
    "kind": ("type", "kind", "task_type", "format"),
    "question": ("question", "prompt", "stem", "query", "input", "input_field", "problem", "sentence", "instruction"),
    "context": ("context", "passage", "paragraph", "article", "document", "system"),
    "choices": ("choices", "options", "candidates", "endings", "option"),
    "answer": (
        "answer", "label", "target", "key", "gold", "answer_key", "answerkey", "correct", "correct_answer",
        "answer_idx", "answer_index", "correct_option", "correct_index", "cop", "target_field", "output_field",
        "response", "answers", "output", "reference", "expected",
    ),
    "relevance": ("relevance", "relevances", "gains"),
    "subject": ("subject", "category", "topic", "subject_name", "domain", "skill", "task_name"),
    "split": ("split", "set", "fold", "partition"),
    "cluster": ("cluster", "group", "group_id", "passage_id", "template", "template_id", "document_id", "scenario"),
    "language": ("language", "lang", "locale"),
    "tolerance": ("tolerance", "tol"),
}  # fmt: skip
FIELDS = tuple(NAMES)
OPTION = re.compile(r"(?:option|choice|opt|answer|op|ending|sol)?[ _]?([A-Za-z]|\d{1,2})$", re.IGNORECASE)
ALIASES: Mapping[Kind, tuple[str, ...]] = {
    "choice": ("choice", "mc", "mcq", "multiple_choice", "multiple-choice"),
    "ranking": ("ranking",),
    "retrieval": ("retrieval",),
    "extraction": ("extraction", "ner", "named_entity_recognition"),
    "short": ("short", "number", "numeric", "exact"),
    "text": ("text", "generation", "generate", "qa"),
}
KINDS: Mapping[str, Kind] = {alias: kind for kind, aliases in ALIASES.items() for alias in aliases}
READINGS: Mapping[Reading, str] = {
    "letter": "letters",
    "text": "the choices' texts",
    "index0": "numbers from 0",
    "index1": "numbers from 1",
}
DEV = {"dev", "fewshot", "few_shot", "few-shot", "shots", "train", "example", "examples"}
TEST = {"test", "eval", "evaluation", "validation", "valid", "val", ""}


@dataclass(kw_only=True, slots=True)
class Question:
    """One question. `right` are indices of choices; `golds` accepted texts; `relevance` one gain for each candidate."""

    row: int
    kind: Kind
    id: str
    question: str
    split: Literal["test", "dev"] = "test"
    context: str = ""
    choices: list[str] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    golds: list[str] = field(default_factory=list)
    relevance: list[float] = field(default_factory=list)
    subject: str = ""
    cluster: str = ""
    language: str = ""
    tolerance: float | None = None


@dataclass(kw_only=True, slots=True)
class Reader:
    """How to read a table; what is left None is found out. `fields` maps our names to the file's columns."""

    fields: Mapping[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    answers: Reading | None = None
    faults: list[Fault] = field(default_factory=list)
    reading: Reading | None = None
    """How answers were read in the end."""

    def read(self, table: Table) -> list[Question]:
        """Return the questions that could be read; what is wrong is in `faults`."""
        self.faults += table.faults
        columns = self._columns(table)
        if not table.rows:
            self.faults.append(Fault(message="no rows"))
        if not table.rows or "question" not in columns:
            return []
        options = _option_columns(table.columns, taken=set(columns.values()))
        raw = [_Raw.of(row, number, columns, options) for row, number in zip(table.rows, table.numbers, strict=True)]
        if columns.get("context", "").lower().strip() == "system":
            # An instruction that all rows share, not a passage: it makes no cluster of them.
            raw = [replace(item, cluster=item.cluster or item.id or f"row{item.row}") for item in raw]
        kinds: list[Kind] = [self._kind(item, str(table.path.parent.name)) for item in raw]
        asked = [item for item, kind in zip(raw, kinds, strict=True) if kind == "choice"]
        self.reading = self._reading(asked)
        found = [self._question(item, kind) for item, kind in zip(raw, kinds, strict=True)]
        questions = [question for question in found if question is not None]
        self._check_counts(questions)
        return questions

    def error(self, message: str, row: int | None = None, column: str | None = None) -> None:
        """Note an error."""
        self.faults.append(Fault(message=message, row=row, column=column))

    def warn(self, message: str, row: int | None = None, column: str | None = None) -> None:
        """Note a warning."""
        self.faults.append(Fault(message=message, row=row, column=column, level="warning"))

    def _columns(self, table: Table) -> dict[str, str]:
        """Our field -> the file's column."""
        lower = {column.lower().strip(): column for column in reversed(table.columns)}
        found: dict[str, str] = {}
        for name in FIELDS:
            if name in self.fields:
                if self.fields[name] not in table.columns:
                    columns = ", ".join(table.columns)
                    self.error(f"--field {name}={self.fields[name]}: no such column; the file has {columns}")
                else:
                    found[name] = self.fields[name]
                continue
            free = [lower[alias] for alias in NAMES[name] if alias in lower and lower[alias] not in found.values()]
            if free:
                found[name] = free[0]
        if table.rows and "question" not in found:
            self.error(
                f"no column of questions; the file has {', '.join(table.columns)}: give --field question=COLUMN, and "
                "the same for choices, answer, ... where they have names of their own"
            )
        return found

    def _kind(self, raw: "_Raw", folder: str) -> Kind:
        if self.kind:
            return self.kind
        if raw.kind:
            kind = KINDS.get(raw.kind.lower())
            # KDD Cup's files write the choices into the question: the answer is then a short text like any other.
            if kind:
                return "short" if kind == "choice" and raw.choices_raw is None and raw.choices is None else kind
            self.error(f"unknown type {raw.kind!r}; known: {', '.join(sorted(set(KINDS.values())))}", raw.row, "type")
        if raw.relevance is not None:
            return "ranking"
        if raw.choices is not None or not _is_blank(raw.choices_raw):
            return "choice"
        by_folder = KINDS.get(folder.lower())  # ShoppingMMLU keeps one folder for each type
        if by_folder and by_folder != "choice":
            return by_folder
        return _kind_of_answer(raw.answer)

    def _reading(self, asked: Sequence["_Raw"]) -> Reading:
        """Find the one way to read answers that fits every row."""
        rows = [raw for raw in asked if raw.choices and not _is_blank(raw.answer)]
        if self.answers:
            return self.answers
        if not rows:
            return "letter"
        fitting: dict[Reading, list[list[int] | None]] = {}
        readings: tuple[Reading, ...] = ("letter", "text", "index0", "index1")
        for reading in readings:
            fitting[reading] = [_right(raw.answer, raw.choices or [], reading) for raw in rows]
        best = max(readings, key=lambda reading: sum(right is not None for right in fitting[reading]))
        count = sum(right is not None for right in fitting[best])
        rivals = [
            reading
            for reading in readings
            if sum(right is not None for right in fitting[reading]) == count and fitting[reading] != fitting[best]
        ]
        if rivals and count:
            names = {
                "letter": "letters",
                "text": "the choices' texts",
                "index0": "numbers from 0",
                "index1": "numbers from 1",
            }
            ways = " or ".join(names[reading] for reading in (best, *rivals))
            self.error(f"answers can be read as {ways}, which disagree; say which with --answers", column="answer")
        return best

    def _question(self, raw: "_Raw", kind: Kind) -> Question | None:
        before = len(self.faults)
        if raw.question is None or not raw.question.strip():
            self.error("empty question" if raw.question_type in ("str", "NoneType") else
                       f"text is needed, got {raw.question_type}", raw.row, "question")  # fmt: skip
        question = Question(
            row=raw.row,
            kind=kind,
            id=raw.id or f"row{raw.row}",
            question=(raw.question or "").strip(),
            context=raw.context,
            subject=raw.subject,
            cluster=raw.cluster,
            language=raw.language,
        )
        self._fill_split(question, raw)
        self._fill_tolerance(question, raw)
        if _is_blank(raw.answer) and not (kind == "ranking" and raw.relevance is not None):
            self.error("no answer", raw.row, "answer")
        elif kind == "choice":
            self._fill_choices(question, raw)
        else:
            self._fill_answer(question, raw)
        if _looks_misread(question.question + " ".join(question.choices)):
            self.warn("odd characters, as if a text was read in the wrong encoding", raw.row)
        return question if len([f for f in self.faults[before:] if f.level == "error"]) == 0 else None

    def _fill_split(self, question: Question, raw: "_Raw") -> None:
        split = raw.split.lower()
        if split in DEV:
            question.split = "dev"
        elif split not in TEST:
            self.error(f"unknown split {raw.split!r}; test, or dev for few-shot examples", raw.row, "split")

    def _fill_tolerance(self, question: Question, raw: "_Raw") -> None:
        if _is_blank(raw.tolerance):
            return
        try:
            question.tolerance = float(raw.tolerance)
        except (TypeError, ValueError):
            self.error(f"a number is needed, got {raw.tolerance!r}", raw.row, "tolerance")

    def _fill_choices(self, question: Question, raw: "_Raw") -> None:
        """Check choices and key of a multiple-choice question."""
        if raw.choices is None:
            shown = "" if raw.choices_raw is None else f", got {str(raw.choices_raw)[:60]!r}"
            return self.error(f"a list of choices is needed{shown}", raw.row, "choices")
        choices = question.choices = raw.choices
        if not 2 <= len(choices) <= len(LETTERS):
            return self.error(f"{len(choices)} choices; 2 to {len(LETTERS)} are needed", raw.row, "choices")
        if empty := [LETTERS[index] for index, choice in enumerate(choices) if not choice.strip()]:
            self.error(f"choice {', '.join(empty)} is empty", raw.row, "choices")
        folded = [" ".join(choice.lower().split()) for choice in choices]
        for index, text in enumerate(folded):
            if text and (first := folded.index(text)) < index:
                self.error(f"choices {LETTERS[first]} and {LETTERS[index]} are the same", raw.row, "choices")
        right = _right(raw.answer, choices, self.reading or "letter")
        if right is None:
            self.error(f"{_show(raw.answer)} is none of the {len(choices)} choices", raw.row, "answer")
        elif len(right) == len(choices):
            self.error("every choice is right", raw.row, "answer")
        else:
            question.right = right
        return None

    def _fill_answer(self, question: Question, raw: "_Raw") -> None:
        """Check the answer of a question without a key: a ranking, ids, spans, or a text."""
        answer, row = _parsed(raw.answer), raw.row
        question.choices = raw.choices or []
        if question.kind == "ranking":
            values = _parsed(raw.relevance) if raw.relevance is not None else answer
            numbers = _numbers(values)
            if numbers is None or any(value < 0 for value in numbers) or not any(numbers):
                return self.error(f"a list of relevances from 0 up is needed, got {_show(values)}", row, "relevance")
            if question.choices and len(numbers) != len(question.choices):
                message = f"{len(numbers)} relevances for {len(question.choices)} candidates"
                return self.error(message, row, "relevance")
            question.relevance = numbers
        elif question.kind == "retrieval":
            numbers = _numbers(answer if isinstance(answer, list) else [answer])
            if not numbers or any(value < 1 or value != int(value) for value in numbers):
                return self.error(f"a list of ids from 1 up is needed, got {_show(answer)}", row, "answer")
            question.golds = [str(int(value)) for value in numbers]
        else:
            parts = answer if isinstance(answer, list) else [answer]
            question.golds = [str(part).strip() for part in parts]
            if not all(question.golds):
                return self.error("an empty answer in the list", row, "answer")
        return None

    def _check_counts(self, questions: Sequence[Question]) -> None:
        """Rows with another number of choices than most: seldom meant."""
        counts = [len(question.choices) for question in questions if question.kind == "choice"]
        if not counts:
            return
        usual = max(set(counts), key=counts.count)
        odd = [q for q in questions if q.kind == "choice" and len(q.choices) != usual]
        if len(odd) <= len(counts) / 10:
            for question in odd:
                self.warn(f"{len(question.choices)} choices where most rows have {usual}", question.row, "choices")


@dataclass(kw_only=True, slots=True)
class _Raw:
    """A row's fields before they are judged."""

    row: int
    id: str
    kind: str
    question: str | None
    question_type: str
    context: str
    choices_raw: Any
    choices: list[str] | None
    answer: Any
    relevance: Any
    tolerance: Any
    subject: str
    split: str
    cluster: str
    language: str

    @classmethod
    def of(cls, row: Mapping[str, Any], number: int, columns: Mapping[str, str], options: Sequence[str]) -> "_Raw":
        """Take a row apart."""

        def value(name: str) -> Any:
            return row.get(columns[name]) if name in columns else None

        question = value("question")
        raw = value("choices")
        choices = _choices(raw) if raw is not None else _option_cells(row, options)
        texts = {
            name: " ".join(str(value(name)).split()) if value(name) is not None else ""
            for name in ("id", "kind", "subject", "split", "cluster", "language")
        }
        return cls(
            row=number,
            question=question if isinstance(question, str) else None,
            question_type=type(question).__name__,
            context=str(value("context") or "").strip(),
            choices_raw=raw,
            choices=choices,
            answer=value("answer"),
            relevance=value("relevance"),
            tolerance=value("tolerance"),
            **texts,
        )


def _option_columns(columns: Sequence[str], *, taken: set[str]) -> list[str]:
    """Columns of one choice each, such as A B C D, option_a, opa, choice1 or ending0, in order."""
    groups: dict[str, dict[str, str]] = {}
    for column in columns:
        name = column.strip()
        if column not in taken and (match := OPTION.match(name)):
            groups.setdefault(name[: match.start(1)].lower(), {})[match[1].upper()] = column
    runs = [
        [group[label] for label in itertools.takewhile(group.__contains__, labels)]
        for group in groups.values()
        for labels in (LETTERS, [str(i) for i in range(27)], [str(i) for i in range(1, 27)])
    ]
    best = max(runs, key=len, default=[])
    return best if len(best) >= 2 else []


def _option_cells(row: Mapping[str, Any], options: Sequence[str]) -> list[str] | None:
    """Choices from columns of their own; empty cells at the end are choices that the row does not have."""
    cells = ["" if row.get(column) is None else str(row[column]).strip() for column in options]
    while cells and not cells[-1]:
        cells.pop()
    return cells or None


def _choices(value: Any) -> list[str] | None:
    """Choices from one cell: a list, its JSON or Python spelling, letters to texts, or texts between bars."""
    value = _parsed(value)
    if isinstance(value, dict):
        value = value["text"] if isinstance(value.get("text"), list) else [value[key] for key in sorted(value)]
    if isinstance(value, str) and "|" in value:
        value = value.split("|")
    if not isinstance(value, list | tuple) or any(isinstance(part, list | dict) or part is None for part in value):
        return None
    texts = [str(part).strip() for part in value]
    # AGIEval writes the letters into the choices: "(A)text".
    if texts and all(re.match(rf"\(?{LETTERS[i % 26]}[).:]\s*\S", text) for i, text in enumerate(texts)):
        texts = [re.sub(r"^\(?[A-Z][).:]\s*", "", text) for text in texts]
    return texts


def _parsed(value: Any) -> Any:
    """Read a cell that spells a list, in JSON or as a Python literal; anything else is itself. Never runs code."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _right(answer: Any, choices: Sequence[str], reading: Reading) -> list[int] | None:
    """Indices of the right choices in one reading, or None where it does not fit."""
    answer = _parsed(answer)
    parts = list(answer) if isinstance(answer, list | tuple) else [answer]
    if reading == "text":
        folded = [" ".join(choice.lower().split()) for choice in choices]
        found = [
            folded.index(text) if (text := " ".join(str(part).lower().split())) in folded else None for part in parts
        ]
    elif reading == "letter":
        letters = [letter for part in parts for letter in _letters(part)]
        found = [LETTERS.index(letter) if letter else None for letter in letters]
    else:
        if len(parts) == 1 and isinstance(parts[0], str):
            parts = re.split(r"[,;/\s]+", parts[0].strip())
        found = [_whole(part) for part in parts]
        found = [index if index is None or reading == "index0" else index - 1 for index in found]
    indices = [index for index in found if index is not None and 0 <= index < len(choices)]
    return sorted(set(indices)) if indices and len(indices) == len(found) else None


def _letters(part: Any) -> list[str]:
    """Letters of an answer: `B`, `(b)`, `A, C`, `AC`; [""] where it is something else."""
    text = str(part).strip().strip("().").strip()
    if re.fullmatch(r"[A-Za-z]", text):
        return [text.upper()]
    if re.fullmatch(r"[A-Z](?:\s*[,;/&]\s*[A-Z]|\s+(?:and\s+)?[A-Z])+", text):
        return re.findall(r"\b[A-Z]\b", text)
    if re.fullmatch(r"[A-Z]{2,8}", text) and list(text) == sorted(set(text)):
        return list(text)
    return [""]


def _whole(part: Any) -> int | None:
    if isinstance(part, bool):
        return None
    try:
        number = float(part)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None  # neither NaN nor infinity is one


def _numbers(values: Any) -> list[float] | None:
    if not isinstance(values, list | tuple) or not values:
        return None
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return None


def _kind_of_answer(answer: Any) -> Kind:
    """Tell the kind of a question without choices by its answer."""
    answer = _parsed(answer)
    if isinstance(answer, list):
        numbers = [part for part in answer if isinstance(part, int | float) and not isinstance(part, bool)]
        if answer and len(numbers) == len(answer):
            whole = all(float(part).is_integer() and part >= 1 for part in numbers) and len(set(numbers)) == len(
                numbers
            )
            return "retrieval" if whole else "ranking"
        return "extraction"
    return "short" if len(str(answer).split()) <= 5 else "text"


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str | list) and not (value.strip() if isinstance(value, str) else value))


def _show(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _looks_misread(text: str) -> bool:
    """Replacement characters, or UTF-8 that was read as Latin-1 and saved again."""
    return "\ufffd" in text or re.search(r"Ã[\x80-\xbf©¨¼¶¤]|â€[™œ\x9d“”]|Â[\xa0°±]", text) is not None
