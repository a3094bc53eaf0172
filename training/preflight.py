"""What is checked before a second of training, and refused with its cure. Knows a recipe, its data, its model.

Each check gives findings: `ok`, `warning` (goes on, and says what to look at) or `refused`. The rules come from what
people lost runs to: a stop token without loss, packed documents that see each other, a warm-up of the whole run, rows
cut off or thrown away unseen, too little memory, a method that does not fit the data.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.mixing import IGNORED, PackedRow
from training.plan import TrainingPlan, build_mixer, rows_of
from training.recipe import Recipe
from training.rl.options import PROMPTS
from training.sources import RowDocuments
from workbench.errors import ConfigError

Level = Literal["ok", "warning", "refused"]
LOOKED_AT = 64
"""Rows of a source that are tokenised to judge it."""
ROWS = 8
"""Packed rows that are looked at."""
LEAK = 1e-3
"""Difference of logits, as a share of their spread, that rounding does not explain."""
MOST_WARMUP = 0.5
MOST_TOO_LONG = 0.2
"""Share of a source's rows that may be left out for their length."""
FEW_PROMPTS = 50
FEW_ROWS = 200
"""Below so many pairs, examples in the prompt usually do as well."""
LITTLE_TEXT = 100_000
"""Tokens below which continued pre-training learns a style and no facts."""
ENGLISH = 0.25
"""Tokens a character that tokenizers of today need for English prose."""
ADAM_BYTES = 16
"""Of float32 weight, gradient and two moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    text: str
    """One sentence; of what is refused or odd, with the cure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Two real optimiser steps on the first rows, each of one micro batch."""

    seconds: float
    """Expected of the whole run."""
    seconds_per_step: float
    tokens_per_second: float
    """Of packed rows."""
    memory_bytes: int
    """Highest use while they ran: of this process on a CPU, of the device on a GPU."""
    available_bytes: int


def check_recipe(
    recipe: Recipe, plan: TrainingPlan, sources: Mapping[str, RowDocuments], *, folder: Path
) -> list[Finding]:
    """All checks that need no model."""
    if recipe.rl is not None:
        return _check_episodes(recipe, plan, sources, folder=folder)
    found = [
        *_schedule(recipe, plan),
        *_stage(recipe, plan, sources),
        *_lengths(recipe, sources),
        *_tokens(sources),
        *_mask(recipe, plan, sources),
        *_folder(recipe, folder),
    ]
    return [*found, *_evaluated(recipe)]


def _evaluated(recipe: Recipe) -> Iterator[Finding]:
    if not (recipe.evaluation.suites or recipe.evaluation.tasks):
        text = "no suites are named, so nothing says what the run gains or forgets; name evaluation.suites"
        yield Finding(check="evaluation", level="warning", text=text)


def _check_episodes(
    recipe: Recipe, plan: TrainingPlan, sources: Mapping[str, RowDocuments], *, folder: Path
) -> list[Finding]:
    """Of a run on episodes: schedule, prompts, and the rows that are replayed beside them."""
    rl = recipe.rl
    assert rl is not None
    prompts = sources[PROMPTS]
    replay = {name: one for name, one in sources.items() if name != PROMPTS}
    found = [*_schedule(recipe, plan), *_lengths(recipe, replay), *_tokens(replay), *_folder(recipe, folder)]
    text = f"{len(prompts):,} prompts, {rl.prompts_per_step} a step, each {rl.group_size} times"
    few = len(prompts) < FEW_PROMPTS
    if few:
        text += "; so few are soon known by heart: a hundred and more are usual"
    found.append(Finding(check="prompts", level="warning" if few else "ok", text=text))
    if rl.group_size < 4:
        text = f"rl.group_size: {rl.group_size}: the mean of so few says little; 8 is usual"
        found.append(Finding(check="prompts", level="warning", text=text))
    return [*found, *_evaluated(recipe)]


def refuse(findings: Sequence[Finding]) -> None:
    """Raises ConfigError: one line for each finding that is refused."""
    lines = [f"{one.check}: {one.text}" for one in findings if one.level == "refused"]
    if lines:
        raise ConfigError("\n".join(lines))


def _schedule(recipe: Recipe, plan: TrainingPlan) -> Iterator[Finding]:
    warmup = math.ceil(recipe.schedule.warmup * plan.steps)
    if warmup > 1 and (warmup >= plan.anneal_step or warmup > MOST_WARMUP * plan.steps):
        yield Finding(
            check="schedule",
            level="refused",
            text=f"{warmup} of {plan.steps} steps are warm-up, so the rate is never at its highest for long; lower "
            "schedule.warmup (0.05 is usual), or raise tokens",
        )
    else:
        yield Finding(check="schedule", level="ok", text=f"{warmup} of {plan.steps} steps are warm-up")
    if recipe.save_every and recipe.save_every > plan.steps:
        text = f"save_every {recipe.save_every} never comes in {plan.steps} steps; lower it"
        yield Finding(check="schedule", level="refused", text=text)


def _stage(recipe: Recipe, plan: TrainingPlan, sources: Mapping[str, RowDocuments]) -> Iterator[Finding]:
    """Does the method fit the data?"""
    own = {s.name: sources[s.name] for s in recipe.mix if s.role == "own"} or dict(sources)
    talks = [name for name, one in own.items() if one.is_conversation]
    if recipe.method in ("pretrain", "midtrain"):
        if len(talks) == len(own):
            pairs = sum(len(own[name]) for name in talks)
            yield Finding(
                check="method",
                level="warning",
                text=f"all own rows ({pairs:,}) are pairs or conversations, and {recipe.method} puts loss on the "
                "prompts too: the model learns to ask as much as to answer; method: sft puts it on the answers",
            )
        elif plan.tokens < LITTLE_TEXT:
            yield Finding(
                check="method",
                level="warning",
                text=f"{plan.tokens:,} tokens teach a style but hardly a fact; give more text, or make pairs of it and "
                "use method: sft, or put the text into the prompt (workbench advise measures which)",
            )
        return
    if not talks:
        yield Finding(
            check="method",
            level="refused",
            text=f"method {recipe.method} learns answers, and no own source holds any (all are plain text); give rows "
            "with prompt and completion or messages, or set method: pretrain",
        )
        return
    rows = sum(len(own[name]) for name in talks)
    if rows < FEW_ROWS:
        yield Finding(
            check="method",
            level="warning",
            text=f"{rows:,} pairs are few: examples in the prompt often do as well and forget nothing (workbench "
            "advise measures it); a thousand and more are usual",
        )


def _lengths(recipe: Recipe, sources: Mapping[str, RowDocuments]) -> Iterator[Finding]:
    for name, documents in sources.items():
        if documents.splits:
            continue
        lengths = np.array([len(documents.document(row).tokens) for row in _some_rows(documents)])
        share = float((lengths > recipe.sequence_length).mean())
        if share == 0:
            continue
        fits = int(-(-np.quantile(lengths, 0.99) // 128) * 128)
        yield Finding(
            check="length",
            level="refused" if share > MOST_TOO_LONG else "warning",
            text=f"source {name!r}: {share:.0%} of its rows are longer than {recipe.sequence_length} tokens and would "
            f"be left out, for an answer is never cut; sequence_length: {fits} takes 99% of them",
        )


def _tokens(sources: Mapping[str, RowDocuments]) -> Iterator[Finding]:
    for name, documents in sources.items():
        rate = tokens_per_character(documents)
        odd = rate > 2 * ENGLISH
        cure = f", {rate / ENGLISH:.0f} times what English needs: the tokenizer was not made for such text, so a run "
        cure += "costs as much more; look for a start whose tokenizer knows it"
        text = f"source {name!r}: {rate:.2f} tokens a character{cure if odd else ''}"
        yield Finding(check="tokenizer", level="warning" if odd else "ok", text=text)


def tokens_per_character(documents: RowDocuments) -> float:
    """Of a source's texts, without what the chat template adds."""
    texts = ["\n".join(documents.texts(row)) for row in _some_rows(documents)]
    tokens = sum(len(documents.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return tokens / max(1, sum(len(text) for text in texts))


def _some_rows(documents: RowDocuments) -> list[int]:
    """Evenly spread, so that a sorted file is not judged by its beginning."""
    count = min(LOOKED_AT, len(documents))
    return np.linspace(0, len(documents) - 1, count).astype(int).tolist()


def first_rows(recipe: Recipe, sources: Mapping[str, RowDocuments], *, pad: int, count: int = ROWS) -> list[PackedRow]:
    """The rows that the run begins with."""
    stream = rows_of(recipe, build_mixer(recipe, sources, pad=pad))
    return [next(stream) for _ in range(count)]


def _mask(recipe: Recipe, plan: TrainingPlan, sources: Mapping[str, RowDocuments]) -> Iterator[Finding]:
    """In the rows as they will be trained on: what carries loss, and does the stop token?"""
    tokenizer = next(iter(sources.values())).tokenizer
    rows = first_rows(recipe, sources, pad=tokenizer.eos_token_id, count=min(ROWS, plan.steps * plan.rows_per_step))
    share = sum(row.loss_tokens for row in rows) / sum(len(row.tokens) for row in rows)
    text = f"{share:.0%} of the tokens of the first {len(rows)} rows carry loss"
    if share < 0.05:
        cure = "; most of the time goes into text that nothing is learnt from: shorten the prompts, or sequence_length"
        yield Finding(check="mask", level="warning", text=text + cure)
    else:
        yield Finding(check="mask", level="ok", text=text)
    if missing := _without_stop(rows, sources, tokenizer.eos_token_id):
        yield Finding(
            check="stop token",
            level="refused",
            text=f"source {missing!r}: answers end without {tokenizer.eos_token!r} carrying loss, so the model would "
            "never stop; mend the chat template, or set eos_token to what ends its turns",
        )
    else:
        yield Finding(
            check="stop token", level="ok", text=f"{tokenizer.eos_token!r} ends every answer and carries loss"
        )


def _without_stop(rows: Sequence[PackedRow], sources: Mapping[str, RowDocuments], end: int) -> str:
    """A source whose answers lack the end token among what carries loss."""
    for row in rows:
        at = 0
        for span in row.spans:
            until = at + span.end - span.start
            for text in texts_of_row(row):
                labels = row.labels[text]
                inside = at <= text.start < until and not sources[span.source].splits
                if inside and (labels != IGNORED).any() and end not in labels:
                    return span.source
            at = until
    return ""


def texts_of_row(row: PackedRow) -> list[slice]:
    """Stretches of a packed row that must not see each other: a position of 0 begins one. Padding is the last one."""
    starts = [*np.flatnonzero(row.positions == 0).tolist(), len(row.positions)]
    return [slice(start, end) for start, end in itertools.pairwise(starts)]


def _folder(recipe: Recipe, folder: Path) -> Iterator[Finding]:
    path = folder / "recipe.json"
    if path.is_file() and path.read_text() != recipe.model_dump_json(indent=2) + "\n":
        text = f"{folder}: holds a run of another recipe; change the recipe's name, or restore the recipe"
        yield Finding(check="folder", level="refused", text=text)


def check_memory(parameters: int, available: int, *, trained: int | None = None) -> Finding:
    """Weights, and of those that are trained gradients and Adam's two moments, in float32: what no run does without."""
    needed = parameters * 4 + (parameters if trained is None else trained) * (ADAM_BYTES - 4)
    text = f"{parameters:,} weights need {needed / 1e9:.1f} GB with gradients and optimiser, {available / 1e9:.1f} are"
    text += " there"
    if needed <= available:
        return Finding(check="memory", level="ok", text=text)
    cure = "; take a smaller start, train adapters, or use several devices"
    return Finding(check="memory", level="refused", text=text + cure)


def check_leak(model: Any, rows: Sequence[PackedRow]) -> Finding:
    """Logits of documents in a packed row against those of each alone, measured on the model that will be trained."""
    row = max(rows, key=lambda one: len(_learnt(one)))
    if len(_learnt(row)) < 2:
        return Finding(
            check="packing", level="ok", text="the first rows hold one document each, so none can see another"
        )
    worst = leak(model, row)
    if worst <= LEAK:
        text = f"documents of a packed row do not see each other: logits differ by {worst:.1e} of their spread"
        return Finding(check="packing", level="ok", text=text)
    return Finding(
        check="packing",
        level="refused",
        text=f"documents of a packed row see each other: logits differ by {worst:.1%} of their spread from those of "
        "the document alone, as this architecture or its attention ignores position_ids; set packing: false, or take "
        "another start",
    )


def _learnt(row: PackedRow) -> list[slice]:
    """Texts of a row that carry loss: what padding sees harms nobody."""
    return [text for text in texts_of_row(row) if (row.labels[text] != IGNORED).any()]


def leak(model: Any, row: PackedRow) -> float:
    """Largest difference of a logit between packed and alone, as a share of the logits' standard deviation."""
    import torch

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    worst, spread = 0.0, 0.0
    with torch.no_grad():
        ids, positions = (torch.from_numpy(part)[None].to(device) for part in (row.tokens, row.positions))
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
        for text in _learnt(row):
            found = model(input_ids=ids[:, text], position_ids=positions[:, text], use_cache=False)
            alone = found.logits[0].float()
            worst = max(worst, float((packed[text] - alone).abs().max()))
            spread = max(spread, float(alone.std()))
    model.train(was_training)
    return worst / spread if spread else worst


def measure_steps(recipe: Recipe, plan: TrainingPlan, model: Any, rows: Sequence[PackedRow]) -> Measured:
    """Two real optimiser steps on copies of the weights in memory; `model` is changed, and is of no use afterwards.

    A step of the run has several micro batches: their time is counted for each, the optimiser's once. The first of
    the two pays for what is only set up once; the second is what the rest will cost.
    """
    import psutil
    import torch

    from training.objective import NextToken
    from training.trainer import uses_bfloat16

    device = next(model.parameters()).device
    objective, optimiser = NextToken(), torch.optim.AdamW(model.parameters(), lr=recipe.schedule.learning_rate)
    model.train()
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    passes, updates, highest, process = 0.0, 0.0, 0, psutil.Process()
    for step in range(2):
        taken = [rows[(step * recipe.micro_batch + i) % len(rows)] for i in range(recipe.micro_batch)]
        columns = {"input_ids": "tokens", "labels": "labels", "position_ids": "positions"}
        batch = {
            name: torch.from_numpy(np.stack([getattr(row, column) for row in taken])).to(device)
            for name, column in columns.items()
        }
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(recipe)):
            loss = objective.loss(model, model.get_output_embeddings(), batch, objective.counts([batch]))
        loss.backward()
        passes = _since(began, device)
        highest = max(highest, process.memory_info().rss)
        began = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad()
        updates = _since(began, device)
        highest = max(highest, process.memory_info().rss)
    on_gpu = device.type == "cuda"
    per_step = passes * plan.rows_per_step / recipe.micro_batch + updates
    return Measured(
        seconds=per_step * plan.steps,
        seconds_per_step=per_step,
        tokens_per_second=recipe.batch_tokens / per_step,
        memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else highest,
        available_bytes=free_memory(device),
    )


def _since(began: float, device: Any) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - began


def free_memory(device: Any = None) -> int:
    """Bytes that are free: of the device if it is a GPU, else of the machine."""
    import psutil

    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
