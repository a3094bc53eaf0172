"""The model that a run trains, made of the weights it starts from, and what it minimises. Knows model classes."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from training.adapters import add_adapters, has_adapters
from training.checkpoints import append_line
from training.hooks import Running
from training.objective import NextToken, Objective, StartModel
from training.plan import build_mixer, rows_of
from training.preference import PreferenceLoss, read_reference, reference_logps
from training.recipe import Recipe
from training.rl.loss import PolicyLoss
from training.sources import RowDocuments
from training.stream import collate, tensors, total_rows
from training.trainer import uses_bfloat16
from workbench.errors import ConfigError


def load_model(recipe: Recipe, start: Path) -> Any:
    """The start's weights in float32, with adapters if the recipe wants them.

    Raises ConfigError: a head that training here does not know.
    """
    model = load_weights(start)
    return add_adapters(model, recipe.lora, seed=recipe.seed) if recipe.lora else model


def load_weights(start: Path) -> Any:
    """A causal language model in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(start), dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None):
            raise ConfigError(
                f"start: {start.name}: its head scales logits ({name}), which training here does not know"
            )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(f"start: {start.name}: its head has a bias, which training here does not know")
    return model


def build_objective(
    run: Running, model: Any, sources: Mapping[str, RowDocuments], start: Path, *, steered: bool
) -> Objective:
    """What the recipe's method minimises. `model`: as `load_model` gave it, which still says what the start says."""
    recipe = run.recipe
    if recipe.rl is not None:
        return PolicyLoss(recipe.rl, _start_model(recipe, model, start) if recipe.rl.kl else None)
    if recipe.method == "dpo":
        reference = _reference(run, model, sources, steered=steered)
        return PreferenceLoss(recipe.dpo, reference, list(sources))
    if not recipe.keep_near.kl:
        return NextToken()
    return NextToken(kl=recipe.keep_near.kl, near=_start_model(recipe, model, start))


def _start_model(recipe: Recipe, model: Any, start: Path) -> StartModel:
    """The start, to look at while `model` is trained."""
    # where adapters begin as a part of the weights, switching them off is not the start
    shares = has_adapters(model) and recipe.lora is not None and recipe.lora.init not in ("olora", "pissa")
    near = model if shares else load_weights(start).requires_grad_(False)
    if torch.cuda.is_available():
        near = near.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return StartModel(near)


def _reference(
    run: Running, model: Any, sources: Mapping[str, RowDocuments], *, steered: bool
) -> Mapping[tuple[str, int], Any]:
    """What the start gives both answers of every pair of the run: computed once, kept in the run's folder.

    `model` says what the start says. Each process computes its part, in rows packed as training packs them.
    """
    from accelerate import PartialState

    state = PartialState()
    known = read_reference(run.folder)
    missing = [batch for batch in _pair_batches(run, sources, steered=steered) if _missing(batch, known, list(sources))]
    own = run.folder / f"reference-{state.process_index}.jsonl"
    device = torch.device("cuda", state.local_process_index) if torch.cuda.is_available() else torch.device("cpu")
    dtype = torch.bfloat16 if uses_bfloat16(run.recipe) else None
    model.to(device).eval()
    mine = (
        {k: v.to(device) for k, v in batch.items()} for batch in missing[state.process_index :: state.num_processes]
    )
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for (source, row), (chosen, rejected) in reference_logps(model, mine, list(sources)):
            append_line(own, {"source": source, "row": row, "chosen": chosen, "rejected": rejected})
    state.wait_for_everyone()
    return read_reference(run.folder)


def _pair_batches(run: Running, sources: Mapping[str, RowDocuments], *, steered: bool) -> Iterator[dict[str, Any]]:
    """The run's rows, one a batch; with all pairs there are, if hooks may ask for others than the plan has."""
    mixer = build_mixer(run.recipe, sources, pad=run.tokenizer.eos_token_id)
    stream, names = rows_of(run.recipe, mixer), list(sources)
    for _ in range(total_rows(run.plan)):
        yield collate([tensors(next(stream), names)])
    for name in [name for name in names if steered and sources[name].is_preference]:
        while mixer.cursors[name].epoch < 1:
            yield collate([tensors(mixer.next_row({name: 1.0}), names)])


def _missing(batch: Mapping[str, Any], known: Mapping[tuple[str, int], Any], names: list[str]) -> bool:
    return any((names[source], row) not in known for *_, source, row in batch["pairs"].tolist())


def compile_blocks(model: Any) -> None:
    """Fuse the operations of each transformer block, which are all alike, so that only one is compiled."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            for block in module:
                block.compile()
