"""One forward pass over answers at different places: prompts being read beside answers that grow by a token each.

Answers that grow lie side by side in one block of keys and values, so that a step attends for all of them in one
kernel; a prompt that is being read has keys and values of its own until its last token is read. Knows a CausalModel
and token ids; knows no text, no sampling, no clock.

Legend as in tree_attention; B rows that grow, C columns (places) of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.engines.causal_model import CausalModel
from workbench.engines.tree_attention import attend_stretch, merge_parts, run_kernel

COLUMNS = 128
"""Columns are added in steps of this many."""


@dataclass(eq=False, slots=True)
class Reading:
    """A prompt of which `done` tokens are read; its keys and values by layer, [K, P, D]."""

    prompt: tuple[int, ...]
    done: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    past: Any = None
    """Where the model keeps keys and values itself."""

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self.prompt) - self.done


class Stepper(Protocol):
    """What computes the steps of a batch."""

    rows: int

    def step(self, tokens: Sequence[int], reads: Sequence[tuple[Reading, int]]) -> Tensor:
        """Logits float32: a row per growing answer (`tokens`: its last one), then one per read prompt part.

        `reads` names prompts and how many of their next tokens are read now; the logits belong to the part's last.
        """
        ...

    def add(self, reading: Reading) -> None:
        """A prompt that is read becomes the last growing row."""
        ...

    def drop(self, row: int) -> None:
        """A row ends; the last row takes its place."""
        ...


class SlotStepper:
    """Steps with the attention of tree_attention: one pass for all rows and prompt parts."""

    def __init__(self, model: CausalModel) -> None:
        self.model = model
        self.rows = 0
        self.lengths: list[int] = []
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], reads: Sequence[tuple[Reading, int]]) -> Tensor:
        """As in Stepper."""
        device = self.model.device
        ids, positions, ends = list(tokens), list(self.lengths), list(range(len(tokens)))
        for reading, size in reads:
            ids += reading.prompt[reading.done : reading.done + size]
            positions += range(reading.done, reading.done + size)
            ends.append(len(ids) - 1)
        self._make_room(max(self.lengths, default=0) + 1)
        state = _State(self, reads, torch.tensor(positions, device=device))
        hidden = self.model.hidden(torch.tensor(ids, device=device), state.positions, state)
        for row in range(self.rows):
            self.lengths[row] += 1
        for reading, size in reads:
            reading.done += size
        return self.model.head(hidden[torch.tensor(ends, device=device)])

    @torch.inference_mode()
    def add(self, reading: Reading) -> None:
        """As in Stepper."""
        size = len(reading.prompt)
        self._make_room(size + 1, rows=self.rows + 1)
        for own, read in ((self._keys, reading.keys), (self._values, reading.values)):
            for layer, part in read.items():
                if layer not in own:
                    own[layer] = part.new_zeros(self.rows + 1, part.shape[0], _rounded(size + 1), part.shape[2])
                own[layer][self.rows, :, :size] = part[:, :size]
        self.lengths.append(size)
        self.rows += 1

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """As in Stepper."""
        last = self.rows - 1
        if row != last:
            used = self.lengths[last]
            for own in (self._keys, self._values):
                for block in own.values():
                    block[row, :, :used] = block[last, :, :used]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.rows = last
        if not last:  # an idle server holds no memory of its busiest hour
            self._keys, self._values = {}, {}

    def _make_room(self, columns: int, rows: int | None = None) -> None:
        """Let the blocks hold so many columns and rows; what is there is copied."""
        rows = rows or self.rows
        for own in (self._keys, self._values):
            for layer, block in own.items():
                if block.shape[0] < rows or block.shape[2] < columns:
                    size = max(block.shape[0], _next_power(rows)), max(block.shape[2], _rounded(columns))
                    fresh = block.new_zeros(size[0], block.shape[1], size[1], block.shape[3])
                    fresh[: block.shape[0], :, : block.shape[2]] = block
                    own[layer] = fresh


class _State:
    """The attention of one step; see tree_attention.State."""

    def __init__(self, slots: SlotStepper, reads: Sequence[tuple[Reading, int]], positions: Tensor) -> None:
        self.slots, self.reads, self.positions = slots, reads, positions
        self.used = max(slots.lengths, default=0) + 1
        self.deepest = int(positions.max())
        device = positions.device
        self._at = torch.arange(slots.rows, device=device)
        self._lengths = torch.tensor(slots.lengths, dtype=torch.long, device=device)
        self._columns = torch.arange(self.used, device=device)
        self._bias: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(
        self, layer: int, q_1HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention output [1, T, H, D]."""
        heads, kv, rows = q_1HTD.shape[1], k_KTD.shape[0], self.slots.rows
        window = window if window is not None and window <= self.deepest else None
        q_KGTD = q_1HTD[0].reshape(kv, heads // kv, q_1HTD.shape[2], -1)
        out = q_KGTD.new_empty(*q_KGTD.shape[:3], v_KTD.shape[2])
        if rows:
            out[:, :, :rows] = self._grow(layer, q_KGTD[:, :, :rows], k_KTD, v_KTD, scale, window)
        start = rows
        for reading, size in self.reads:
            part = slice(start, start + size)
            out[:, :, part] = self._read(
                layer, reading, q_KGTD[:, :, part], k_KTD[:, part], v_KTD[:, part], scale, window
            )
            start += size
        return out.reshape(heads, q_1HTD.shape[2], -1).transpose(0, 1).unsqueeze(0)

    def _grow(
        self, layer: int, q_KGBD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        rows = self.slots.rows
        keys, values = self.slots._keys[layer], self.slots._values[layer]
        keys[self._at, :, self._lengths] = k_KTD[:, :rows].transpose(0, 1)
        values[self._at, :, self._lengths] = v_KTD[:, :rows].transpose(0, 1)
        o, _ = run_kernel(
            q_KGBD.permute(2, 0, 1, 3),
            keys[:rows, :, : self.used],
            values[:rows, :, : self.used],
            scale,
            self._row_bias(window, q_KGBD.dtype),
            causal=False,
        )
        return o.permute(1, 2, 0, 3)

    def _read(
        self,
        layer: int,
        reading: Reading,
        q_KGQD: Tensor,
        k_KQD: Tensor,
        v_KQD: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        done, size = reading.done, k_KQD.shape[1]
        if layer not in reading.keys:
            reading.keys[layer] = k_KQD.new_empty(k_KQD.shape[0], len(reading.prompt), k_KQD.shape[2])
            reading.values[layer] = v_KQD.new_empty(v_KQD.shape[0], len(reading.prompt), v_KQD.shape[2])
        reading.keys[layer][:, done : done + size] = k_KQD
        reading.values[layer][:, done : done + size] = v_KQD
        if window is not None:
            at = torch.arange(done + size, device=k_KQD.device)
            distance = at[done:, None] - at[None, :]
            keys, values = reading.keys[layer][:, : done + size], reading.values[layer][:, : done + size]
            return attend_stretch(q_KGQD, keys, values, scale, (distance >= 0) & (distance < window))[0]
        out, lse = attend_stretch(q_KGQD, k_KQD, v_KQD, scale, None, causal=True)
        if not done:
            return out
        out, lse = out.float(), lse.clone()
        stored = reading.keys[layer][:, :done], reading.values[layer][:, :done]
        merge_parts(out, lse, *attend_stretch(q_KGQD, *stored, scale, None))
        return out.to(q_KGQD.dtype)

    def _row_bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask [B, 1, 1, C]: a row sees its own columns, its new token included."""
        if (window, dtype) not in self._bias:
            hidden = self._columns[None, :] > self._lengths[:, None]
            if window is not None:
                hidden |= self._lengths[:, None] - self._columns[None, :] >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)
            self._bias[window, dtype] = bias[:, None, None, :]
        return self._bias[window, dtype]


class PlainStepper:
    """One row after the other through the model's own attention: for architectures whose attention is not ours."""

    def __init__(self, model: CausalModel) -> None:
        self.model = model
        self.rows = 0
        self._pasts: list[Any] = []

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], reads: Sequence[tuple[Reading, int]]) -> Tensor:
        """As in Stepper."""
        logits: list[Tensor] = []
        for row, token in enumerate(tokens):
            one, self._pasts[row] = self._pass([token], self._pasts[row])
            logits.append(one)
        for reading, size in reads:
            one, reading.past = self._pass(reading.prompt[reading.done : reading.done + size], reading.past)
            reading.done += size
            logits.append(one)
        return torch.stack(logits)

    def add(self, reading: Reading) -> None:
        """As in Stepper."""
        self._pasts.append(reading.past)
        self.rows += 1

    def drop(self, row: int) -> None:
        """As in Stepper."""
        self._pasts[row] = self._pasts[-1]
        self._pasts.pop()
        self.rows -= 1

    def _pass(self, tokens: Sequence[int], past: Any) -> tuple[Tensor, Any]:
        ids = torch.tensor([list(tokens)], device=self.model.device)
        with self.model.attention(self.model.standard_attention):
            out = self.model.model(input_ids=ids, past_key_values=past, use_cache=True)
        return out.logits[0, -1].float(), out.past_key_values


def _rounded(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS


def _next_power(rows: int) -> int:
    return 1 << (rows - 1).bit_length()
