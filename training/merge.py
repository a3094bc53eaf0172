"""Average checkpoints tensor by tensor: points on the line between two, and means of several. Knows files, no model.

The straight line between a start and what was tuned from it is a frontier of its own (WiSE-FT, Wortsman et al. 2021,
arXiv 2109.01903): much of what was learned stays where most of what was forgotten is undone. One file of weights is in
memory at a time. The arithmetic is float32; each tensor is stored in the type that the last part, which is the
template, has it in.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.engines.convert import new_folder
from workbench.errors import CheckpointError
from workbench.store.checkpoints import tokenizer_files, weight_files

RECORD = "merge.json"
"""Written into a merged folder: what it was made of."""
_KEPT = ("config.json", "generation_config.json", "*.safetensors.index.json")
_OUTPUTS = ("lm_head.weight", "embed_out.weight")
"""The head's matrix, which a model that ties it to the embedding may or may not store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One checkpoint of an average."""

    folder: Path
    weight: float
    name: str = ""
    fingerprint: str = ""


def line(base: Part, tuned: Sequence[Part], weight: float) -> list[Part]:
    """The parts of the point that is `weight` of the way from a base to the mean of what was tuned from it.

    >>> base, tuned = Part(folder=Path("a"), weight=1), Part(folder=Path("b"), weight=1)
    >>> [part.weight for part in line(base, [tuned], 0.75)]
    [0.25, 0.75]
    """
    share = weight / len(tuned)
    parts = [_weighted(base, 1 - weight), *(_weighted(part, share) for part in tuned)]
    return [part for part in parts if part.weight > 0]


def merge_weights(parts: Sequence[Part], out: Path) -> Path:
    """Write the weighted mean of checkpoints as a folder like that of the last part. Returns `out`.

    An existing `out` that was made of the same parts is left as it is; the same parts always give the same bytes.

    Raises:
        CheckpointError: weights that do not add up to 1, other architectures, or an `out` that holds something else.
    """
    total = sum(part.weight for part in parts)
    if abs(total - 1) > 1e-9 or any(part.weight <= 0 for part in parts):
        raise CheckpointError(f"merge: weights must be above 0 and add up to 1, they add up to {total:g}")
    record = [{"name": part.name, "weights": part.fingerprint, "weight": round(part.weight, 12)} for part in parts]
    if out.exists():
        if _record_of(out) == record and all(part.fingerprint for part in parts):
            return out
        raise CheckpointError(f"{out}: exists already and holds something else; name another folder with --out")
    template = parts[-1].folder
    check_same_architecture([part.folder for part in parts])
    with new_folder(out) as fresh, ExitStack() as stack:
        stores = [stack.enter_context(_Weights(part.folder)) for part in parts]
        names = _common_names(stores, [part.folder for part in parts])
        for file in weight_files(template):
            _write_file(stores, [part.weight for part in parts], names, file, fresh / file.name)
        _copy_rest(template, fresh, names)
        (fresh / RECORD).write_text(json.dumps({"merged": record}, indent=2) + "\n", encoding="utf-8")
    return out


def check_same_architecture(folders: Sequence[Path]) -> None:
    """Compare configurations as far as they shape the weights.

    Raises:
        CheckpointError: one that differs from the first, with the key.
    """
    first = _shape_of(folders[0])
    for folder in folders[1:]:
        other = _shape_of(folder)
        for key in sorted(first.keys() & other.keys()):
            if first[key] != other[key]:
                raise CheckpointError(
                    f"merge: {folder.name} is not of the architecture of {folders[0].name}: {key} is {other[key]!r} "
                    f"and {first[key]!r}; only a model and what was tuned from it can be averaged"
                )


class _Weights:
    """The tensors of one folder by name, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "_Weights":
        from safetensors import safe_open

        for file in weight_files(self.folder):
            opened = self._stack.enter_context(safe_open(str(file), framework="pt"))
            self._files |= dict.fromkeys(opened.keys(), opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Any:
        return self._files[name].get_tensor(name)


def _write_file(
    stores: Sequence[_Weights], weights: Sequence[float], names: set[str], file: Path, target: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(file), framework="pt") as opened:
        own, about = sorted(set(opened.keys()) & names), opened.metadata() or {}
    save_file({name: _mean(stores, weights, name) for name in own}, target, metadata={"format": "pt"} | about)


def _mean(stores: Sequence[_Weights], weights: Sequence[float], name: str) -> Any:
    """First part plus the weighted ways to the others: where all agree, their very bits come out."""
    import torch

    last = stores[-1].tensor(name)
    if len(stores) == 1:
        return last
    first = stores[0].tensor(name)
    if not last.is_floating_point():
        if not all(torch.equal(store.tensor(name), last) for store in stores):
            raise CheckpointError(f"merge: tensor {name} holds whole numbers that differ; it cannot be averaged")
        return last
    mean = first.to(torch.float32, copy=True)
    start = first.float()
    for store, weight in zip(stores[1:], weights[1:], strict=True):
        mean += weight * (store.tensor(name).float() - start)
    return mean.to(last.dtype)


def _common_names(stores: Sequence[_Weights], folders: Sequence[Path]) -> set[str]:
    """Names that all have. A tied head need not be stored; any other name that one lacks is refused, as is a shape."""
    tied = all(_config(folder).get("tie_word_embeddings", True) for folder in folders)
    common = set.intersection(*(set(store) for store in stores))
    for store in stores:
        odd = sorted(name for name in set(store) - common if not (tied and name.endswith(_OUTPUTS)))
        if odd:
            raise CheckpointError(
                f"merge: {store.folder.name} has {len(odd)} tensors that another part lacks ({', '.join(odd[:3])}); "
                "an adapter must be merged into its base first"
            )
    for name in sorted(common):
        shapes = [store.shape(name) for store in stores]
        if len(set(shapes)) > 1:
            raise CheckpointError(
                f"merge: tensor {name} is {shapes[0]} in {stores[0].folder.name} and {shapes[-1]} in "
                f"{stores[-1].folder.name}; only a model and what was tuned from it can be averaged"
            )
    return common


_SHAPING = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def _shape_of(folder: Path) -> Mapping[str, Any]:
    config = _config(folder)
    return {key: config[key] for key in _SHAPING if key in config}


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _copy_rest(template: Path, fresh: Path, names: set[str]) -> None:
    """Configuration, tokenizer and index; nothing that belongs to a run (optimiser, state of the mix)."""
    for file in [*(file for pattern in _KEPT for file in template.glob(pattern)), *tokenizer_files(template)]:
        target = fresh / file.relative_to(template)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for file in fresh.glob("*.safetensors.index.json"):
        index = json.loads(file.read_text(encoding="utf-8"))
        index["weight_map"] = {name: shard for name, shard in index["weight_map"].items() if name in names}
        file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _record_of(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))["merged"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weighted(part: Part, weight: float) -> Part:
    return Part(folder=part.folder, weight=weight, name=part.name, fingerprint=part.fingerprint)
