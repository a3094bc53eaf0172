"""How many (text, rule) pairs a second, beside one prompt a pair in plain transformers, with the same decisions?

    python -m studies.moderate_speed --quick         # 8 texts and two rounds, for a machine that is shared
    python -m studies.moderate_speed                 # 128 texts
    python -m studies.moderate_speed --vllm          # vLLM with prefix caching as well; needs vllm and a GPU

Twenty rules; the same prompts on both sides, in float32; the plain loop is one forward pass a pair, the whole prompt
each time, logits of the last position only. Rounds are repeated, the order of both sides turned from round to round.
"""

# ruff: noqa: E501

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

TAKES = "5 minutes quick, 30 in full, on an idle core"
RESULTS = Path(__file__).parent / "results" / "moderate_speed.json"
RULES = (
    "No insults or personal attacks.", "No slurs against groups of people.", "No threats of violence.",
    "No sexual content.", "No praise of self-harm.", "No private data of other people.", "No spam or advertising.",
    "No links to shops.", "No asking for votes.", "No spoilers in titles.", "Top-level answers must name a source.",
    "No speculation about crimes under investigation.", "No medical advice without a warning.", "No politics.",
    "No memes or jokes as answers.", "Stay on the subject of the community.", "No posts about today's news.",
    "No reposts of other people's work without credit.", "English only.", "No all-capital texts.",
)  # fmt: skip
TEXTS = (
    "I hope you choke, you worthless idiot, and everybody who thinks like you.",
    "The granaries of Rome were public, see chapter three of Smith's book on the grain supply; the state bought in bad years.",
    "Buy followers now, cheap and safe, the first hundred are free, write to the address in my profile!!!",
    "Has anybody got the new firmware to work on the older board? Mine stops at the second step and blinks red.",
    "In the last chapter the detective turns out to be the murderer, so do not bother to read it.",
    "My neighbour's daughter goes to the school on Mill Street, she is home alone until five every day.",
    "I have had a headache for three days, just take double the dose, that always works for me.",
    "Lovely picture. Which lens did you use, and did you have to wait long for the light?",
)


def build(count: int) -> tuple[Any, list[Any]]:
    """A moderator over smollm2 with the rules, and posts."""
    from dataclasses import replace

    from safety.communities import Communities
    from safety.judges.model import ModelJudge
    from safety.moderation import Moderator, Post
    from safety.policy import load_policy
    from workbench.engines.loading import load
    from workbench.references import resolve_checkpoint

    base = load_policy("communities")
    # only the twenty rules: what else the policy judges would be counted on one side
    empty = replace(base, categories={})
    from safety.communities import with_rules

    policy = with_rules(empty, RULES)
    engine = load(resolve_checkpoint("smollm2"), dtype="float32")
    judge = ModelJudge(engine=engine, nonce="speed", swap=False, min_mass=0.05)
    moderator = Moderator(Communities(policy), judge)
    posts = [Post(id=str(n), text=f"{TEXTS[n % len(TEXTS)]} ({n})", community="speed") for n in range(count)]
    moderator.judge = judge.in_layout(moderator.choose_layout(posts)[0])
    return moderator, posts


