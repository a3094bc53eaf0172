"""A causal language model of transformers, taken apart into trunk and head. Knows tensors; no request, no tokenizer.

The trunk runs in the arithmetic type of the engine; the head is applied only where it is asked for, in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.engines import tree_attention
from workbench.engines.convert import quiet_transformers
from workbench.engines.device import Precision, compute_dtype, matmul_rate
from workbench.engines.prefix_tree import BLOCK, CARRY, Batch
from workbench.errors import CheckpointError

HEAD_BLOCK_BYTES = 32 << 20
"""Float32 logits that are held at once; small enough for a CPU's last-level cache."""
_LAYERS_KNOWN = {"full_attention", "sliding_attention"}
_ROPE_BY_LENGTH = {"dynamic", "longrope"}
"""Rotary scalings that depend on the longest sequence of a batch, so a packed batch would change the numbers."""


class CausalModel:
    """Weights in memory, ready to give hidden states and log-probabilities."""

    def __init__(self, model: nn.Module, *, device: torch.device, weights: str, arithmetic: str) -> None:
        self.model: Any = model.eval().to(device)
        self.device = device
        self.weights, self.arithmetic = weights, arithmetic
        self.config: Any = self.model.config.get_text_config()
        self.standard_attention: str = self.model.config._attn_implementation
        head = self.model.get_output_embeddings()
        self.head_weight: Tensor = head.weight.float()
        self.head_bias: Tensor | None = head.bias.float() if getattr(head, "bias", None) is not None else None
        self.layers = int(self.config.num_hidden_layers)
        self.linear_parameters = _linear_parameters(self.model.base_model)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: torch.device,
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> "CausalModel":
        """Load safetensors from a folder. Raises CheckpointError where the folder holds no causal language model."""
        from transformers import AutoModelForCausalLM

        weights, arithmetic = compute_dtype(precision, device)
        with quiet_transformers():
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    str(folder),
                    dtype=getattr(torch, weights),
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=trust_remote_code,
                )
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise CheckpointError(f"{folder}: cannot be loaded as a causal language model: {reason}") from None
        if arithmetic != weights:
            model = model.to(getattr(torch, arithmetic))
        return cls(model, device=device, weights=weights, arithmetic=arithmetic)

    @property
    def max_length(self) -> int:
        """Tokens that fit the window; 2048 where the config does not say, as in lm-eval."""
        for name in ("n_positions", "max_position_embeddings", "n_ctx"):
            length = getattr(self.config, name, None)
            if length:
                return int(length)
        return 2048

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a generation, as the model's generation config says."""
        end = getattr(self.model.generation_config, "eos_token_id", None)
        return frozenset([end] if isinstance(end, int) else end or ())

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids must be below."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def path_bytes(self) -> int:
        """Bytes of keys and values per token of a stored path, over all layers."""
        queries = getattr(self.config, "num_attention_heads", None) or 1
        heads = getattr(self.config, "num_key_value_heads", None) or queries
        size = getattr(self.config, "head_dim", None) or self.config.hidden_size // queries
        return 2 * self.layers * int(heads) * int(size) * getattr(torch, self.arithmetic).itemsize

    def why_no_tree(self) -> str | None:
        """Why this architecture cannot share prefixes, as far as its config tells; None if it seems to."""
        if not getattr(self.model, "_supports_attention_backend", False) or self.model.base_model is self.model:
            return f"{type(self.model).__name__} does not let its attention be replaced"
        strange = set(getattr(self.config, "layer_types", None) or ()) - _LAYERS_KNOWN
        if strange:
            return f"layers of type {', '.join(sorted(strange))}"
        rope = getattr(self.config, "rope_parameters", None) or getattr(self.config, "rope_scaling", None) or {}
        kinds = {str(r.get("rope_type", "")) for r in (rope, *rope.values()) if isinstance(r, dict)}
        if kinds & _ROPE_BY_LENGTH:
            return f"rotary scaling {', '.join(sorted(kinds & _ROPE_BY_LENGTH))} depends on the batch"
        return None

    @contextmanager
    def attention(self, name: str) -> Iterator[None]:
        """Within this block the model uses the named attention."""
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)
        try:
            yield
        finally:
            if self.model.config._attn_implementation != self.standard_attention:
                self.model.set_attn_implementation(self.standard_attention)

    @torch.inference_mode()
    def tree_hidden(
        self, batch: Batch, cache: tree_attention.PathCache, *, block: int = BLOCK, carry: int = CARRY
    ) -> Tensor:
        """Hidden states [T, d] of one packed batch of a prefix tree; `cache` is read and then extended."""
        state = tree_attention.TreeState(batch, cache, self.device, block=block, carry=carry)
        return self.hidden(torch.from_numpy(batch.tokens).to(self.device), state.positions, state)

    @torch.inference_mode()
    def hidden(self, tokens_T: Tensor, positions_T: Tensor, state: tree_attention.State) -> Tensor:
        """Hidden states [T, d] of packed tokens that see what `state` lets them see."""
        with self.attention(tree_attention.NAME), tree_attention.active(state):
            out = self.model.base_model(
                input_ids=tokens_T[None], position_ids=positions_T[None], use_cache=False, return_dict=True
            )
        return out.last_hidden_state[0]

    @torch.inference_mode()
    def plain_logits(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The model's own logits [B, T, V] in float32, right-padded, no sharing, its own attention and head."""
        with self.attention(self.standard_attention):
            out = self.model(
                input_ids=tokens_BT.to(self.device), attention_mask=mask_BT.to(self.device), use_cache=False
            )
        return out.logits.float()

    @torch.inference_mode()
    def plain_hidden(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The trunk's last hidden states [B, T, d] in float32, right-padded, with its own attention."""
        with self.attention(self.standard_attention):
            out = self.model.base_model(
                input_ids=tokens_BT.to(self.device),
                attention_mask=mask_BT.to(self.device),
                use_cache=False,
                return_dict=True,
            )
        return out.last_hidden_state.float()

    @torch.inference_mode()
    def head(self, hidden_SD: Tensor) -> Tensor:
        """Float32 logits [S, V] of hidden states."""
        logits = nn.functional.linear(hidden_SD.float(), self.head_weight, self.head_bias)
        if getattr(self.config, "logits_scaling", None):  # Granite
            logits = logits / self.config.logits_scaling
        if getattr(self.config, "logit_scale", None):  # Cohere
            logits = logits * self.config.logit_scale
        cap = getattr(self.config, "final_logit_softcapping", None)  # Gemma 2
        return torch.tanh(logits / cap) * cap if cap else logits

    @torch.inference_mode()
    def log_probabilities(self, hidden_SD: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability float32 [R] and is-greedy bool [R] of `tokens` at `rows` of the hidden states.

        `rows` (int64 [R], ascending) may repeat. The head is applied in blocks, so no [S, V] tensor exists.
        """
        step = max(16, HEAD_BLOCK_BYTES // (4 * self.head_weight.shape[0]))
        logprobs = torch.empty(len(rows), dtype=torch.float32, device=self.device)
        greedy = torch.empty(len(rows), dtype=torch.bool, device=self.device)
        for start in range(0, len(hidden_SD), step):
            logits = self.head(hidden_SD[start : start + step])
            first, last = torch.searchsorted(
                rows, torch.tensor([start, start + len(logits)], device=self.device)
            ).tolist()
            at, wanted = rows[first:last] - start, tokens[first:last]
            best = logits.argmax(-1)
            total = (logits - logits.gather(1, best[:, None])).exp_().sum(-1).log_() + logits.gather(1, best[:, None])[
                :, 0
            ]
            logprobs[first:last] = logits[at, wanted] - total[at]
            greedy[first:last] = best[at] == wanted
        return logprobs, greedy

    def limit_seconds(self, *, tokens: int, rows: int, depth_sum: int, batch_tokens: int) -> float:
        """Seconds this work takes at the matrix-product rate measured here and now, with nothing else to do.

        FLOPs: 2 per linear parameter and token, 2 d V per scored row, 4 L (H D) per token and key it sees.
        """
        width = int(self.config.hidden_size)
        inner = int(getattr(self.config, "intermediate_size", None) or 4 * width)
        rate = matmul_rate(self.arithmetic, min(batch_tokens, 4096), width, inner, str(self.device))
        attended = 4 * self.layers * width * depth_sum
        return (2 * self.linear_parameters * tokens + 2 * self.head_weight.numel() * rows + attended) / rate


def _linear_parameters(trunk: nn.Module) -> int:
    """Weights that multiply each token: all matrices of the trunk but the embeddings."""
    embeddings = {id(p) for m in trunk.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return sum(p.numel() for p in trunk.parameters() if p.ndim >= 2 and id(p) not in embeddings)
