"""Make a folder of safetensors out of something else: a GGUF file, or a folder whose weights are rounded.

Knows transformers' file formats; knows no hub, no store. A folder appears under its final name only when it is
complete: whoever is killed half-way leaves nothing that could be mistaken for a model, and two processes that make
the same folder at once end with one of the two, which are equal.
"""

import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from workbench.config import cache_folder
from workbench.errors import CheckpointError

_STALE_S = 6 * 3600
"""A temporary folder that was not touched for so long belongs to a process that was killed."""


def models_folder() -> Path:
    """Where converted models are kept, below the user's cache folder."""
    return cache_folder() / "models"


def convert_gguf(path: Path, *, digest: str | None = None, folder: Path | None = None) -> Path:
    """Dequantise a GGUF file once into a folder of bfloat16 safetensors with its tokenizer; later calls return it.

    `folder` is by default one in the user's cache, with the file's SHA-256 in its name, so that a file that changes is
    converted anew; `digest` is that SHA-256, if the caller has it already. Needs about 6 bytes of memory a parameter.

    Raises:
        CheckpointError: no GGUF file, or one of an architecture that transformers cannot read.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise CheckpointError(f"{path}: no GGUF file (it does not begin with the letters GGUF)")
    folder = folder or models_folder() / f"gguf-{path.stem}-{(digest or file_digest(path))[:12]}"
    if not folder.is_dir():
        with new_folder(folder) as fresh:
            _dequantise(path, fresh)
    return folder


def _dequantise(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        try:
            # A progress bar there asks nobody whether it is wanted.
            with redirect_stderr(io.StringIO()):
                loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:  # the reader raises whatever a broken file leads it to
            raise CheckpointError(
                f"{path}: transformers cannot read this GGUF file ({error}); use the model's safetensors instead"
            ) from error
        # What was read from GGUF counts as quantised, and transformers refuses to save it. So: the same weights in a
        # model that never heard of GGUF.
        settings = loaded.config.to_dict()
        for key in ("quantization_config", "_name_or_path"):
            settings.pop(key, None)
        model = AutoModelForCausalLM.from_config(type(loaded.config)(**settings), dtype=torch.bfloat16)
        missing, unexpected = model.load_state_dict(loaded.state_dict(), strict=False)
        model.tie_weights()
        tied = set(getattr(model, "all_tied_weights_keys", {}) or ())
        if unexpected or set(missing) - tied:
            odd = sorted({*unexpected, *(set(missing) - tied)})
            raise CheckpointError(f"{path}: weights do not fit the architecture: {', '.join(odd[:5])}")
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def round_weights(folder: Path, out: Path, *, bits: int = 4, group: int = 32) -> Path:
    """A copy of a model whose linear weights are rounded to `bits` bits, as a quantised deployment would store them.

    Round to nearest, symmetric, one scale for each `group` inputs of each output; embeddings, norms and the head stay.
    The result is an ordinary folder of the same type as before. Returns `out`.

    Raises:
        CheckpointError: `folder` is no model, or `out` exists.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    if not 2 <= bits <= 8:
        raise ValueError(f"bits: 2 to 8, got {bits}")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; name a folder that holds a model")
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name a new folder")
    with new_folder(out) as fresh, quiet_transformers(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        head = model.get_output_embeddings()
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                module.weight.copy_(round_matrix(module.weight, bits=bits, group=group))
            elif isinstance(module, Conv1D):  # GPT-2 keeps inputs in rows
                module.weight.copy_(round_matrix(module.weight.T, bits=bits, group=group).T)
        model.save_pretrained(fresh)
        _copy_other_files(folder, fresh)
    return out


def copy_in_dtype(folder: Path, out: Path, *, dtype: str) -> Path:
    """A copy of a model with its weights stored in another type (`float16`, `bfloat16`, `float32`). Returns `out`.

    Raises:
        CheckpointError: `folder` is no model, or `out` exists.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; name a folder that holds a model")
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name a new folder")
    with new_folder(out) as fresh, quiet_transformers(), torch.no_grad():
        AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).save_pretrained(fresh)
        _copy_other_files(folder, fresh)
    return out


def _copy_other_files(folder: Path, fresh: Path) -> None:
    weights = (".safetensors", ".bin", ".gguf", ".index.json")
    for file in folder.iterdir():
        if file.is_file() and not file.name.endswith(weights) and not (fresh / file.name).exists():
            shutil.copyfile(file, fresh / file.name)


def round_matrix(weight_OI: Any, *, bits: int, group: int) -> Any:
    """Weights [outputs, inputs] rounded to `2**bits - 1` levels around 0 per group of inputs; same type and shape.

    >>> import torch
    >>> round_matrix(torch.tensor([[7.0, 3.4, -0.6, -7.0]]), bits=4, group=4)
    tensor([[ 7.,  3., -1., -7.]])
    """
    from torch.nn.functional import pad

    outputs, inputs = weight_OI.shape
    levels = 2 ** (bits - 1) - 1
    padded = pad(weight_OI.float(), (0, -inputs % group)).reshape(outputs, -1, group)
    scale = padded.abs().amax(dim=-1, keepdim=True) / levels
    steps = (padded / scale.where(scale > 0, scale.new_ones(()))).round()
    return (steps * scale).reshape(outputs, -1)[:, :inputs].to(weight_OI.dtype)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well; else nothing remains."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(".making-*"):
        if time.time() - old.stat().st_mtime > _STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp made it for this user alone
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            # Another process was quicker; its folder is as good as ours.
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and warnings of transformers on the terminal; what matters is raised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
