"""Attention over one packed batch of a prefix tree, plugged into any transformers model.

Registered as an attention implementation, so the model's own code does projections, rotary embedding and everything
else; only softmax(QK')V is ours. Knows tensors and a `prefix_tree.Batch`; knows no request and no tokenizer.

Legend: H query heads, K key/value heads, G = H/K, T tokens of the batch, D head size, P length of the stored path.
"""

import contextvars
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from workbench.engines.prefix_tree import BLOCK, CARRY, Batch, Block, Parts, divide_attention

NAME = "workbench_prefix_tree"
_active: "contextvars.ContextVar[State | None]" = contextvars.ContextVar("workbench_tree", default=None)


class State(Protocol):
    """What decides which keys a query sees, in the forward pass that is under way."""

    def attend(
        self, layer: int, q_1HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None, /
    ) -> Tensor:
        """Attention output [1, T, H, D]; `window` is the layer's sliding window in tokens."""
        ...


@contextmanager
def active(state: State) -> Iterator[None]:
    """Within this block, the attention of models that use ours follows `state`."""
    token = _active.set(state)
    try:
        yield
    finally:
        _active.reset(token)


class UnsupportedArchitectureError(Exception):
    """The model's attention does something that the tree does not know; the caller falls back to plain batches."""


class PathCache:
    """Keys and values of the open path, per layer: [K, P, D] with room for `length` tokens, indexed by depth."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def write(self, layer: int, key_KTD: Tensor, value_KTD: Tensor, batch: Batch) -> None:
        """Keep what later batches need of this one."""
        if not batch.keep:
            return
        if layer not in self.keys:
            self.keys[layer] = key_KTD.new_zeros(key_KTD.shape[0], self.length, key_KTD.shape[2])
            self.values[layer] = value_KTD.new_zeros(value_KTD.shape[0], self.length, value_KTD.shape[2])
        for depth, offset, length in batch.keep:
            self.keys[layer][:, depth : depth + length] = key_KTD[:, offset : offset + length]
            self.values[layer][:, depth : depth + length] = value_KTD[:, offset : offset + length]


@dataclass(slots=True)
class _Bucket:
    """Blocks of about the same size, padded to one shape: B blocks, Q queries, S keys."""

    queries: Tensor
    """int64 [B, Q] batch offsets (padding repeats offset 0 of the block)"""
    keys: Tensor
    """int64 [B, S] into stored path (first `carried`) + batch"""
    mask_BQS: Tensor
    """bool"""
    where: Tensor
    """int64 [N] flat indices of the real queries within [B * Q]"""
    target: Tensor
    """int64 [N] their batch offsets"""
    bias: dict[tuple[int | None, torch.dtype, int], Tensor] = field(default_factory=dict)


class TreeState:
    """What the attention of one batch needs at every layer, prepared once."""

    def __init__(
        self, batch: Batch, cache: PathCache, device: torch.device, *, block: int = BLOCK, carry: int = CARRY
    ) -> None:
        self.batch, self.cache = batch, cache
        self.parts = divide_attention(batch.pieces, block=block, carry=carry)
        self.positions = torch.from_numpy(batch.positions).to(device)
        self.carried = max(0, *(int(-b.keys.min()) for b in self.parts.blocks), 0)
        self.buckets = [_bucket(blocks, self.carried, device) for blocks in _by_size(self.parts)]
        self.deepest = int(batch.positions.max())
        self.key_positions = torch.cat([torch.arange(self.carried, device=device), self.positions])

    def attend(
        self, layer: int, q_1HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention output [1, T, H, D]."""
        heads, kv = q_1HTD.shape[1], k_KTD.shape[0]
        window = window if window is not None and window <= self.deepest else None
        q_KGTD = q_1HTD[0].reshape(kv, heads // kv, *q_1HTD.shape[2:])
        out = q_KGTD.new_zeros(kv, heads // kv, q_KGTD.shape[2], v_KTD.shape[2], dtype=torch.float32)
        lse = torch.full(out.shape[:3], -math.inf, dtype=torch.float32, device=out.device)
        self._blocks(layer, q_KGTD, k_KTD, v_KTD, scale, window, out, lse)
        for start, end in self.parts.runs:
            part = q_KGTD[:, :, start:end]
            bias = self._window_bias(start, end, self.positions[start:end], window, causal=True)
            o, m = attend_stretch(part, k_KTD[:, start:end], v_KTD[:, start:end], scale, bias, causal=bias is None)
            out[:, :, start:end], lse[:, :, start:end] = o, m
        for span in self.parts.spans:
            if span.stored:
                k, v = self.cache.keys[layer], self.cache.values[layer]
                k, v = k[:, : span.keys_end], v[:, : span.keys_end]
                at = torch.arange(span.keys_end, device=out.device)
            else:
                k, v = k_KTD[:, span.keys : span.keys_end], v_KTD[:, span.keys : span.keys_end]
                at = self.positions[span.keys : span.keys_end]
            part = slice(span.start, span.end)
            bias = self._window_bias(span.start, span.end, at, window, causal=False)
            o, m = attend_stretch(q_KGTD[:, :, part], k, v, scale, bias)
            merge_parts(out[:, :, part], lse[:, :, part], o, m)
        self.cache.write(layer, k_KTD, v_KTD, self.batch)
        return out.to(q_1HTD.dtype).reshape(heads, *out.shape[2:]).transpose(0, 1).unsqueeze(0)

    def _blocks(
        self,
        layer: int,
        q_KGTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        scale: float,
        window: int | None,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        if self.carried:
            k_KTD = torch.cat([self.cache.keys[layer][:, : self.carried], k_KTD], dim=1)
            v_KTD = torch.cat([self.cache.values[layer][:, : self.carried], v_KTD], dim=1)
        groups = q_KGTD.shape[1]
        for bucket in self.buckets:
            q_KGBQD = q_KGTD[:, :, bucket.queries]
            k_KBSD, v_KBSD = k_KTD[:, bucket.keys], v_KTD[:, bucket.keys]
            size = bucket.queries.shape
            q = q_KGBQD.permute(2, 0, 1, 3, 4).reshape(size[0], len(k_KTD), groups * size[1], -1)
            bias = self._block_bias(bucket, window, q.dtype, groups)
            o, m = run_kernel(q, k_KBSD.transpose(0, 1), v_KBSD.transpose(0, 1), scale, bias, causal=False)
            o = o.reshape(size[0], len(k_KTD), groups, size[1], -1).permute(1, 2, 0, 3, 4).flatten(2, 3)
            m = m.reshape(size[0], len(k_KTD), groups, size[1]).permute(1, 2, 0, 3).flatten(2, 3)
            out[:, :, bucket.target] = o[:, :, bucket.where].float()
            lse[:, :, bucket.target] = m[:, :, bucket.where]

    def _block_bias(self, bucket: _Bucket, window: int | None, dtype: torch.dtype, groups: int) -> Tensor:
        """Additive mask [B, 1, G * Q, S] of a bucket, made once for each window size."""
        if (window, dtype, groups) not in bucket.bias:
            mask = bucket.mask_BQS
            if window is not None:
                distance = self.positions[bucket.queries][:, :, None] - self.key_positions[bucket.keys][:, None, :]
                mask = mask & (distance < window)
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)
            bucket.bias[window, dtype, groups] = bias.repeat(1, groups, 1).unsqueeze(1)
        return bucket.bias[window, dtype, groups]

    def _window_bias(self, start: int, end: int, keys_at: Tensor, window: int | None, *, causal: bool) -> Tensor | None:
        """Boolean mask [Q, S] where a sliding window hides some keys; None where it hides none."""
        if window is None:
            return None
        distance = self.positions[start:end, None] - keys_at[None, :]
        seen = distance < window
        if causal:
            seen &= distance >= 0
        return None if not causal and bool(seen.all()) else seen


def _by_size(parts: Parts) -> Iterator[list[Block]]:
    """Blocks in groups whose padding wastes at most about a quarter."""
    blocks = sorted(parts.blocks, key=lambda b: (len(b.keys), b.end - b.start))
    group: list[Block] = []
    for block in blocks:
        widest = len(block.keys) * max([block.end - block.start, *(b.end - b.start for b in group)])
        if group and widest * (len(group) + 1) > 1.3 * sum(len(b.keys) * (b.end - b.start) for b in [*group, block]):
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _bucket(blocks: list[Block], carried: int, device: torch.device) -> _Bucket:
    """Pad blocks to one shape."""
    q_size = max(b.end - b.start for b in blocks)
    k_size = max(len(b.keys) for b in blocks)
    queries = np.zeros((len(blocks), q_size), np.int64)
    keys = np.zeros((len(blocks), k_size), np.int64)
    mask = np.zeros((len(blocks), q_size, k_size), bool)
    # a padding query sees key 0 and is thrown away: a row without any key would be NaN
    mask[:, :, 0] = True
    for i, b in enumerate(blocks):
        n, m = b.end - b.start, len(b.keys)
        queries[i] = b.start
        queries[i, :n] = np.arange(b.start, b.end)
        keys[i, :m] = np.where(b.keys < 0, -1 - b.keys, b.keys + carried)
        mask[i, :n] = False
        mask[i, :n, :m] = b.mask
    where = np.concatenate([i * q_size + np.arange(b.end - b.start) for i, b in enumerate(blocks)])
    target = np.concatenate([np.arange(b.start, b.end) for b in blocks])
    arrays = (queries, keys, mask, where, target)
    queries_BQ, keys_BS, mask_BQS, kept, targets = (torch.from_numpy(a).to(device) for a in arrays)
    return _Bucket(queries_BQ, keys_BS, mask_BQS, kept, targets)


def attend_stretch(
    q_KGQD: Tensor, k_KSD: Tensor, v_KSD: Tensor, scale: float, seen_QS: Tensor | None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of one stretch of queries to one stretch of keys: output [K, G, Q, D] and log-sum-exp [K, G, Q]."""
    kv, groups, n, _ = q_KGQD.shape
    if causal:
        # the causal kernel needs one row of queries per head
        q = q_KGQD.reshape(1, kv * groups, n, -1)
        k, v = k_KSD.repeat_interleave(groups, 0).unsqueeze(0), v_KSD.repeat_interleave(groups, 0).unsqueeze(0)
        o, m = run_kernel(q, k, v, scale, None, causal=True)
        return o.reshape(kv, groups, n, -1), m.reshape(kv, groups, n)
    bias = None
    if seen_QS is not None:
        bias = torch.zeros(seen_QS.shape, dtype=q_KGQD.dtype, device=q_KGQD.device).masked_fill_(~seen_QS, -math.inf)
        bias = bias.repeat(groups, 1)[None, None]
    o, m = run_kernel(
        q_KGQD.reshape(1, kv, groups * n, -1), k_KSD.unsqueeze(0), v_KSD.unsqueeze(0), scale, bias, causal=False
    )
    o, m = o.reshape(kv, groups, n, -1), m.reshape(kv, groups, n)
    if seen_QS is not None:
        # a query that sees nothing of this stretch has weight 0
        blind = ~seen_QS.any(1)
        o, m = o.masked_fill(blind[None, None, :, None], 0.0), m.masked_fill(blind[None, None], -math.inf)
    return o, m


def run_kernel(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """softmax(q k' scale + bias) v and the log-sum-exp, over [B, heads, rows, D]."""
    if q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
    out, lse = [], []
    step = max(1, (1 << 27) // max(1, q.shape[0] * q.shape[1] * k.shape[2]))  # at most 0.5 GB of float32 scores
    for start in range(0, q.shape[2], step):
        rows = slice(start, start + step)
        scores = (q[:, :, rows] @ k.transpose(-1, -2)).float() * scale
        if bias is not None:
            scores = scores + bias[:, :, rows]
        if causal:
            at = torch.arange(start, start + scores.shape[2], device=q.device)
            scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > at[:, None], -math.inf)
        m = scores.logsumexp(-1)
        out.append((scores - m.unsqueeze(-1)).exp().to(v.dtype) @ v)
        lse.append(m)
    return torch.cat(out, 2), torch.cat(lse, 2)


def merge_parts(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add another stretch of keys to `out` and `lse`, in place: exact, by log-sum-exp."""
    total = torch.logaddexp(lse, more_lse)
    out.mul_((lse - total).exp_().nan_to_num_(0.0).unsqueeze(-1))
    out.add_(more * (more_lse - total).exp_().nan_to_num_(0.0).unsqueeze(-1))
    lse.copy_(total)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The attention interface of transformers: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D]."""
    state = _active.get()
    strange = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if state is None or strange or attention_mask is not None or query.shape[0] != 1:
        raise UnsupportedArchitectureError(f"attention with {', '.join(strange) or 'a mask of its own'}")
    layer = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return state.attend(int(layer), query, key[0], value[0], scale, sliding_window), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, _forward)
