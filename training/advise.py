"""Which stage fits some data: measured on held-out rows, with a few real steps of each candidate. Knows one model.

Each candidate is a way to make the same held-out rows likely: examples in the prompt, steps with loss on answers (sft),
steps with loss on every token (pretrain). What is compared is the loss of the held-out answers (of all tokens, where
there are none), row by row. Training must beat the prompt by more than twice its standard error, because a prompt
forgets nothing, and by 0.05 nats a token. A probe is short: it says which way goes down faster, not how far.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from training.mixing import Document, Mixer, PackedRow
from training.recipe import Method
from training.sources import RowDocuments
from workbench.errors import ConfigError

Advice = Literal["prompt", "sft", "pretrain", "midtrain", "dpo"]
HELD_OUT = 32
"""Rows that no probe sees."""
SHOTS = 4
"""Examples in the prompt."""
VAST = 1_000_000_000
"""Tokens of plain text from which on it is no mid-training any more (Nova Forge's table)."""
FEWEST = 12
LEAST = 0.05
"""Nats a token that training must gain beyond the prompt, however sure the gain is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A candidate, as it was measured."""

    name: Advice | Literal["start"]
    loss: float
    """Nats a token on the held-out rows, mean over rows."""
    gain: float
    """Less than the start's, mean over rows."""
    error: float
    """Standard error of the gain."""
    kl: float
    """KL(start ‖ probed), nats a token on the held-out rows: what forgetting follows (Shenfeld et al. 2025)."""
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Advised:
    """What to do with the data, and why."""

    advice: Advice
    why: str
    kind: str
    rows: int
    tokens: int
    """Of all rows, by the held-out ones' length."""
    held_out: int
    arms: tuple[Arm, ...]
    preferred: float | None = None
    """Of preferences: share of held-out pairs whose chosen answer the start finds likelier, token by token."""


def advise(
    sources: Mapping[Method, RowDocuments],
    model: Any,
    *,
    length: int = 1024,
    seconds: float = 300.0,
    steps: int = 24,
    rows_per_step: int = 4,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Advised:
    """Measure the candidates that fit the data's kind.

    Args:
        sources: the same rows read for `sft` and for `pretrain`.
        model: the start, in float32; it is left as it was.
        length: tokens of a packed row.
        seconds: for all probes together; each makes as many steps as the first had time for.

    Raises ConfigError: fewer than 12 rows.
    """
    answers = sources["sft"]
    if len(answers) < FEWEST:
        raise ConfigError(f"{answers.name}: {len(answers)} rows are too few to hold some out; put them into the prompt")
    held, seen = _split(len(answers), seed)
    wanted = [answers.document(int(row)) for row in held]
    wanted = [document for document in wanted if len(document.tokens) <= length]
    if not wanted:
        raise ConfigError(f"{answers.name}: no held-out row fits into {length} tokens; raise --sequence-length")
    tokens = round(float(np.mean([len(document.tokens) for document in wanted])) * len(answers))
    start = losses_of(model, wanted)
    arms = [Arm(name="start", loss=float(start.mean()), gain=0.0, error=0.0, kl=0.0, steps=0, seconds=0.0)]
    if answers.is_conversation:
        began = time.perf_counter()
        shown = _with_examples(answers, wanted, seen[:SHOTS], length)
        arms.append(_arm("prompt", start, losses_of(model, shown), kl=0.0, steps=0, began=began))
    methods: list[Literal["sft", "pretrain"]] = ["sft", "pretrain"] if answers.is_conversation else ["pretrain"]
    for method in methods:
        rows = _rows(sources[method], seen, steps * rows_per_step, length, seed)
        tried, began = copy.deepcopy(model), time.perf_counter()
        made = probe(tried, rows, rows_per_step, learning_rate, steps=steps, seconds=seconds / len(methods))
        steps = min(steps, made)  # the next ones get no more
        after = losses_of(tried, wanted)
        kl = divergence(model, tried, wanted[:8])
        arms.append(_arm(method, start, after, kl=kl, steps=made, began=began))
    preferred = _preferred(answers, model, held) if answers.is_preference else None
    advice, why = decide(arms, tokens=tokens, is_preference=answers.is_preference, preferred=preferred)
    from training.inspection import kind_of

    return Advised(
        advice=advice,
        why=why,
        kind=kind_of(answers),
        rows=len(answers),
        tokens=tokens,
        held_out=len(wanted),
        arms=tuple(arms),
        preferred=preferred,
    )


def decide(
    arms: Sequence[Arm], *, tokens: int, is_preference: bool, preferred: float | None = None
) -> tuple[Advice, str]:
    """The best arm; the prompt where training is not better by more than twice its standard error."""
    known = {arm.name: arm for arm in arms}
    best = max((arm for arm in arms if arm.steps), key=lambda arm: arm.gain)
    prompt = known.get("prompt")
    told = f"{best.steps} steps of {best.name} lower the held-out loss by {best.gain:.3f} ± {2 * best.error:.3f}"
    if is_preference and preferred is not None:
        return "dpo", f"rows are preferences, and the start finds the chosen answer likelier in {preferred:.0%} of them"
    rival = max(0.0, prompt.gain if prompt else 0.0)
    if best.gain - rival <= max(LEAST, 2 * best.error):
        what = f"examples in the prompt by {prompt.gain:.3f}" if prompt else "nothing to gain otherwise"
        return "prompt", f"{told}, {what}: training is not worth what it may forget"
    beside = f", {SHOTS} examples in the prompt by {prompt.gain:.3f}" if prompt else ""
    if best.name == "pretrain":
        amount = f"{tokens:,} tokens of it" + ("" if tokens >= VAST else f", less than {VAST:,}")
        return ("pretrain" if tokens >= VAST else "midtrain"), f"{told}{beside}; {amount}"
    return "sft", f"{told}{beside}"


def probe(model: Any, rows: Sequence[PackedRow], per_step: int, rate: float, *, steps: int, seconds: float) -> int:
    """Real optimiser steps on `model`, warmed up over the first tenth; returns how many there was time for."""
    import torch

    from training.objective import NextToken

    objective, optimiser = NextToken(), torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    device, began = next(model.parameters()).device, time.perf_counter()
    model.train()
    for step in range(steps):
        if step and time.perf_counter() - began > seconds:
            return step
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / max(1, steps // 10))
        batches = [_batch(row, device) for row in rows[step * per_step : (step + 1) * per_step]]
        counts = objective.counts(batches)
        for batch in batches:
            objective.loss(model, model.get_output_embeddings(), batch, counts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return steps


def losses_of(model: Any, documents: Sequence[Document]) -> npt.NDArray[np.float64]:
    """Nats a token of what carries loss, for each document."""
    from training.curriculum import document_losses

    return np.array([loss for loss, _ in document_losses(model, documents)])


def divergence(start: Any, other: Any, documents: Sequence[Document]) -> float:
    """KL(start ‖ other) in nats a token, mean over the tokens of some documents that carry loss."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for document in documents:
            ids = torch.from_numpy(document.tokens)[None].to(next(start.parameters()).device)
            carries = torch.from_numpy(document.loss[1:])
            logps = [
                torch.log_softmax(one.eval()(input_ids=ids, use_cache=False).logits[0, :-1].float()[carries], -1)
                for one in (start, other)
            ]
            total += float((logps[0].exp() * (logps[0] - logps[1])).sum())
            count += int(carries.sum())
    return total / max(1, count)


def _arm(
    name: Advice, start: npt.NDArray[np.float64], after: npt.NDArray[np.float64], *, kl: float, steps: int, began: float
) -> Arm:
    gains = start - after
    return Arm(
        name=name,
        loss=float(after.mean()),
        gain=float(gains.mean()),
        error=float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf"),
        kl=kl,
        steps=steps,
        seconds=time.perf_counter() - began,
    )


def _split(rows: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(held out, seen)."""
    order = np.random.default_rng([seed, 4]).permutation(rows)
    count = min(HELD_OUT, rows // 3)
    return order[:count], order[count:]


def _with_examples(
    documents: RowDocuments, wanted: Sequence[Document], examples: npt.NDArray[np.int64], length: int
) -> list[Document]:
    """The same answers to learn, with examples before them as context."""
    before = np.concatenate([documents.document(int(row)).tokens for row in examples])
    found = []
    for document in wanted:
        room = max(0, length - len(document.tokens))
        context = before[len(before) - min(room, len(before)) :]
        loss = np.concatenate([np.zeros(len(context), bool), document.loss])
        found.append(Document(np.concatenate([context, document.tokens]), loss))
    return found


def _rows(documents: RowDocuments, seen: npt.NDArray[np.int64], count: int, length: int, seed: int) -> list[PackedRow]:
    part = _Part(documents, seen)
    pad = documents.tokenizer.eos_token_id
    mixer = Mixer(sources={documents.name: part}, length=length, seed=seed, pad=pad)
    return [mixer.next_row({documents.name: 1.0}) for _ in range(count)]


class _Part:
    """Some rows of a source."""

    def __init__(self, documents: RowDocuments, rows: npt.NDArray[np.int64]) -> None:
        self._documents, self._rows = documents, rows
        self.splits = documents.splits

    def __len__(self) -> int:
        return len(self._rows)

    def document(self, row: int) -> Document:
        """The row's tokens."""
        return self._documents.document(int(self._rows[row]))


def _batch(row: PackedRow, device: Any) -> dict[str, Any]:
    import torch

    columns = {"input_ids": row.tokens, "labels": row.labels, "position_ids": row.positions}
    return {name: torch.from_numpy(value)[None].to(device) for name, value in columns.items()}


def _preferred(documents: RowDocuments, model: Any, held: npt.NDArray[np.int64]) -> float:
    pairs = [documents.pair(int(row)) for row in held]
    chosen, rejected = (losses_of(model, [getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected"))
    return float((chosen < rejected).mean())
