"""Records as a real comparison and gate make them, with every verdict, and text that attacks its reader."""

from dataclasses import replace
from typing import Any

from workbench.records import Checkpoint, Comparison, Decision, Estimate, Flip, RuleResult, TaskComparison

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [click](http://x.example) ![i](http://x.example/p.png) "
    "@everyone #12 https://x.example www.x.example `tick` ```fence | pipe | </pre></details>\n\n# Heading\n"
    "nul\x00 bell\x07 rtl\u202etxt\u2069 zero\u200bwidth tag\U000e0041 lone\ud800 \uffff $x$ *bold* _it_ <!-- --> ]]>"
)
LONG = "Ein Satz mit Umlauten: äöü ß 日本語. " * 300 + "Which organ pumps blood?"


def checkpoint(name: str, digit: str, **fields: Any) -> Checkpoint:
    return Checkpoint(
        name=name, source=f"models/{name}", kind="folder", fingerprint=digit * 64, tokenizer="c" * 64, **fields
    )


BASELINE = checkpoint("smollm2", "a")
CANDIDATE = checkpoint("smollm2-3bit", "b", parent="a" * 64)


def difference(value: float, low: float | None, high: float | None, n: int, metric: str = "acc_norm", **fields: Any):
    return Estimate(metric=metric, value=value, low=low, high=high, n=n, method="tango", level=0.9, **fields)


def task(name: str, verdict: Any, change: Any = None, **fields: Any) -> TaskComparison:
    given: dict[str, Any] = {
        "role": "general", "required": True, "metric": "acc_norm", "direction": "higher", "margin": 0.02, "reason": ""
    }  # fmt: skip
    given |= fields
    if change is not None:
        given.setdefault("n", 500)
        given["difference"] = difference(*change, n=given["n"], metric=given["metric"], direction=given["direction"])
    return TaskComparison(task=name, verdict=verdict, **given)


KEPT = task("piqa", "kept", (0.002, -0.0115, 0.0155), baseline=0.628, candidate=0.630, n=1278, gained=41, lost=38)
SMALL_LOSS = task(
    "hellaswag", "kept", (-0.008, -0.0147, -0.0013), baseline=0.414, candidate=0.406, n=9000, gained=300, lost=372,
    small_loss=True, noise=0.003,
)  # fmt: skip
IMPROVED = task(
    "anatomy_terms", "improved", (0.061, 0.038, 0.084), baseline=0.647, candidate=0.708, n=600, role="domain",
    gained=60, lost=23, margin=0.01,
)  # fmt: skip
FORGOT = task(
    "arc_easy", "forgot", (-0.123, -0.150, -0.097), baseline=0.450, candidate=0.327, n=1655, gained=91, lost=295,
    p_loss=1e-20, p_loss_holm=6e-20, noise=0.004, reason="the whole interval lies beyond the margin of 2 points",
)  # fmt: skip
FORGOT_BITS = task(
    "wikitext", "forgot", (-0.031, -0.042, -0.0204), baseline=0.892, candidate=0.923, n=64, margin=0.02,
    metric="bits_per_byte", direction="lower", required=True,
)  # fmt: skip
INCONCLUSIVE = task(
    "openbookqa", "inconclusive", (-0.012, -0.041, 0.017), baseline=0.325, candidate=0.313, n=500, gained=30, lost=36,
    items_needed=1737, reason="the interval straddles the margin of 2 points",
)  # fmt: skip
HOPELESS = replace(INCONCLUSIVE, task="lambada", items_needed=None)
UNINFORMATIVE = task(
    "mmlu_letter", "uninformative", (-0.002, -0.03, 0.026), baseline=0.251, candidate=0.249, n=684, chance=0.25,
    required=False, metric="acc",
)  # fmt: skip
INCOMPARABLE = task("boolq", "incomparable", reason="0 shots in the baseline, 5 in the candidate", required=False)
TASKS = (IMPROVED, KEPT, SMALL_LOSS, INCONCLUSIVE, UNINFORMATIVE, FORGOT, FORGOT_BITS, INCOMPARABLE)


