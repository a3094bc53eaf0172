"""Direct preference optimisation over packed rows: the loss, and what the start model thought of each answer.

A pair is one document of a packed row, chosen answer first, each with its own copy of the prompt; the two cannot see
each other. Rows of other sources in the mix are next-token prediction as everywhere. Losses follow Rafailov et al. 2023
(arXiv 2305.18290), label smoothing Mitchell 2023, IPO Azar et al. 2023 (2310.12036) with mean log-probabilities per
token, as TRL has it and its authors confirmed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.loss import token_logps
from training.mixing import IGNORED
from training.objective import HeadReplaced, forward, targets_of
from training.recipe import Preference

Key = tuple[str, int]
"""Source and row of a pair."""


@dataclass
class PreferenceLoss:
    """Mean over the pairs of a step, plus weighted next-token terms."""

    options: Preference
    reference: Mapping[Key, tuple[float, float]]
    """What the start gives the chosen and the rejected answer: log p, in nats."""
    names: Sequence[str]
    """Sources, as `pairs` numbers them."""
    seen: dict[str, float] = field(default_factory=dict)
    """Sums over pairs since they were last asked for: see `pop_rewards`."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """(pairs, tokens of chosen answers, tokens of rows without pairs)."""
        return sum((self._count(batch) for batch in batches), torch.zeros(3, dtype=torch.float64))

    def _count(self, batch: Mapping[str, Any]) -> Tensor:
        answer = answers_of(batch)
        carries = targets_of(batch) != IGNORED
        chosen, other = (carries & (answer >= 0) & (answer % 2 == 0)).sum(), (carries & (answer < 0)).sum()
        return torch.tensor([len(batch["pairs"]), int(chosen), int(other)], dtype=torch.float64)

    def loss(self, model: Any, head: Any, batch: Mapping[str, Any], counts: Tensor) -> Tensor:
        """Its part of the step's loss."""
        pairs, chosen_tokens, other_tokens = counts.clamp(min=1).float().unbind()
        logps, answer = answer_logps(model, head, batch)
        total = logps.sum() * 0.0  # a graph, even where the row holds nothing
        replay = answer < 0
        if replay.any():
            total = total - self.options.replay_weight * logps[replay].sum() / other_tokens
        if not len(batch["pairs"]):
            return total
        sums, lengths = sums_of_answers(logps, answer, len(batch["pairs"]))
        if self.options.sft_weight:
            total = total - self.options.sft_weight * sums[:, 0].sum() / chosen_tokens
        ratios = sums - self._reference(batch, sums)
        self._note(ratios.detach())
        return total + self._per_pair(ratios, lengths).sum() / pairs

    def _per_pair(self, ratios: Tensor, lengths: Tensor) -> Tensor:
        beta, smoothing = self.options.beta, self.options.label_smoothing
        if self.options.loss == "ipo":
            mean = ratios / lengths
            return (mean[:, 0] - mean[:, 1] - 1 / (2 * beta)) ** 2
        margin = beta * (ratios[:, 0] - ratios[:, 1])
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)

    def _reference(self, batch: Mapping[str, Any], like: Tensor) -> Tensor:
        keys = [(self.names[int(source)], int(row)) for *_, source, row in batch["pairs"].tolist()]
        return torch.tensor([self.reference[key] for key in keys], dtype=like.dtype, device=like.device)

    def _note(self, ratios: Tensor) -> None:
        rewards = self.options.beta * ratios
        found = {
            "pairs": float(len(rewards)),
            "reward_chosen": float(rewards[:, 0].sum()),
            "reward_rejected": float(rewards[:, 1].sum()),
            "reward_accuracy": float((rewards[:, 0] > rewards[:, 1]).sum()),
        }
        self.seen = {name: self.seen.get(name, 0.0) + value for name, value in found.items()}

    def pop_rewards(self) -> dict[str, float]:
        """Means over this process's pairs since the last call: rewards of both answers, share of pairs in order."""
        seen, self.seen = self.seen, {}
        pairs = seen.pop("pairs", 0.0)
        return {name: value / pairs for name, value in seen.items()} if pairs else {}


def answers_of(batch: Mapping[str, Any]) -> Tensor:
    """(B, T) which answer a position belongs to: 2k the chosen one of pair k, 2k + 1 the rejected one, −1 neither."""
    found = torch.full_like(batch["labels"], -1)
    for k, (at, start, middle, end, *_) in enumerate(batch["pairs"].tolist()):
        found[at, start:middle] = 2 * k
        found[at, middle:end] = 2 * k + 1
    return found


def answer_logps(model: Any, head: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(log p of each token that carries loss, the answer that it belongs to), both (T,)."""
    targets = targets_of(batch)
    carries = targets != IGNORED

    def logps(hidden: Tensor) -> Tensor:
        return token_logps(hidden[carries], head.weight, targets[carries])

    with HeadReplaced(head, logps):
        return forward(model, batch), answers_of(batch)[carries]


def sums_of_answers(logps: Tensor, answer: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """(sum of log p, tokens) of each answer, both (pairs, 2)."""
    ours = answer >= 0
    zeros = logps.new_zeros(2 * pairs)
    sums = zeros.index_add(0, answer[ours], logps[ours])
    lengths = zeros.index_add(0, answer[ours], torch.ones_like(logps[ours]))
    return sums.view(pairs, 2), lengths.view(pairs, 2)


def reference_logps(
    model: Any, batches: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[tuple[Key, tuple[float, float]]]:
    """What a model gives both answers of every pair of the batches."""
    head = model.get_output_embeddings()
    for batch in batches:
        if not len(batch["pairs"]):
            continue
        with torch.no_grad():
            logps, answer = answer_logps(model, head, batch)
            sums, _ = sums_of_answers(logps, answer, len(batch["pairs"]))
        for (*_, source, row), (chosen, rejected) in zip(batch["pairs"].tolist(), sums.tolist(), strict=True):
            yield (names[int(source)], int(row)), (chosen, rejected)


def read_reference(folder: Path) -> dict[Key, tuple[float, float]]:
    """What earlier processes computed; a line that one of them did not finish is left out."""
    found: dict[Key, tuple[float, float]] = {}
    for path in sorted(folder.glob("reference-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
                found[record["source"], record["row"]] = (record["chosen"], record["rejected"])
            except (ValueError, KeyError):
                continue
    return found
