"""From logits to the next token: penalties, temperature, top-k, top-p. Knows tensors and numbers; knows no model.

Legend: V tokens of the vocabulary.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_NUCLEUS = 512
"""Most likely tokens that are sorted first: a nucleus is nearly always inside, and sorting all costs milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """A token with its log-probability in nats, before temperature and penalties, and the likeliest others."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(kw_only=True, slots=True)
class Sampler:
    """Chooses the tokens of one answer."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds already."""
    frequency_penalty: float = 0.0
    """The same, times how often."""
    rng: np.random.Generator
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def is_greedy(self) -> bool:
        """Whether the highest logit is always taken as it is."""
        return self.temperature == 0 and not self.has_penalty

    @property
    def has_penalty(self) -> bool:
        """Whether what was written changes what comes."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    def choose(self, logits_V: Tensor) -> int:
        """The next token. `logits_V`: float32, left as it is."""
        if self.has_penalty:
            logits_V = self._penalised(logits_V)
        token = int(logits_V.argmax()) if self.temperature == 0 else self._draw(logits_V)
        if self.has_penalty:
            self.counts[token] += 1
        return token

    def logprob(self, logits_V: Tensor, token: int) -> float:
        """log p of a token at this temperature, float32; of all tokens, whatever top-p and top-k leave out."""
        heat = self.temperature or 1.0
        return float((logits_V.float() / heat).log_softmax(-1)[token])

    def _penalised(self, logits_V: Tensor) -> Tensor:
        if not self.counts:
            return logits_V
        ids = torch.tensor(list(self.counts), device=logits_V.device)
        times = torch.tensor(list(self.counts.values()), dtype=logits_V.dtype, device=logits_V.device)
        return logits_V.index_add(0, ids, -self.presence_penalty - self.frequency_penalty * times)

    def _draw(self, logits_V: Tensor) -> int:
        """By the inverse of the distribution function, of all tokens or of the nucleus (Holtzman 2020)."""
        scaled = logits_V.double() / self.temperature
        if self.top_p >= 1.0 and not self.top_k:
            return self._at(scaled.softmax(-1))
        total = scaled.logsumexp(-1)
        values, order = scaled.topk(min(len(scaled), max(_NUCLEUS, self.top_k)))
        share = (values - total).exp()
        if not self.top_k and float(share.sum()) < self.top_p:
            values, order = scaled.sort(descending=True)
            share = (values - total).exp()
        if self.top_k:
            share = share[: self.top_k] / share[: self.top_k].sum()
        # the smallest set whose mass reaches top_p; at least one token
        kept = max(1, int((share.cumsum(-1) - share < self.top_p).sum()))
        return int(order[self._at(share[:kept] / share[:kept].sum())])

    def _at(self, share: Tensor) -> int:
        bar = torch.tensor(self.rng.random(), dtype=share.dtype, device=share.device)
        return min(int(torch.searchsorted(share.cumsum(-1), bar, right=True)), len(share) - 1)


def describe_token(logits_V: Tensor, token: int, top: int) -> TokenLogprob:
    """Log-probability of `token` and of the `top` likeliest, of the model's own distribution."""
    logprobs = logits_V.float().log_softmax(-1)
    values, order = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0])
    pairs = tuple(zip(map(int, order.tolist()), values.tolist(), strict=True))
    return TokenLogprob(token=token, logprob=float(logprobs[token]), top=pairs)
