"""Generate text for many prompts at once, their common prefix held and attended to once. Knows a CausalModel.

A tile is a fixed group of prompts that are decoded together from first to last token; rows that end are dropped. So a
prompt's text does not depend on which tiles were computed before. Attention of a step is the common prefix (all rows
as one matrix product) merged with each row's own keys (Hydragen, arXiv 2402.05099).

Legend as in tree_attention; B rows, C columns of a row's own keys.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.engines.base import GenerateRequest, Generation
from workbench.engines.causal_model import CausalModel
from workbench.engines.prefix_tree import Batch, Plan, plan_requests
from workbench.engines.text import TextStream
from workbench.engines.tree_attention import PathCache, attend_stretch, merge_parts, run_kernel

STEM = 16
"""A shorter common prefix is not worth a part of its own."""


@dataclass(slots=True)
class Piece:
    """A row's new text; `generation` is set with the last one."""

    row: int
    text: str
    generation: Generation | None = None


def plan_tiles(
    requests: Sequence[GenerateRequest], tiles: Sequence[str], *, rows: int, columns: int
) -> list[list[int]]:
    """Group requests into tiles of at most `rows` rows and about `columns` own tokens (prompt and new) in all.

    Requests of one tile name (a task) come together, longest first, so that rows of a tile are about equally long.
    """
    order = sorted(range(len(requests)), key=lambda i: (tiles[i], -_size(requests[i]), requests[i].prompt_ids, i))
    groups: list[list[int]] = []
    room = 0
    for i in order:
        if not groups or len(groups[-1]) >= rows or _size(requests[i]) > room or tiles[groups[-1][0]] != tiles[i]:
            groups.append([])
            room = columns
        groups[-1].append(i)
        room -= _size(requests[groups[-1][0]])
    return groups


def _size(request: GenerateRequest) -> int:
    return len(request.prompt_ids) + request.max_new_tokens


class RowCache(PathCache):
    """Keys and values of a tile: a common stem and each row's own columns, filled while the prompts are read."""

    def __init__(self, *, path: int, prompts: Sequence[tuple[int, ...]], stem: int, columns: int) -> None:
        super().__init__(max(1, path))
        self.stem, self.columns, self.rows = stem, columns, len(prompts)
        self.lengths = torch.tensor([len(p) - stem for p in prompts])
        self.stem_keys: dict[int, Tensor] = {}
        self.stem_values: dict[int, Tensor] = {}
        self.own_keys: dict[int, Tensor] = {}
        self.own_values: dict[int, Tensor] = {}

    def write(self, layer: int, key_KTD: Tensor, value_KTD: Tensor, batch: Batch) -> None:
        """Besides the path of later batches, keep the stem and every row's own tokens."""
        super().write(layer, key_KTD, value_KTD, batch)
        kinds = ((self.stem_keys, self.own_keys, key_KTD), (self.stem_values, self.own_values, value_KTD))
        offsets, rows, columns = _own_tokens(batch, self.stem)
        shared = np.flatnonzero(batch.positions < self.stem)
        for stems, owns, new_KTD in kinds:
            kv, _, size = new_KTD.shape
            if layer not in owns:
                stems[layer] = new_KTD.new_zeros(kv, self.stem, size)
                owns[layer] = new_KTD.new_zeros(self.rows, kv, self.columns, size)
            stems[layer][:, batch.positions[shared]] = new_KTD[:, shared]
            owns[layer][rows, :, columns] = new_KTD[:, offsets].transpose(0, 1)

    def append(self, layer: int, key_KBD: Tensor, value_KBD: Tensor) -> None:
        """One new token for every row."""
        rows = torch.arange(self.rows, device=key_KBD.device)
        self.own_keys[layer][rows, :, self.lengths] = key_KBD.transpose(0, 1)
        self.own_values[layer][rows, :, self.lengths] = value_KBD.transpose(0, 1)

    def drop_rows(self, kept: Tensor) -> None:
        """Go on with these rows only."""
        self.lengths, self.rows = self.lengths[kept], len(kept)
        used = int(self.lengths.max()) + 1
        for owns in (self.own_keys, self.own_values):
            for layer, own in owns.items():
                fresh = own.new_zeros(len(kept), *own.shape[1:])
                fresh[:, :, :used] = own[kept, :, :used]
                owns[layer] = fresh


