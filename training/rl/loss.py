"""The clipped policy gradient of GRPO and its kin over tokens as they were sampled, beside rows of replay.

Losses are those of TRL's GRPOTrainer (1.16): `grpo`, `dapo`, `dr_grpo`, two-sided clipping, the k3 estimate of the
divergence from the start (Schulman 2020, "Approximating KL divergence"). The old log-probabilities are those that the
tokens were drawn with, so the ratio also mends what sampling and training round differently. In the middle of an
episode stand tokens that the policy was told; they carry no loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.loss import head_loss, token_logps
from training.mixing import IGNORED
from training.objective import HeadReplaced, StartModel, forward, targets_of
from training.rl.episodes import Episode, Strand
from training.rl.options import Reinforce


@dataclass
class PolicyLoss:
    """Mean over a step's episodes, plus the weighted mean over its replay."""

    options: Reinforce
    start: StartModel | None = None
    """What the divergence is measured from; None where it has no weight."""
    seen: dict[str, float] = field(default_factory=dict)
    """Sums over tokens since they were last asked for."""
    told: dict[str, float] = field(default_factory=dict)
    """What the last episodes were like, for the log."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """(answers, tokens of answers, tokens of replay)."""
        found = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            tokens = int((targets_of(batch) != IGNORED).sum())
            found += torch.tensor(
                [int(batch["counted"].sum()), tokens, 0] if "old" in batch else [0, 0, tokens], dtype=torch.float64
            )
        return found

    def loss(self, model: Any, head: Any, batch: Mapping[str, Any], counts: Tensor) -> Tensor:
        """Its part of the step's loss."""
        answers, tokens, replayed = counts.clamp(min=1).float().unbind()
        targets = targets_of(batch)
        carries = targets != IGNORED
        if "old" not in batch:
            with HeadReplaced(head, lambda hidden: head_loss(hidden[carries], head.weight, targets[carries])):
                return self.options.replay_weight * forward(model, batch) / replayed
        heat = self.options.temperature

        def logps_of(hidden: Tensor) -> Tensor:
            return token_logps(hidden[carries] / heat, head.weight, targets[carries])

        with HeadReplaced(head, logps_of):
            logps = forward(model, batch)
        old = torch.nn.functional.pad(batch["old"][:, 1:], (0, 1))[carries]
        rows = carries.nonzero()[:, 0]
        ratio = (logps - old).exp()
        per_token = self._per_token(ratio, batch["advantages"][rows])
        self._note("sampling_gap", (logps - old).abs())
        if self.start is not None:
            hidden, weight = self.start.hidden(batch, carries)
            with torch.no_grad():
                reference = token_logps(hidden / heat, weight, targets[carries])
            gap = reference - logps
            divergence = gap.exp() - gap - 1
            self._note("kl", divergence)
            # times the ratio its gradient is that of the divergence itself (DeepSeek-V3.2, arXiv 2512.02556)
            per_token = per_token + self.options.kl * divergence * ratio
        match self.options.loss:
            case "grpo":
                lengths = carries.sum(1).clamp(min=1)
                return (per_token / lengths[rows]).sum() / answers
            case "dapo":
                return per_token.sum() / tokens
            case "dr_grpo":
                return per_token.sum() / (answers * self.options.max_tokens)

    def _per_token(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        clipped = ratio.clamp(1 - self.options.clip_low, 1 + self.options.clip_high)
        with torch.no_grad():
            # where the clipped side is the smaller one, and so the one that counts
            self._note("clipped", (clipped * advantage < ratio * advantage).float())
            self.seen["tokens"] = self.seen.get("tokens", 0.0) + float(len(ratio))
        return -torch.min(ratio * advantage, clipped * advantage)

    def _note(self, name: str, values: Tensor) -> None:
        self.seen[name] = self.seen.get(name, 0.0) + float(values.detach().sum())

    def pop_rewards(self) -> dict[str, float]:
        """What is logged: of the newest episodes, and means over the tokens since the last call."""
        seen, self.seen = self.seen, {}
        tokens = seen.pop("tokens", 0.0)
        return {**self.told, **({name: value / tokens for name, value in seen.items()} if tokens else {})}


def batch_of(strands: Sequence[tuple[Episode, Strand]], *, mask_truncated: bool, pad: int) -> dict[str, Tensor]:
    """Sequences side by side (B, T), padded behind: what pads comes after all that counts, so nothing sees it.

    `counted`: whether an answer counts where answers are averaged; a cut one does although its tokens are masked.
    """
    longest = max((len(strand.tokens) for _, strand in strands), default=2)
    size = max(len(strands), 1)
    batch = {
        "input_ids": torch.full((size, longest), pad, dtype=torch.int64),
        "labels": torch.full((size, longest), IGNORED, dtype=torch.int64),
        "position_ids": torch.arange(longest).expand(size, longest).contiguous(),
        "old": torch.zeros(size, longest),
        "advantages": torch.zeros(size),
        "counted": torch.zeros(size, dtype=torch.int64),
    }
    for at, (episode, strand) in enumerate(strands):
        end = len(strand.tokens)
        batch["input_ids"][at, :end] = torch.tensor(strand.tokens)
        if episode.dropped:
            continue
        batch["counted"][at] = 1
        batch["advantages"][at] = episode.advantage
        if episode.truncated and mask_truncated:
            continue
        drawn = torch.tensor([one is not None for one in strand.logprobs])
        batch["labels"][at, :end] = torch.where(drawn, batch["input_ids"][at, :end], IGNORED)
        batch["old"][at, :end] = torch.tensor([0.0 if one is None else one for one in strand.logprobs])
    return batch


def split(strands: Sequence[tuple[Episode, Strand]], passes: int) -> list[list[tuple[Episode, Strand]]]:
    """As many micro batches as the trainer expects, nearly equal, in order."""
    size, more = divmod(len(strands), passes)
    found, at = [], 0
    for place in range(passes):
        end = at + size + (place < more)
        found.append(list(strands[at:end]))
        at = end
    return found
