"""Mix sources exactly in tokens: packed rows from documents, each row from the source that lacks most. Knows no model.

Sources are mixed by loss-bearing tokens, not by rows: asked for 75/25, a mix by rows gives a long-rowed source nearly
all tokens. For each row the source with the largest deficit (its share of all tokens so far, less what it was given)
is taken, so the error stays below one row at every step of a phase. Order within a source is kept. All state is a few
integers per source, so a run that was killed goes on with the same rows, and each row says which documents it holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError

IGNORED = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a source, tokenised."""

    tokens: npt.NDArray[np.int64]
    loss: npt.NDArray[np.bool_]
    """Which tokens carry loss."""
    second: int | None = None
    """Of a preference: the token that the rejected answer's text begins with; the chosen one's stands before it."""
    weight: float = 1.0
    """How much its loss counts beside that of others."""


class Documents(Protocol):
    """A source that can be read at any place."""

    @property
    def splits(self) -> bool:
        """Whether a document may go on in the next row (plain text) or must fit (conversations)."""
        ...

    def __len__(self) -> int:
        """Rows of one pass."""
        ...

    def document(self, row: int) -> Document:
        """The row's tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a document in a packed row."""

    source: str
    row: int
    epoch: int
    start: int
    """First token of the document."""
    end: int


@dataclass(frozen=True, slots=True)
class PackedPair:
    """Where a preference lies in a packed row: chosen from `start`, rejected from `middle` to `end`."""

    start: int
    middle: int
    end: int
    source: str
    row: int


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row of training: documents side by side that cannot see each other."""

    tokens: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    """As the tokens, or IGNORED; not shifted."""
    positions: npt.NDArray[np.int64]
    """From 0 in each document: a model sees a new document there."""
    spans: tuple[Span, ...]
    loss_tokens: int
    pairs: tuple[PackedPair, ...] = ()
    weights: npt.NDArray[np.float32] | None = None
    """How much each position's loss counts; None: all the same."""


@dataclass(slots=True)
class Cursor:
    """Where a source is: all that has to be kept of it."""

    epoch: int = 0
    place: int = 0
    """Documents of this pass that are used up."""
    offset: int = 0
    """Tokens of the current one that are used up."""
    given: int = 0
    """Loss-bearing tokens given so far."""