def comparison(*tasks: TaskComparison, **fields: Any) -> Comparison:
    given = {
        "id": "d" * 64, "baseline": "e" * 64, "candidate": "f" * 64, "baseline_checkpoint": BASELINE,
        "candidate_checkpoint": CANDIDATE, "settings": {"scorer": "lm-eval 0.4.13", "seed": 1234, "dtype": "float32"},
        "created_at": "2026-11-22T23:10:00+00:00",
    }  # fmt: skip
    return Comparison(tasks=tasks or TASKS, **(given | fields))


def rule(task: TaskComparison, **fields: Any) -> RuleResult:
    outcomes = {"kept": "pass", "improved": "pass", "forgot": "fail"}
    given = {
        "rule": f"{task.task} kept", "outcome": outcomes.get(task.verdict, "hold"), "required": task.required,
        "reason": task.reason or f"{task.task} is {task.verdict}", "task": task.task, "verdict": task.verdict,
        "estimate": task.difference, "limit": task.margin, "items_needed": task.items_needed,
    }  # fmt: skip
    return RuleResult(**(given | fields))


LIMIT_RULE = RuleResult(
    rule="refusals at most 5%", outcome="pass", required=True, reason="the upper end 3.9% is below the limit",
    task="refusals", limit=0.05,
    estimate=Estimate(
        metric="refusal_rate", value=0.021, low=0.011, high=0.039, n=400, method="wilson", direction="lower"
    ),
)  # fmt: skip


def decision(*rules: RuleResult, outcome: Any = "fail", **fields: Any) -> Decision:
    given = {
        "id": "1" * 64, "reason": "", "checkpoint": CANDIDATE, "baseline": BASELINE,
        "evidence": {"comparison": "d" * 64, "baseline report": "e" * 64, "items of arc_easy": "9" * 64},
        "created_at": "2026-11-22T23:11:00+00:00",
    }  # fmt: skip
    return Decision(outcome=outcome, rules=rules or (*(rule(t) for t in TASKS), LIMIT_RULE), **(given | fields))


def flip(number: int = 0, kind: Any = "lost", **fields: Any) -> Flip:
    before, after = ("the heart", "the liver") if kind == "lost" else ("the liver", "the heart")
    given = {
        "task": "arc_easy", "item": f"{number:064x}", "prompt": "Question: Which organ pumps blood?\nAnswer:",
        "target": "the heart", "baseline_answer": before, "candidate_answer": after, "metric": "acc_norm",
        "choices": ("the heart", "the liver", "the lung"), "baseline_logprobs": (-4.21, -5.13, -6.02),
        "candidate_logprobs": (-5.52, -5.08, -6.4), "baseline_value": float(kind == "lost"),
        "candidate_value": float(kind != "lost"),
    }  # fmt: skip
    return Flip(kind=kind, **(given | fields))


HOSTILE_FLIP = flip(
    7, task=f"task {HOSTILE}", prompt=HOSTILE + LONG + HOSTILE, target=HOSTILE, baseline_answer=HOSTILE,
    candidate_answer=HOSTILE, choices=(HOSTILE, "x"), baseline_logprobs=(-1.0, -2.0), notes=(HOSTILE,), metric=HOSTILE,
)  # fmt: skip


def hostile_decision() -> Decision:
    return decision(
        rule(FORGOT, rule=HOSTILE, reason=HOSTILE, overridden=HOSTILE),
        rule(replace(INCONCLUSIVE, task=HOSTILE), required=False),
        reason=HOSTILE, checkpoint=checkpoint(HOSTILE, "b"), evidence={HOSTILE: HOSTILE},
    )  # fmt: skip


def hostile_comparison() -> Comparison:
    tasks = (replace(FORGOT, task=HOSTILE, notes=(HOSTILE,)), replace(INCOMPARABLE, reason=HOSTILE))
    return comparison(*tasks, candidate_checkpoint=checkpoint(HOSTILE, "b"), settings={HOSTILE: [HOSTILE]})
