"""Does training text hold the test's questions? Exact and n-gram overlap, item by item.

Text is compared as words: lower case, no punctuation, width unified, a Chinese or Japanese character its own word.
A question is *found* if any run of `n` words (13 unless told, as GPT-3 and The Pile took it) stands in the training
text; *whole* if all of it does. It is found *with its answer* if the right answer follows within 60 words. A question
of fewer than `n` words must stand there whole; one of fewer than 6 could stand anywhere by chance and counts only with
its answer right behind it; what is still shorter than 6 words then can't be checked, and is said.

The index is of the test, not of the training text, which is read once, row by row: memory does not grow with it.
"""

import gzip
import itertools
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.metrics import words
from workbench.errors import TaskError

SHORTEST = 6
"""Words that a text needs to be told from chance."""
WINDOW = 60
"""Words behind a question within which its answer counts as given."""
HALF = 0.5
"""Share of a question's words that must stand in a row for the row to hold it."""
LINES = 200
"""Lines of plain text that are read at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestItem:
    """A question of a test, as text. `answer` is the right answer's text; empty where there is none."""

    __test__ = False  # pytest takes names with Test for tests

    id: str
    question: str
    answer: str = ""
    subject: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """Where an item was found first, and how much of it."""

    item: str
    file: str
    row: int
    """Row of the training file, from 1; line of a plain text file."""
    whole: bool
    """The whole question, not only a run of it."""
    coverage: float
    """Share of the question's words that stand in runs found in this row."""
    with_answer: bool
    excerpt: str
    """The run of words that was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """What was found of a test in training text."""

    items: int
    unchecked: tuple[str, ...]
    """Items too short to be told from chance."""
    hits: tuple[Hit, ...]
    """One for each found item: the worst row, then the first."""
    rows: int
    """Training rows read."""
    words: int
    n: int

    @property
    def checked(self) -> int:
        """Items that could be looked for."""
        return self.items - len(self.unchecked)

    def share(self, kind: str = "found") -> float | None:
        """Share of checked items: `found`, `whole` or `with_answer`. None if nothing could be checked."""
        count = len(self.hits) if kind == "found" else sum(getattr(hit, kind) for hit in self.hits)
        return count / self.checked if self.checked else None


@dataclass(slots=True)
class _Probe:
    """What is looked for of one item: its words, cut into runs of `size`."""

    item: TestItem
    words: list[str]
    answer: list[str]
    size: int
    joined: bool
    """Too short alone: the words are question and answer together."""


@dataclass(slots=True)
class _Found:
    """Places of an item's words that were found in one row."""

    places: set[int] = field(default_factory=set)
    end: int = 0
    first: int = 0


def find_contamination(items: Sequence[TestItem], training: Iterable[Path], *, n: int = 13) -> Contamination:
    """Look for every item in training files (.jsonl .json .csv .tsv .parquet .txt .md, also .gz).

    Raises TaskError: n below 6, a file that cannot be read, or of a kind that is not known.
    """
    rows = ((str(path), row, text) for path in training for row, text in read_training(path))
    return find_in_rows(items, rows, n=n)


def find_in_rows(items: Sequence[TestItem], training: Iterable[tuple[str, int, str]], *, n: int = 13) -> Contamination:
    """The same in rows that were read already: (file or source, row from 1, text). Raises TaskError: n below 6."""
    if n < SHORTEST:
        raise TaskError(f"n-grams of {n} words stand anywhere by chance; at least {SHORTEST} are needed")
    probes = [_probe(item, n) for item in items]
    checked = [probe for probe in probes if probe is not None]
    index = _index(checked)
    best: dict[int, Hit] = {}
    rows = count = 0
    for file, row, text in training:
        rows += 1
        said = _words(text)
        count += len(said)
        for number, found in _search(said, index, checked).items():
            hit = _hit(checked[number], found, said, file, row)
            if number not in best or _weight(hit) > _weight(best[number]):
                best[number] = hit
    return Contamination(
        items=len(items),
        unchecked=tuple(item.id for item, probe in zip(items, probes, strict=True) if probe is None),
        hits=tuple(best[number] for number in sorted(best)),
        rows=rows,
        words=count,
        n=n,
    )


def overlapping_rows(items: Sequence[TestItem], rows: Iterable[tuple[str, int, str]], *, n: int = 13) -> Iterator[Hit]:
    """Hits of rows that hold a question whole, half of it, or some of it with its answer: one for each row and item.

    `rows` are (source, number, text). A run of `n` words of a long passage alone may be a quotation, and is no hit.
    """
    checked = [probe for probe in (_probe(item, n) for item in items) if probe is not None]
    index = _index(checked)
    for source, number, text in rows:
        said = _words(text)
        hits = [
            _hit(checked[probe], found, said, source, number) for probe, found in _search(said, index, checked).items()
        ]
        yield from (hit for hit in hits if hit.with_answer or hit.coverage >= HALF)