def plain_loop(judge: Any, pairs: list[tuple[Any, Any]]) -> list[float]:
    """One prompt a pair through transformers itself; the share of Yes."""
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint

    if not hasattr(plain_loop, "model"):
        folder = model_folder(resolve_checkpoint("smollm2"))
        plain_loop.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[attr-defined]
    model, tokenizer = plain_loop.model, judge.engine.tokenizer  # type: ignore[attr-defined]
    words = {
        label: sorted({tokenizer.encode(form, add_special_tokens=False)[0] for form in forms})
        for label, forms in {"yes": ("Yes", " Yes", "yes", " yes"), "no": ("No", " No", "no", " no")}.items()
    }
    found = []
    for passage, rule in pairs:
        ids = tokenizer(judge.build_prompt(passage, rule), return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(ids, logits_to_keep=1).logits[0, -1].log_softmax(-1)
        yes, no = (sum(math.exp(logits[i].item()) for i in words[label]) for label in ("yes", "no"))
        found.append(yes / (yes + no))
    return found


def measure(count: int, sample: int, rounds: int) -> dict[str, Any]:
    """Pairs a second of both sides; the plain loop on the first `sample` texts, which is enough for a rate."""
    moderator, posts = build(count)
    policy = moderator.communities.base
    pairs = [(post.passage(), rule) for post in posts[:sample] for rule in policy.categories.values()]
    moderator.moderate(posts[:2])  # both sides are warm before the clock starts
    plain_loop(moderator.judge, pairs[:2])
    ours_s, plain_s, ours, plain = [], [], {}, []
    for turn in range(rounds):
        for side in ("ours", "plain") if turn % 2 == 0 else ("plain", "ours"):
            start = time.process_time()
            if side == "ours":
                found = moderator.moderate(posts)
                ours_s.append(time.process_time() - start)
                ours = {(m.post.id, j.category): j.probability for m in found for j in m.judgements}
                usage = moderator.judge.engine.usage
            else:
                plain = plain_loop(moderator.judge, pairs)
                plain_s.append(time.process_time() - start)
    names = [(post.id, rule.id) for post in posts[:sample] for rule in policy.categories.values()]
    gaps = [abs(p - ours[name]) for p, name in zip(plain, names, strict=True)]
    same = sum((p >= 0.5) == (ours[name] >= 0.5) for p, name in zip(plain, names, strict=True))
    n = count * len(policy.categories)
    ours_rate, plain_rate = n / statistics.median(ours_s), len(pairs) / statistics.median(plain_s)
    return {
        "texts": count,
        "rules": len(policy.categories),
        "pairs": n,
        "plain_pairs": len(pairs),
        "layout": moderator.judge.layout,
        "ours_cpu_s": ours_s,
        "plain_cpu_s": plain_s,
        "ours_per_s": ours_rate,
        "plain_per_s": plain_rate,
        "times": ours_rate / plain_rate,
        "times_of_rounds": [n / a / (len(pairs) / b) for a, b in zip(ours_s, plain_s, strict=True)],
        "same_decisions": same,
        "largest_gap": max(gaps),
        "tokens": usage.prompt_tokens,
        "naive_tokens": usage.naive_tokens,
        "clock": "CPU seconds of the process: the machine was shared",
    }


def measure_vllm(count: int) -> dict[str, Any]:
    """The same pairs through vLLM with prefix caching: the first token's log-probabilities of each prompt."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint

    moderator, posts = build(count)
    policy = moderator.communities.base
    prompts = [moderator.judge.build_prompt(p.passage(), r) for p in posts for r in policy.categories.values()]
    model = LLM(model=model_folder(resolve_checkpoint("smollm2")), enable_prefix_caching=True, dtype="float32")
    settings = SamplingParams(max_tokens=1, temperature=0.0, logprobs=20)
    model.generate(prompts[:20], settings, use_tqdm=False)
    model.reset_prefix_cache()
    start = time.perf_counter()
    model.generate(prompts, settings, use_tqdm=False)
    return {"vllm_pairs_per_s": len(prompts) / (time.perf_counter() - start)}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--vllm", action="store_true")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    count = 8 if options.quick else 128
    found = measure(count, 2 if options.quick else 8, 2 if options.quick else 3)
    if options.vllm:
        found |= measure_vllm(count)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rounds = ", ".join(f"{value:.1f}" for value in found["times_of_rounds"])
    print(
        f"{found['ours_per_s']:.1f} pairs a CPU second, plain loop {found['plain_per_s']:.2f}: {found['times']:.1f} times "
        f"(rounds: {rounds}); same decision on {found['same_decisions']} of {found['plain_pairs']}, largest gap "
        f"{found['largest_gap']:.2g}; {found['tokens']:,} tokens computed of {found['naive_tokens']:,} ({found['layout']})"
    )


if __name__ == "__main__":
    main()
