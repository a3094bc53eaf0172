"""LoRA by PEFT: adapters put on, saved beside the merged weights, loaded again; and whether they can hold the data.

A checkpoint of an adapter run is a whole model like any other: `model.safetensors` holds the start with the adapters
merged in, so that transformers, vLLM and `workbench eval` load it as it is. The adapters themselves lie in `adapter/`.
"""

import copy
from pathlib import Path
from typing import Any

import torch

from training.options import LORA_TOKENS_PER_WEIGHT, Lora
from workbench.errors import ConfigError

FOLDER = "adapter"
"""In a checkpoint: not beside `config.json`, where transformers would put them onto the merged weights once more."""

WEIGHTS = "adapter_model.safetensors"
"""As PEFT names it."""


def add_adapters(model: Any, options: Lora, *, seed: int) -> Any:
    """The model with adapters, whose weights alone are trained.

    Raises ConfigError: targets that name no module.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # an int by its annotation, divided as a number
        lora_dropout=options.dropout,
        target_modules=options.targets if isinstance(options.targets, str) else list(options.targets),
        init_lora_weights=True if options.init == "default" else options.init,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"lora.targets: {str(error).splitlines()[0]}") from None


def has_adapters(model: Any) -> bool:
    """Whether PEFT's adapters are on it."""
    return hasattr(model, "peft_config")


def save_merged(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Write the adapters, and the model as if it had never had them.

    `state_dict`: of the whole model with its adapters, where the model's own is sharded over processes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapter = get_peft_model_state_dict(model, state_dict=state_dict)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous().cpu() for name, value in adapter.items()}
    save_file(tensors, folder / FOLDER / WEIGHTS)
    config = copy.copy(model.peft_config[model.active_adapters[0]])
    config.inference_mode = True
    config.save_pretrained(folder / FOLDER)
    base = model.get_base_model()
    base.save_pretrained(folder, state_dict=_merged(base, state_dict, prefix="base_model.model."))


def load_adapters(model: Any, folder: Path) -> None:
    """Take up what `save_merged` wrote, into a model whose adapters were put on in the same way."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / FOLDER / WEIGHTS))


def _merged(base: Any, state: dict[str, Any] | None, *, prefix: str) -> dict[str, Any]:
    """State of the plain model: W + (alpha / rank) B A, in float32, without touching what is trained."""
    own = base.state_dict() if state is None else {k.removeprefix(prefix): v for k, v in state.items()}
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "lora_A")}
    merged: dict[str, Any] = {}
    for name, value in own.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer in layers:
            (adapter,) = layers[layer].scaling
            a, b = (own[f"{layer}.{part}.{adapter}.weight"].float() for part in ("lora_A", "lora_B"))
            update = layers[layer].scaling[adapter] * (b @ a)
            value = (value.float() + (update.T if layers[layer].fan_in_fan_out else update)).to(value.dtype)
        merged[name.replace(".base_layer.", ".")] = value
    return merged


def capacity_advice(options: Lora, config: Any, tokens: int) -> str | None:
    """Advice where adapters are given more than they can hold; None where they can.

    Args:
        config: the start's, with hidden_size, num_hidden_layers and intermediate_size.
        tokens: loss-bearing tokens of the run.
    """
    weights = options.rank * rank_weights(config)
    if not weights or tokens <= LORA_TOKENS_PER_WEIGHT * weights:
        return None
    enough = -(-tokens // int(LORA_TOKENS_PER_WEIGHT * rank_weights(config)))
    return (
        f"lora: {tokens:,} tokens that carry loss are more than about {weights:,} trained weights hold, and they will "
        f"learn less than all weights would; leave out lora, or set lora.rank to {enough} or more"
    )


def rank_weights(config: Any) -> int:
    """Weights that one more rank adds on all linear layers of a gated transformer; 0 where the config does not say."""
    sizes = [getattr(config, name, None) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")]
    if not all(sizes):
        return 0
    hidden, inner, layers = (int(size) for size in sizes if size)
    heads = int(getattr(config, "num_attention_heads", 1))
    kv = hidden * int(getattr(config, "num_key_value_heads", heads) or heads) // heads
    attention = 2 * (hidden + hidden) + 2 * (hidden + kv)  # q and o; k and v
    return layers * (attention + 3 * (hidden + inner))
