"""A source from easy to hard: rows in grades, one grade after the other, the next when this one is learned.

The graded source becomes a source for each grade (`domain/1`, `domain/2`, ...), so that mixing, passes and the record
of rows are those of any source. Some rows of each grade are held out; their loss says whether a grade is learned, and
for each phase what it did to all grades. Knows documents and a model's loss on them; knows no files but its own cache.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.checkpoints import write_whole
from training.hooks import Hook, Running
from training.mixing import IGNORED, Document
from training.options import Curriculum
from training.recipe import Recipe
from training.sources import RowDocuments
from workbench.errors import ConfigError

CACHE = "difficulty.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """A recipe whose source was put into grades."""

    recipe: Recipe
    """With a source for each grade; its shares are those of the first phase."""
    sources: Mapping[str, RowDocuments]
    hook: "Promotion"


def grade(
    recipe: Recipe, sources: Mapping[str, RowDocuments], *, folder: Path, load_start: Callable[[], Any]
) -> Graded:
    """Put the recipe's graded source into grades.

    `load_start` loads the model that the run starts from, if its loss is what says how hard a row is; what it said is
    kept in `folder`. Raises ConfigError: rows without the column, or too few for so many grades.
    """
    options = recipe.curriculum
    assert options is not None
    documents = sources[options.source]
    grades = _grades(documents, options, folder, load_start)
    held: dict[str, list[Document]] = {}
    parts: dict[str, RowDocuments] = {}
    for number, rows in enumerate(grades, start=1):
        name = f"{options.source}/{number}"
        asked = _spread(rows, min(options.held_out, len(rows) // 5))
        if not len(asked):
            raise ConfigError(
                f"curriculum: grade {number} of {options.source!r} has {len(rows)} rows, too few to hold some out; "
                "give more rows, or fewer grades"
            )
        held[name] = [documents.document(int(row)) for row in asked]
        parts[name] = _part(documents, name, np.setdiff1d(rows, asked))
    phases = [_shares(recipe, options, list(parts), phase) for phase in range(len(parts))]
    return Graded(
        recipe=_expanded(recipe, phases[0]),
        sources={name: part for old in sources for name, part in _replaced(old, options, sources, parts).items()},
        hook=Promotion(options=options, phases=phases, held_out=held),
    )


class Promotion(Hook):
    """Asks the held-out rows of the grade that is on; the next comes when it is learned or its time is over."""

    name = "curriculum"

    def __init__(
        self, *, options: Curriculum, phases: Sequence[Mapping[str, float]], held_out: Mapping[str, Sequence[Document]]
    ) -> None:
        self.options, self.phases, self.held_out = options, phases, held_out
        self.phase, self.began, self.last = 0, 0, None

    def on_begin(self, run: Running) -> None:
        """What the start knows of every grade."""
        if run.step == 0:
            run.note({"event": "grades", "losses": self._losses(run)})

    def on_step(self, run: Running) -> None:
        """Look every few steps."""
        if run.step == run.plan.steps:
            run.note({"event": "phase-end", "grade": self.phase + 1, "losses": self._losses(run)})
            return
        is_over = run.step - self.began >= run.plan.steps // len(self.phases)
        is_last = self.phase + 1 == len(self.phases)
        if is_last or not (is_over or (run.step - self.began) % self.options.every == 0):
            return
        loss = self._loss(run, list(self.held_out)[self.phase])
        if why := self._learned(loss):
            self._promote(run, why)
        elif is_over and self.options.otherwise == "stop":
            run.stop(
                f"curriculum: grade {self.phase + 1} used its part of the run and was not learned (loss {loss:.3f})"
            )
        elif is_over:
            self._promote(run, "its part of the run is over")
        else:
            self.last = loss
            run.note({"event": "look", "grade": self.phase + 1, "loss": loss})

    def state(self) -> dict[str, Any]:
        """Where the curriculum is."""
        return {"phase": self.phase, "began": self.began, "last": self.last}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on there."""
        self.phase, self.began, self.last = state["phase"], state["began"], state["last"]

    def planned(self, given: int, tokens: int) -> Mapping[str, float]:
        """Shares after `given` of `tokens`, if every grade takes all of its time."""
        return self.phases[min(len(self.phases) - 1, given * len(self.phases) // tokens)]

    def _learned(self, loss: float) -> str:
        if self.options.promote_below is not None:
            limit = self.options.promote_below
            return f"held-out loss {loss:.3f} is at most {limit:g}" if loss <= limit else ""
        if self.last is None:
            return ""
        gain = (self.last - loss) / self.last
        return f"held-out loss fell by {gain:.1%} since the last look" if gain < self.options.promote_gain else ""

    def _promote(self, run: Running, why: str) -> None:
        ended = self.phase + 1
        self.phase, self.began, self.last = ended, run.step, None
        first = run.set_shares(self.phases[self.phase])
        run.save(keep=True)
        losses = self._losses(run)
        run.note({"event": "promoted", "grade": ended + 1, "from": first, "because": why, "losses": losses})

    def _losses(self, run: Running) -> dict[str, float]:
        return {name: self._loss(run, name) for name in self.held_out}

    def _loss(self, run: Running, name: str) -> float:
        return float(np.average(*_weighted(document_losses(run.model, self.held_out[name]))))


def document_losses(model: Any, documents: Sequence[Document]) -> list[tuple[float, int]]:
    """(mean −log p in nats, tokens that carry loss) of each document by itself."""
    import torch

    from training.objective import NextToken, targets_of

    training, device = model.training, next(model.parameters()).device
    objective, head, found = NextToken(), model.get_output_embeddings(), []
    model.eval()
    with torch.no_grad():
        for document in documents:
            ids = torch.from_numpy(document.tokens)[None].to(device)
            loss = torch.from_numpy(document.loss)[None].to(device)
            positions = torch.arange(ids.shape[1], device=device)[None]
            batch = {"input_ids": ids, "labels": ids.masked_fill(~loss, IGNORED), "position_ids": positions}
            tokens = int((targets_of(batch) != IGNORED).sum())
            mean = float(objective.loss(model, head, batch, objective.counts([batch]))) if tokens else 0.0
            found.append((mean, tokens))
    model.train(training)
    return found


def _grades(
    documents: RowDocuments, options: Curriculum, folder: Path, load_start: Callable[[], Any]
) -> list[npt.NDArray[np.int64]]:
    """Rows of each grade, easiest first."""
    if options.by == "field":
        values = [documents.record(row).get(options.field) for row in range(len(documents))]
        if any(value is None for value in values):
            row = documents.number(values.index(None))
            raise ConfigError(f"curriculum.field: row {row} of {options.source!r} has no {options.field!r}; mend it")
        if any(isinstance(value, str) for value in values):
            names = np.array([str(value) for value in values])
            return [np.flatnonzero(names == name) for name in sorted(set(names.tolist()))]
        hard = np.array(values, float)
    elif options.by == "length":
        hard = np.array([len(documents.document(row).tokens) for row in range(len(documents))], float)
    else:
        hard = _start_losses(documents, folder, load_start)
    return [np.sort(part) for part in np.array_split(np.argsort(hard, kind="stable"), options.grades)]


def _start_losses(documents: RowDocuments, folder: Path, load_start: Callable[[], Any]) -> npt.NDArray[np.float64]:
    path = folder / CACHE
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["data"] == documents.digest:
            return np.array(kept["losses"])
    losses = document_losses(load_start(), [documents.document(row) for row in range(len(documents))])
    found = [loss for loss, _ in losses]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"data": documents.digest, "losses": found}))
    return np.array(found)


