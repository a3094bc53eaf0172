"""From a Checkpoint to an Engine. Knows which engine lives where; imports only the one asked for."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, Literal

from workbench.engines.base import Engine
from workbench.errors import EngineError, did_you_mean
from workbench.records import Checkpoint

EngineName = Literal["transformers", "vllm", "openai"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vllm", "openai")


def load(checkpoint: Checkpoint, *, engine: str | None = None, workers: str | None = None, **options: Any) -> Engine:
    """Load a checkpoint into an engine, or into several at once.

    Args:
        checkpoint: what to load; an endpoint is asked through `openai`, all else is loaded here.
        engine: `transformers`, `vllm` or `openai`; None picks by the checkpoint's kind.
        workers: a number of processes, or a Ray cluster; None is this process. See `workbench.engines.ray_workers`.
        options: the engine's own options (device, dtype, batch_tokens, cache_gb, ...).

    Raises:
        EngineError: unknown engine or option, one that is not installed, or cannot serve this kind of checkpoint.
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
    check_parallel(options)
    if workers is not None:
        if name == "openai":
            raise EngineError(f"--workers: {checkpoint.name} is an endpoint, which has its own; leave --workers out")
        from workbench.engines.ray_workers import RayEngine

        return RayEngine(checkpoint, workers=workers, engine=name, options=options)
    if name == "transformers":
        from workbench.engines.transformers_engine import TransformersEngine

        _check_options(name, options, TransformersEngine.load, TransformersEngine.__init__)
        return TransformersEngine.load(model_folder(checkpoint), **options)
    if name == "vllm":
        from workbench.engines.vllm import VllmEngine

        _check_options(name, options, VllmEngine.__init__)
        return VllmEngine(str(model_folder(checkpoint)), **options)
    from workbench.engines._endpoint import Endpoint
    from workbench.engines.openai import OpenAIEngine

    _check_options(name, options, OpenAIEngine.__init__, Endpoint.__init__)
    url, _, model = checkpoint.source.partition("#")
    return OpenAIEngine(url, model=model, **options)


def check_parallel(options: Mapping[str, Any], *, serving: bool = False) -> None:
    """Refuse numbers of GPUs that are none, before a model is loaded by several. Raises EngineError."""
    for option in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        value = options.get(option, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise EngineError(f"option {option}: a whole number from 1 on is expected, got {value!r}")
    if "data_parallel_size" in options and not serving:
        raise EngineError(
            f"option data_parallel_size: copies of a model side by side are workers here; --workers "
            f"{options['data_parallel_size']} starts as many"
        )


def model_folder(checkpoint: Checkpoint) -> str:
    """The folder with the checkpoint's safetensors; a GGUF file is dequantised into one, once."""
    from workbench.store.checkpoints import local_path

    path = local_path(checkpoint)
    if checkpoint.kind == "gguf":
        from workbench.engines.convert import convert_gguf

        path = convert_gguf(path, digest=checkpoint.fingerprint)
    return str(path)


def _check_options(engine: str, options: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    """Refuse what none of `takers` takes: a misspelt option would end as a TypeError deep inside."""
    known = {
        name
        for taker in takers
        for name, parameter in signature(taker).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    } - {"allowed", "model"}
    for name in options:
        if name not in known:
            raise EngineError(f"option {name}: the engine {engine} has none of that name; {did_you_mean(name, known)}")