def _weight(hit: Hit) -> tuple[bool, bool, float]:
    return hit.with_answer, hit.whole, hit.coverage


def _probe(item: TestItem, n: int) -> _Probe | None:
    question, answer = _words(item.question), _words(item.answer)
    if len(question) >= SHORTEST:
        return _Probe(item, question, answer, min(n, len(question)), joined=False)
    if answer and len(question) + len(answer) >= SHORTEST:
        return _Probe(item, question + answer, [], len(question) + len(answer), joined=True)
    return None


@dataclass(slots=True)
class _Runs:
    """All runs of one length."""

    firsts: set[str] = field(default_factory=set)
    lasts: set[str] = field(default_factory=set)
    places: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Hash of a run -> (probe, place of the run's first word)."""


def _words(text: str) -> list[str]:
    return words(unicodedata.normalize("NFKC", text).lower())


def _index(probes: Sequence[_Probe]) -> dict[int, _Runs]:
    index: dict[int, _Runs] = defaultdict(_Runs)
    for number, probe in enumerate(probes):
        runs = index[probe.size]
        for place in range(len(probe.words) - probe.size + 1):
            run = tuple(probe.words[place : place + probe.size])
            runs.firsts.add(run[0])
            runs.lasts.add(run[-1])
            runs.places[hash(run)].append((number, place))
    return dict(index)


def _search(said: Sequence[str], index: Mapping[int, _Runs], probes: Sequence[_Probe]) -> dict[int, _Found]:
    """Find runs of the probes in a row's words."""
    found: dict[int, _Found] = defaultdict(_Found)
    for size, runs in index.items():
        firsts, lasts, places = runs.firsts, runs.lasts, runs.places
        for start in range(len(said) - size + 1):
            # Most windows fall to these two look-ups, before anything is hashed.
            if said[start] not in firsts or said[start + size - 1] not in lasts:
                continue
            window = said[start : start + size]
            for number, place in places.get(hash(tuple(window)), ()):
                probe = probes[number]
                # Hashes can collide, and a wrong accusation costs trust.
                if window == probe.words[place : place + size]:
                    match = found[number]
                    if not match.places:
                        match.first = start
                    match.places.update(range(place, place + size))
                    match.end = max(match.end, start + size)
    return dict(found)


def _hit(probe: _Probe, found: _Found, said: Sequence[str], file: str, row: int) -> Hit:
    behind = said[found.end : found.end + WINDOW]
    answer = probe.answer
    follows = (behind[start : start + len(answer)] == answer for start in range(len(behind) - len(answer) + 1))
    answered = probe.joined or (bool(answer) and any(follows))
    coverage = len(found.places) / len(probe.words)
    return Hit(
        item=probe.item.id,
        file=file,
        row=row,
        whole=coverage == 1.0,
        coverage=coverage,
        with_answer=answered,
        excerpt=" ".join(said[found.first : found.first + probe.size]),
    )


def read_training(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (row number, text) of a training file, one row at a time; all texts of a row are joined in order."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    suffix = (suffixes[:-1] if zipped else suffixes)[-1:] or [""]
    try:
        if suffix[0] in (".parquet", ".pq"):
            yield from _parquet_rows(path)
        elif suffix[0] in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".text"):
            with gzip.open(path, "rt", encoding="utf-8-sig") if zipped else path.open(encoding="utf-8-sig") as lines:
                yield from _text_rows(path, suffix[0], lines)
        else:
            raise TaskError(f"{path}: unknown ending; known: .jsonl .json .csv .tsv .parquet .txt .md, also .gz")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error


def _text_rows(path: Path, suffix: str, lines: Any) -> Iterator[tuple[int, str]]:
    if suffix in (".txt", ".md", ".text"):
        yield from _plain_rows(lines)
    elif suffix in (".csv", ".tsv"):
        import csv

        for row, cells in enumerate(csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","), 1):
            yield row, "\n".join(cells)
    elif suffix == ".json":
        data = json.load(lines)
        for row, value in enumerate(data if isinstance(data, list) else [data], 1):
            yield row, "\n".join(_texts(value))
    else:
        for row, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield row, "\n".join(_texts(json.loads(line)))
                except json.JSONDecodeError as error:
                    raise TaskError(f"{path}: row {row}: not JSON ({error.msg})") from None


def _plain_rows(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Blocks of lines that overlap by a tenth, so that a question across a block's end is still found."""
    numbered = enumerate(lines, 1)
    block = list(itertools.islice(numbered, LINES))
    while block:
        yield block[0][0], "".join(line for _, line in block)
        more = list(itertools.islice(numbered, LINES))
        block = block[-LINES // 10 :] + more if more else []


def _parquet_rows(path: Path) -> Iterator[tuple[int, str]]:
    import pyarrow.parquet as pq

    row = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
        for value in batch.to_pylist():
            row += 1
            yield row, "\n".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    """All strings of a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