def _shares(recipe: Recipe, options: Curriculum, names: Sequence[str], phase: int) -> dict[str, float]:
    """Shares of all sources in a phase: the grade that is on, and a part for those that went before."""
    shares = recipe.shares(annealing=False)
    whole = shares.pop(options.source)
    review = options.review if phase else 0.0
    graded = {name: 0.0 for name in names} | {names[phase]: whole * (1 - review)}
    graded |= {name: whole * review / phase for name in names[:phase]}
    return graded | shares


def _expanded(recipe: Recipe, shares: Mapping[str, float]) -> Recipe:
    options = recipe.curriculum
    assert options is not None
    mix = []
    for source in recipe.mix:
        names = [name for name in shares if name.startswith(f"{options.source}/")]
        own = names if source.name == options.source else [source.name]
        mix += [source.model_copy(update={"name": name, "share": shares[name]}) for name in own]
    return recipe.model_copy(update={"mix": tuple(mix)})


def _replaced(
    old: str, options: Curriculum, sources: Mapping[str, RowDocuments], parts: Mapping[str, RowDocuments]
) -> Mapping[str, RowDocuments]:
    return parts if old == options.source else {old: sources[old]}


def _part(documents: RowDocuments, name: str, rows: npt.NDArray[np.int64]) -> RowDocuments:
    places = rows if documents.kept is None else documents.kept[rows]
    is_first = name.endswith("/1")  # what was left out of the whole is told once
    left_out = documents.left_out if is_first else Counter()
    return replace(documents, name=name, kept=places, left_out=left_out, faults=[], _last={})


def _spread(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """`count` rows, evenly over all."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)] if count else rows[:0]


def _weighted(losses: Sequence[tuple[float, int]]) -> tuple[list[float], None, list[int]]:
    return [loss for loss, _ in losses], None, [tokens for _, tokens in losses]
