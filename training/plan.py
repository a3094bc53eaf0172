"""What a recipe comes to with its data: rows, steps, tokens of each source, passes. Knows recipes and mixers; no model.

The rows of a run follow from recipe and data alone, so the plan walks them all once, before training: what it says of
tokens and steps is exact. It is also where a recipe is refused that the data cannot bear.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.mixing import Mixer, PackedRow
from training.recipe import Recipe
from training.rl.options import PROMPTS
from training.sources import RowDocuments
from workbench.errors import ConfigError

LOOKED_AT = 16
"""Documents of each conversation source that are looked at for the token that ends an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePlan:
    """One source in a run."""

    name: str
    rows: int
    tokens: int
    """Loss-bearing tokens given."""
    share: float
    asked: float
    """Share that the recipe asks for, over both phases."""
    epochs: float
    """Passes over the source."""
    skipped: int
    """Documents that did not fit into a row of the run, or held no loss."""
    left_out: Mapping[str, int]
    """Rows that were not used at all, by reason: malformed, empty, repeated, nearly repeated, evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """A run before it begins."""

    steps: int
    anneal_step: int
    """Steps before annealing; the stage-entry checkpoint is taken after them. `steps` where nothing anneals."""
    rows_per_step: int
    tokens: int
    """Loss-bearing tokens."""
    packed_tokens: int
    """Tokens of all rows, with context and padding."""
    sources: tuple[SourcePlan, ...]


def build_mixer(recipe: Recipe, sources: Mapping[str, RowDocuments], *, pad: int) -> Mixer:
    """The recipe's stream of rows, at its beginning."""
    return Mixer(
        sources={name: documents for name, documents in sources.items() if recipe.rl is None or name != PROMPTS},
        length=recipe.sequence_length,
        seed=recipe.seed,
        orders={source.name: source.order for source in recipe.mix},
        pad=pad,
        packs=recipe.packing,
    )


def rows_of(
    recipe: Recipe, mixer: Mixer, *, steered: Callable[[], Mapping[str, float] | None] = lambda: None
) -> Iterator[PackedRow]:
    """Rows without end from where the mixer is; the mix changes where the tokens left are those of annealing.

    `steered` is asked before each row: other shares, or None for the recipe's.
    """
    stable, annealing = recipe.shares(annealing=False), recipe.shares(annealing=True)
    while True:
        given = sum(cursor.given for cursor in mixer.cursors.values())
        yield mixer.next_row(steered() or (annealing if given >= _anneal_from(recipe) else stable))


