"""A mix to look at: samples of each source, a packed row with its loss mask, shares by phase. Knows no model."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.mixing import IGNORED, PackedRow
from training.plan import build_mixer, rows_of
from training.preflight import texts_of_row, tokens_per_character
from training.recipe import Recipe
from training.sources import RowDocuments


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Neighbouring tokens of a packed row that all carry loss, or all do not."""

    text: str
    carries_loss: bool
    begins: bool
    """A document that cannot see what stands before it begins here."""
    source: str
    row: int
    """Of the source's file, from 1; 0: padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A row of a source as it is read, and what it comes to."""

    row: int
    tokens: int
    loss_tokens: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLook:
    """What a source looks like."""

    name: str
    role: str
    category: str
    kind: str
    """`text`, `pairs`, `conversations` or `preferences`."""
    rows: int
    left_out: Mapping[str, int]
    tokens_per_character: float
    asked: float
    """Share in the stable phase."""
    asked_annealing: float
    samples: tuple[Sample, ...]


def look_at(recipe: Recipe, sources: Mapping[str, RowDocuments], *, samples: int, seed: int = 0) -> list[SourceLook]:
    """Each source with some rows, drawn by the seed."""
    stable, annealing = recipe.shares(annealing=False), recipe.shares(annealing=True)
    found: list[SourceLook] = []
    for source in recipe.mix:
        documents = sources[source.name]
        count = min(samples, len(documents))
        rows = np.random.default_rng([seed, *source.name.encode()]).choice(len(documents), count, replace=False)
        found.append(
            SourceLook(
                name=source.name,
                role=source.role,
                category=source.category,
                kind=kind_of(documents),
                rows=len(documents),
                left_out=dict(documents.left_out),
                tokens_per_character=tokens_per_character(documents),
                asked=stable[source.name],
                asked_annealing=annealing[source.name],
                samples=tuple(_sample(documents, int(row)) for row in sorted(rows)),
            )
        )
    return found


def kind_of(documents: RowDocuments) -> str:
    """What its rows are."""
    if documents.is_preference:
        return "preferences"
    if not documents.is_conversation:
        return "text"
    return "conversations" if documents.shape == ("messages",) else "pairs"


def packed_rows(recipe: Recipe, sources: Mapping[str, RowDocuments], *, first: int, count: int) -> list[list[Piece]]:
    """Packed rows of the run, decoded; `first` counts from 0."""
    tokenizer = next(iter(sources.values())).tokenizer
    stream = rows_of(recipe, build_mixer(recipe, sources, pad=tokenizer.eos_token_id))
    for _ in range(first):
        next(stream)
    return [_pieces(next(stream), sources) for _ in range(count)]


def _sample(documents: RowDocuments, row: int) -> Sample:
    document = documents.document(row)
    text = documents.tokenizer.decode(document.tokens)
    return Sample(
        row=documents.number(row), tokens=len(document.tokens), loss_tokens=int(document.loss.sum()), text=text
    )


def _pieces(row: PackedRow, sources: Mapping[str, RowDocuments]) -> list[Piece]:
    tokenizer = next(iter(sources.values())).tokenizer
    carries = row.labels != IGNORED
    ends = np.cumsum([span.end - span.start for span in row.spans])
    found: list[Piece] = []
    for text in texts_of_row(row):
        place = int(np.searchsorted(ends, text.start, side="right"))
        span = row.spans[place] if place < len(row.spans) else None
        cuts = [text.start, *(np.flatnonzero(np.diff(carries[text])) + text.start + 1).tolist(), text.stop]
        for begin, end in itertools.pairwise(cuts):
            if end > begin:
                found.append(
                    Piece(
                        text=tokenizer.decode(row.tokens[begin:end]) if span else "",
                        carries_loss=bool(carries[begin]),
                        begins=begin == text.start,
                        source=span.source if span else "padding",
                        row=sources[span.source].number(span.row) if span else 0,
                    )
                )
    return found