def _own_tokens(batch: Batch, stem: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(batch offsets, rows, columns) of the tokens behind the stem; see `_plan_prompts` for the places."""
    depths = batch.targets[:, 3] + max(stem, 1) - 1
    own = batch.targets[depths >= stem]
    return batch.rows[own[:, 0]], own[:, 2], own[:, 3] + max(stem, 1) - 1 - stem


def _plan_prompts(prompts: Sequence[tuple[int, ...]], stem: int, budget: int, path_limit: int) -> Plan:
    """A prefix tree of the prompts in which every token behind the stem is a scored one, so that its place is known."""
    split = max(stem, 1)
    return plan_requests([(p[:split], (*p[split:], 0)) for p in prompts], budget=budget, path_limit=path_limit)


class StepState:
    """The attention of one step: every row has one new token."""

    def __init__(self, cache: RowCache, device: torch.device) -> None:
        self.cache = cache
        self.used = int(cache.lengths.max()) + 1
        self.positions = cache.lengths + cache.stem
        self._columns = torch.arange(self.used, device=device)
        self._bias: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._stem_seen: dict[int | None, Tensor | None] = {None: None}

    def attend(
        self, layer: int, q_1HBD: Tensor, k_KBD: Tensor, v_KBD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention output [1, B, H, D]."""
        heads, kv, rows = q_1HBD.shape[1], k_KBD.shape[0], q_1HBD.shape[2]
        window = window if window is not None and window <= int(self.positions.max()) else None
        self.cache.append(layer, k_KBD, v_KBD)
        q_KGBD = q_1HBD[0].reshape(kv, heads // kv, rows, -1)
        own_k = self.cache.own_keys[layer][:, :, : self.used]
        own_v = self.cache.own_values[layer][:, :, : self.used]
        o, m = run_kernel(
            q_KGBD.permute(2, 0, 1, 3), own_k, own_v, scale, self._own_bias(window, q_1HBD.dtype), causal=False
        )
        out, lse = o.permute(1, 2, 0, 3).float(), m.permute(1, 2, 0).clone()
        if self.cache.stem:
            k, v = self.cache.stem_keys[layer], self.cache.stem_values[layer]
            merge_parts(out, lse, *attend_stretch(q_KGBD, k, v, scale, self._seen(window)))
        return out.to(q_1HBD.dtype).reshape(heads, rows, -1).transpose(0, 1).unsqueeze(0)

    def _own_bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask [B, 1, 1, C]: a row sees its own columns, its new token included."""
        if (window, dtype) not in self._bias:
            hidden = self._columns[None, :] > self.cache.lengths[:, None]
            if window is not None:
                hidden |= self.cache.lengths[:, None] - self._columns[None, :] >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)
            self._bias[window, dtype] = bias[:, None, None, :]
        return self._bias[window, dtype]

    def _seen(self, window: int | None) -> Tensor | None:
        """bool [B, stem]: which of the stem a row still sees through a sliding window."""
        if window not in self._stem_seen:
            at = torch.arange(self.cache.stem, device=self.positions.device)
            self._stem_seen[window] = self.positions[:, None] - at[None, :] < (window or 0)
        return self._stem_seen[window]


@dataclass(slots=True)
class _Row:
    """A prompt that is being continued."""

    index: int
    request: GenerateRequest
    stream: TextStream
    rng: np.random.Generator
    tokens: int = 0

    def choose(self, logits_V: Tensor) -> int:
        """Sample the next token: temperature, then top-k, then top-p, by the inverse of the distribution function."""
        r = self.request
        values, order = torch.sort(logits_V.double() / r.temperature, descending=True, stable=True)
        if r.top_k:
            values, order = values[: r.top_k], order[: r.top_k]
        share = values.softmax(-1)
        if r.top_p < 1.0:
            # the smallest set whose mass reaches top_p
            kept = int((share.cumsum(-1) - share < r.top_p).sum())
            share, order = share[:kept] / share[:kept].sum(), order[:kept]
        at = int(
            torch.searchsorted(
                share.cumsum(-1), torch.tensor(self.rng.random(), dtype=share.dtype, device=share.device)
            )
        )
        return int(order[min(at, len(order) - 1)])


@dataclass(kw_only=True, slots=True)
class Decoder:
    """Decodes tiles of prompts with one model."""

    model: CausalModel
    tokenizer: Any
    batch_tokens: int
    path_limit: int
    eos: frozenset[int] = field(default_factory=frozenset)

    @torch.inference_mode()
    def _read(self, prompts: Sequence[tuple[int, ...]], new: int) -> tuple[RowCache, Tensor, int]:
        """Compute the prompts: cache, last hidden state [B, d] of each, tokens computed."""
        stem = min(_common_prefix(prompts), min(len(p) for p in prompts) - 1)
        stem = stem if stem >= STEM and len(prompts) > 1 else 0
        plan = _plan_prompts(prompts, stem, self.batch_tokens, self.path_limit)
        columns = max(len(p) for p in prompts) - stem + new
        cache = RowCache(path=plan.path_length, prompts=prompts, stem=stem, columns=columns)
        cache.lengths = cache.lengths.to(self.model.device)
        last: list[Tensor | None] = [None] * len(prompts)
        for batch in plan.batches:
            hidden = self.model.tree_hidden(batch, cache)
            for row, _, r, place in batch.targets:
                if place == len(prompts[r]) - max(stem, 1):
                    last[r] = hidden[int(batch.rows[row])]
        return cache, torch.stack([h for h in last if h is not None]), plan.tokens

    @torch.inference_mode()
    def _step(self, tokens_B: list[int], cache: RowCache) -> Tensor:
        """Hidden states [B, d] after one more token of every row."""
        device = self.model.device
        state = StepState(cache, device)
        hidden = self.model.hidden(torch.tensor(tokens_B, device=device), state.positions, state)
        cache.lengths = cache.lengths + 1
        return hidden

    @torch.inference_mode()
    def _next(self, rows: Sequence[_Row], hidden_BD: Tensor) -> list[int]:
        tokens: list[int] = []
        for start in range(0, len(rows), 128):
            logits = self.model.head(hidden_BD[start : start + 128])
            for i, best in enumerate(logits.argmax(-1).tolist()):
                row = rows[start + i]
                tokens.append(best if row.request.temperature == 0 else row.choose(logits[i]))
        return tokens

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[Piece]:
        """Decode one tile; yields text as it is certain, and each row's Generation with its last piece."""
        rows = [
            _Row(i, r, TextStream(self.tokenizer, r.stop), np.random.default_rng(r.seed))
            for i, r in enumerate(requests)
        ]
        cache, hidden, _ = self._read([r.prompt_ids for r in requests], max(r.max_new_tokens for r in requests))
        while rows:
            tokens = self._next(rows, hidden)
            alive: list[int] = []
            for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                row.tokens += 1
                ended = token in self.eos
                text = "" if ended else row.stream.push(token)
                ended = ended or row.stream.stopped
                if ended or row.tokens >= row.request.max_new_tokens:
                    text += row.stream.finish()
                    ended = ended or row.stream.stopped
                    done = Generation(text=row.stream.text, tokens=row.tokens, finish="stop" if ended else "length")
                    yield Piece(row.index, text, done)
                else:
                    alive.append(i)
                    if text:
                        yield Piece(row.index, text)
            if not alive:
                return
            if len(alive) < len(rows):
                cache.drop_rows(torch.tensor(alive, device=self.model.device))
                rows, tokens = [rows[i] for i in alive], [tokens[i] for i in alive]
            hidden = self._step(tokens, cache)


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Length of the prefix that all prompts share."""
    low, high = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


@torch.inference_mode()
def generate_plainly(model: CausalModel, tokenizer: Any, requests: Sequence[GenerateRequest]) -> Iterator[Piece]:
    """One prompt after the other through the model's own `generate`, for architectures without prefix sharing."""
    for index, request in enumerate(requests):
        prompt = torch.tensor([request.prompt_ids], device=model.device)
        sampled = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        with model.attention(model.standard_attention), torch.random.fork_rng():
            torch.manual_seed(request.seed)
            out = model.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request.max_new_tokens,
                do_sample=request.temperature > 0,
                pad_token_id=0,
                **(sampled if request.temperature > 0 else {}),
                **({"stop_strings": list(request.stop), "tokenizer": tokenizer} if request.stop else {}),
            )
        stream, ended, count = TextStream(tokenizer, request.stop), False, 0
        for token in out[0, prompt.shape[1] :].tolist():
            count += 1
            ended = token in model.end_tokens or token == tokenizer.eos_token_id
            if not ended:
                stream.push(token)
            if ended or stream.stopped:
                break
        stream.finish()
        finish = "stop" if ended or stream.stopped else "length"
        yield Piece(index, stream.text, Generation(text=stream.text, tokens=count, finish=finish))