def plan_run(
    recipe: Recipe,
    sources: Mapping[str, RowDocuments],
    *,
    pad: int = 0,
    planned: Callable[[int, int], Mapping[str, float] | None] = lambda given, tokens: None,
) -> TrainingPlan:
    """Walk all rows of the run; `planned` says other shares than the recipe's after so many of its tokens.

    Raises:
        ConfigError: a source is too small for its share, an answer's end carries no loss, or no row can be packed.
    """
    if recipe.rl is not None:
        return _plan_episodes(recipe, sources, pad=pad)
    _check_ends(sources)
    mixer = build_mixer(recipe, sources, pad=pad)
    asked = dict.fromkeys(sources, 0.0)
    rows, anneal_row, given = 0, None, 0
    stream = rows_of(recipe, mixer, steered=lambda: planned(given, recipe.tokens))
    while given < recipe.tokens or rows % recipe.rows_per_step:
        annealing = given >= _anneal_from(recipe)
        if annealing and anneal_row is None:
            anneal_row = rows
        shares = planned(given, recipe.tokens) or recipe.shares(annealing=annealing)
        row = next(stream)
        rows, given = rows + 1, given + row.loss_tokens
        for name, share in shares.items():
            asked[name] += share * row.loss_tokens
        _check_passes(recipe, mixer)
    steps = rows // recipe.rows_per_step
    if recipe.save_every and recipe.save_every > steps:
        raise ConfigError(f"save_every: {recipe.save_every} never comes in a run of {steps} steps; lower it")
    return TrainingPlan(
        steps=steps,
        anneal_step=steps if anneal_row is None else max(1, anneal_row // recipe.rows_per_step),
        rows_per_step=recipe.rows_per_step,
        tokens=given,
        packed_tokens=rows * recipe.sequence_length,
        sources=tuple(_source_plan(name, sources[name], mixer, asked[name] / given, given) for name in sources),
    )


def _plan_episodes(recipe: Recipe, sources: Mapping[str, RowDocuments], *, pad: int) -> TrainingPlan:
    """Of a run on episodes, whose tokens nobody knows before: the most that they can be, and its replay as it is."""
    rl = recipe.rl
    assert rl is not None
    prompts = sources[PROMPTS]
    replay = {name: documents for name, documents in sources.items() if name != PROMPTS}
    _check_ends(replay)
    mixer = build_mixer(recipe, replay, pad=pad)
    stream, replayed = rows_of(recipe, mixer), 0
    for _ in range(rl.steps * rl.replay_rows if replay else 0):
        replayed += next(stream).loss_tokens
        _check_passes(recipe, mixer)
    most = rl.steps * rl.episodes * rl.max_tokens
    generations = -(-rl.steps // rl.updates)
    shares = recipe.shares(annealing=False) if replay else {}
    wsd = recipe.schedule.kind == "wsd"
    return TrainingPlan(
        steps=rl.steps,
        anneal_step=max(1, rl.steps - round(rl.steps * recipe.schedule.anneal)) if wsd else rl.steps,
        rows_per_step=rl.replay_rows,
        tokens=most + replayed,
        packed_tokens=rl.steps * rl.replay_rows * recipe.sequence_length,
        sources=(
            SourcePlan(
                name=PROMPTS,
                rows=len(prompts),
                tokens=most,
                share=most / (most + replayed),
                asked=most / (most + replayed),
                epochs=generations * rl.prompts_per_step / len(prompts),
                skipped=0,
                left_out=dict(prompts.left_out),
            ),
            *(_source_plan(name, replay[name], mixer, shares[name], most + replayed) for name in replay),
        ),
    )


def _source_plan(name: str, documents: RowDocuments, mixer: Mixer, asked: float, total: int) -> SourcePlan:
    cursor = mixer.cursors[name]
    return SourcePlan(
        name=name,
        rows=len(documents),
        tokens=cursor.given,
        share=cursor.given / total,
        asked=asked,
        epochs=cursor.epoch + cursor.place / len(documents),
        skipped=mixer.skipped.get(name, 0),
        left_out=dict(documents.left_out),
    )


def _anneal_from(recipe: Recipe) -> float:
    """Loss-bearing tokens from which on the rate falls; never, without a phase for it."""
    if recipe.rl is not None:
        return float("inf")  # the shares of its replay stay
    return recipe.tokens * (1 - recipe.schedule.anneal) if recipe.schedule.kind == "wsd" else float("inf")


def _check_passes(recipe: Recipe, mixer: Mixer) -> None:
    for source in recipe.mix:
        cursor = mixer.cursors[source.name]
        passes = cursor.epoch + cursor.place / len(mixer.sources[source.name])
        if passes > source.max_epochs:
            lasts = sum(cursor.given for cursor in mixer.cursors.values())
            raise ConfigError(
                f"mix: source {source.name!r}: its share of {recipe.tokens or lasts:,} tokens is more than "
                f"{source.max_epochs:g} passes over its rows, which last for about {lasts:,} tokens of this mix; lower "
                "tokens or its share, give more rows, or raise its max_epochs"
            )


def _check_ends(sources: Mapping[str, RowDocuments]) -> None:
    """A model that never sees the end of an answer weighed never stops."""
    for name, documents in sources.items():
        if not documents.is_conversation or documents.splits:
            continue
        end: Any = documents.tokenizer.eos_token_id
        for row in range(min(LOOKED_AT, len(documents))):
            document = documents.document(row)
            if end not in document.tokens[document.loss]:
                raise ConfigError(
                    f"mix: source {name!r}: row {row + 1}: the token that ends an answer "
                    f"({documents.tokenizer.eos_token!r}) carries no loss, so the model would never stop; mend the "
                    "chat template, or set eos_token to what ends its turns"
                )
