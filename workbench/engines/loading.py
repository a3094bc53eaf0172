"""From a Checkpoint to an Engine. Knows which engine lives where; imports only the one asked for."""

from typing import Any, Literal

from workbench.engines.base import Engine
from workbench.errors import EngineError, did_you_mean
from workbench.records import Checkpoint

EngineName = Literal["transformers", "vllm", "openai"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vllm", "openai")


def load(checkpoint: Checkpoint, *, engine: str | None = None, **options: Any) -> Engine:
    """Load a checkpoint into an engine.

    Args:
        checkpoint: what to load; an endpoint is asked through `openai`, all else is loaded here.
        engine: `transformers`, `vllm` or `openai`; None picks by the checkpoint's kind.
        options: the engine's own options (device, dtype, batch_tokens, cache_gb, ...).

    Raises:
        EngineError: unknown engine, one that is not installed, or one that cannot serve this kind of checkpoint.
        CheckpointError: the folder holds no causal language model, or its parts do not fit together.
    """
    name = engine or ("openai" if checkpoint.kind == "endpoint" else "transformers")
    if name not in ENGINES:
        raise EngineError(f"--engine {name}: unknown; {did_you_mean(name, ENGINES)}")
    if (name == "openai") != (checkpoint.kind == "endpoint"):
        raise EngineError(
            f"--engine {name}: cannot serve {checkpoint.name}, a {checkpoint.kind}; "
            + ("name an endpoint as URL#model" if name == "openai" else "leave --engine out for an endpoint")
        )
    if name == "transformers":
        from workbench.engines.transformers_engine import TransformersEngine

        return TransformersEngine.load(model_folder(checkpoint), **options)
    if name == "vllm":
        from workbench.engines.vllm import VllmEngine

        return VllmEngine(str(model_folder(checkpoint)), **options)
    from workbench.engines.openai import OpenAIEngine

    url, _, model = checkpoint.source.partition("#")
    return OpenAIEngine(url, model=model, **options)


def model_folder(checkpoint: Checkpoint) -> str:
    """The folder with the checkpoint's safetensors; a GGUF file is dequantised into one, once."""
    if checkpoint.kind == "gguf":
        from pathlib import Path

        from workbench.engines.convert import convert_gguf

        return str(convert_gguf(Path(checkpoint.source), digest=checkpoint.fingerprint))
    return checkpoint.source