@dataclass(kw_only=True)
class Mixer:
    """An endless stream of packed rows."""

    sources: Mapping[str, Documents]
    length: int
    """Tokens of a row."""
    seed: int
    orders: Mapping[str, Literal["shuffled", "given"]] = field(default_factory=dict)
    pad: int = 0
    packs: bool = True
    """Several documents side by side in a row; else each has a row of its own."""
    cursors: dict[str, Cursor] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """Documents that do not fit into a row and may not be split, and ones that hold no loss, per source."""

    phase: dict[str, float] = field(default_factory=dict)
    """Shares of the phase that is on."""
    before: dict[str, int] = field(default_factory=dict)
    """Loss-bearing tokens that each source had been given when it began."""

    def __post_init__(self) -> None:
        self._order: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}
        for name, documents in self.sources.items():
            if not len(documents):
                raise ConfigError(f"mix: source {name!r} holds no rows")
            self.cursors.setdefault(name, Cursor())

    def next_row(self, shares: Mapping[str, float]) -> PackedRow:
        """The next row, from the source that lacks most of its share; other shares than last time begin a phase."""
        wanted = {name: share for name, share in shares.items() if share > 0}
        if wanted != self.phase:  # a new phase owes nothing to the last one
            self.phase = wanted
            self.before = {name: cursor.given for name, cursor in self.cursors.items()}
        given = {name: cursor.given - self.before[name] for name, cursor in self.cursors.items()}
        total = sum(given.values()) + self.length  # a row ahead: what the next one will make of it
        # ties by the order of the sources
        name = max((n for n in self.sources if n in wanted), key=lambda n: wanted[n] * total - given[n])
        return self._pack(name)

    def state(self) -> dict[str, Any]:
        """Plain values; see `restore`."""
        fields = ("epoch", "place", "offset", "given")
        cursors = {name: {f: getattr(cursor, f) for f in fields} for name, cursor in self.cursors.items()}
        return {
            "cursors": cursors,
            "skipped": dict(self.skipped),
            "phase": dict(self.phase),
            "before": dict(self.before),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a mixer of the same sources was. Raises ConfigError: other sources."""
        if set(state["cursors"]) != set(self.sources):
            raise ConfigError(
                f"mix: the run was begun with {', '.join(sorted(state['cursors']))}, the recipe now has "
                f"{', '.join(sorted(self.sources))}; start a new run, or restore the recipe"
            )
        self.cursors = {name: Cursor(**cursor) for name, cursor in state["cursors"].items()}
        self.skipped, self.phase, self.before = (dict(state[name]) for name in ("skipped", "phase", "before"))

    def _pack(self, name: str) -> PackedRow:
        parts: list[tuple[Document, Span]] = []
        room, cursor, splits = self.length, self.cursors[name], self.sources[name].splits
        fruitless = 0
        while room > 0 and (self.packs or not parts):
            row = self._row_at(name)
            document = self.sources[name].document(row)
            left = len(document.tokens) - cursor.offset
            if left <= 0 or not document.loss.any() or (not splits and len(document.tokens) > self.length):
                self.skipped[name] = self.skipped.get(name, 0) + 1
                self._advance(name)
                fruitless += 1
                if fruitless > len(self.sources[name]):
                    raise ConfigError(
                        f"mix: source {name!r}: none of its rows fits into {self.length} tokens with a part that "
                        "carries loss; raise sequence_length, or look at its rows"
                    )
                continue
            if left > room and not splits:
                break
            take = min(left, room)
            here = slice(cursor.offset, cursor.offset + take)
            span = Span(name, row, cursor.epoch, here.start, here.stop)
            parts.append((Document(document.tokens[here], document.loss[here], document.second, document.weight), span))
            room -= take
            if take == left:
                self._advance(name)
            else:
                cursor.offset += take
        return self._build(name, parts)

    def _build(self, name: str, parts: Sequence[tuple[Document, Span]]) -> PackedRow:
        tokens = np.full(self.length, self.pad, np.int64)
        labels = np.full(self.length, IGNORED, np.int64)
        positions = np.zeros(self.length, np.int64)
        at, pairs = 0, []
        weights = np.ones(self.length, np.float32) if any(part.weight != 1 for part, _ in parts) else None
        for part, span in parts:
            end = at + len(part.tokens)
            tokens[at:end] = part.tokens
            labels[at:end] = np.where(part.loss, part.tokens, IGNORED)
            if weights is not None:
                weights[at:end] = part.weight
            for begin, stop in _texts(at, end, part.second):
                positions[begin:stop] = np.arange(stop - begin)
                labels[begin] = IGNORED  # nothing before it in this row predicts it
            if part.second is not None:
                pairs.append(PackedPair(at, at + part.second, end, span.source, span.row))
            at = end
        positions[at:] = np.arange(self.length - at)  # what pads is a document of its own, without loss
        count = int((labels != IGNORED).sum())
        self.cursors[name].given += count
        return PackedRow(tokens, labels, positions, tuple(span for _, span in parts), count, tuple(pairs), weights)

    def _row_at(self, name: str) -> int:
        cursor, size = self.cursors[name], len(self.sources[name])
        if self.orders.get(name, "shuffled") == "given":
            return cursor.place
        kept = self._order.get(name)
        if kept is None or kept[0] != cursor.epoch:
            # a generator of its own for each source and pass: no order depends on the other sources
            rng = np.random.default_rng([self.seed, cursor.epoch, *name.encode()])
            kept = self._order[name] = (cursor.epoch, rng.permutation(size))
        return int(kept[1][cursor.place])

    def _advance(self, name: str) -> None:
        cursor = self.cursors[name]
        cursor.place, cursor.offset = cursor.place + 1, 0
        if cursor.place == len(self.sources[name]):
            cursor.place, cursor.epoch = 0, cursor.epoch + 1


def _texts(start: int, end: int, second: int | None) -> list[tuple[int, int]]:
    """Stretches of a row that cannot see each other."""
    return [(start, end)] if second is None else [(start, start + second), (start + second, end)]
