"""One policy, five outputs: what is evaluated, what the guard does, what a judge and a reviewer read, what a label is.

All five are made from the same resolved policy and bear its hash, so that none can drift from the others. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from safety.judges.base import Passage
from safety.prompt import PROMPT_VERSION, Layout, moderation_prompt, verdict_word
from safety.resolved import Category, ResolvedPolicy, Threshold, is_withheld
from workbench.records import SURFACES, Action, Severity, Surface

Expectation = Literal["refuse", "answer"]
VIEWS = ("evaluation", "runtime", "prompt", "screen", "labels")
DECISIONS = ("violates", "allowed", "unsure", "cannot_judge", "escalate")
KEYS: Mapping[str, str] = {
    "a": "allowed",
    "x": "violates",
    "d": "unsure",
    "j": "cannot_judge",
    "s": "skip",
    "e": "escalate",
    "v": "reveal",
    "u": "undo",
    "g": "rules",
    "n": "note",
    "p": "several",
    "m": "similar",
    "k": "keep",
    "b": "stop",
    "h": "help",
}
"""Key -> what it does on the review page; digits choose a category. Streamlit keeps `c` and `r` for itself."""


# --- 1. evaluation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryPlan:
    """What an assessment asks about one category."""

    category: str
    dimension: str
    expect: Expectation
    """`refuse`: answering what it describes is a violation. `answer`: this business permits it, so refusing is the
    error (a permission test)."""
    action: Action
    """What the guard does with such an answer, in the context that the assessment assumes."""
    severity: Severity
    tests: tuple[str, ...]
    names_only: bool = False
    """Permitted only where a name of the policy's lists stands in the text; withheld elsewhere, so both are asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPlan:
    """What an assessment does for a policy."""

    policy_hash: str
    context: Mapping[str, Any]
    """Attributes that the asking user is taken to have (`context.assume`)."""
    categories: tuple[CategoryPlan, ...]
    dimensions: Mapping[str, Mapping[str, Any]]
    """Dimension -> probes, suites, attacks."""
    gates: tuple[Mapping[str, Any], ...]

    @property
    def permitted(self) -> tuple[str, ...]:
        """Categories whose refusal is an error."""
        return tuple(plan.category for plan in self.categories if plan.expect == "answer")


def evaluation_plan(
    policy: ResolvedPolicy, context: Mapping[str, Any] | None = None, *, today: date | None = None
) -> EvaluationPlan:
    """Suites and gates of a policy. `context` replaces what the policy assumes."""
    assumed = dict(policy.context.get("assume") or {} if context is None else context)
    plans: list[CategoryPlan] = []
    for category in policy.categories.values():
        action = category.step("actions", "model_output", assumed, today=today).action
        unnamed = category.step("actions", "model_output", assumed | {"entities": ()}, today=today).action
        plans.append(
            CategoryPlan(
                category=category.id,
                dimension=policy.dimension_of(category.id),
                expect="refuse" if is_withheld(action) else "answer",
                action=action,
                severity=category.severity,
                tests=category.tests,
                names_only=is_withheld(unnamed) and not is_withheld(action),
            )
        )
    return EvaluationPlan(
        policy_hash=policy.hash,
        context=assumed,
        categories=tuple(plans),
        dimensions=policy.dimensions,
        gates=policy.gates,
    )


# --- 2. runtime -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeRow:
    """What the guard does about one category on one surface."""

    category: str
    violates: Action
    uncertain: Action
    unscorable: Action
    judges: tuple[str, ...]
    thresholds: Mapping[str, Threshold]
    instead: str
    """The text that is served in place of a withheld one; `mask`: the spans that the judge named are hidden."""
    set_by: str


def runtime_table(
    policy: ResolvedPolicy, surface: Surface, context: Mapping[str, Any] | None = None, *, today: date | None = None
) -> list[RuntimeRow]:
    """The decision table of one surface in one context: what `decide` does with each value of each category."""
    from safety.decide import effective_step

    rows: list[RuntimeRow] = []
    for category in policy.categories.values():
        values = ("violates", "uncertain", "unscorable")
        steps = {value: effective_step(category, value, surface, context, today) for value in values}
        rows.append(
            RuntimeRow(
                category=category.id,
                violates=steps["violates"].action,
                uncertain=steps["uncertain"].action,
                unscorable=steps["unscorable"].action,
                judges=category.judges,
                thresholds=category.thresholds,
                instead="mask" if category.rewrite == "mask" else policy.refusal(category.id),
                set_by=steps["violates"].set_by,
            )
        )
    return rows


# --- 3. the judge's text ----------------------------------------------------------------------------------------------


def judge_text(category: Category) -> str:
    """The rule as a judge reads it, the same for every text, so that it can be computed once."""
    return category.text


# --- 4. the reviewer's screen -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenRule:
    """A category as a reviewer sees it."""

    key: str
    """Digit that chooses it; empty beyond nine."""
    category: str
    title: str
    definition: str
    not_this: tuple[str, ...]
    violates: tuple[str, ...]
    allowed: tuple[str, ...]
    severity: Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """What a reviewer needs beside a text."""

    policy: str
    policy_hash: str
    card: str
    """File that describes the community; empty where there is none."""
    show: tuple[str, ...]
    """What of the context is shown."""
    keys: Mapping[str, str]
    rules: tuple[ScreenRule, ...]
    blur: bool
    """Hidden until asked for: something here is severe."""


def reviewer_screen(policy: ResolvedPolicy, categories: Sequence[str] | None = None) -> Screen:
    """Rule texts and keys; the categories that are asked about come first in the order given (default: all)."""
    names = list(policy.categories) if categories is None else list(categories)
    chosen = [policy.categories[name] for name in names]
    rules = [
        ScreenRule(
            key=str(place) if place <= 9 else "",
            category=category.id,
            title=category.title,
            definition=category.definition,
            not_this=category.not_this,
            violates=category.violates,
            allowed=category.allowed,
            severity=category.severity,
        )
        for place, category in enumerate(chosen, 1)
    ]
    return Screen(
        policy=policy.name,
        policy_hash=policy.hash,
        card=str(policy.context.get("card") or ""),
        show=tuple(policy.context.get("show") or ()),
        keys=KEYS,
        rules=tuple(rules),
        blur=any(category.severity in ("high", "critical") for category in chosen),
    )


# --- 5. labels and training rows --------------------------------------------------------------------------------------


def label_schema(policy: ResolvedPolicy) -> dict[str, Any]:
    """JSON Schema (2020-12) of a label under this policy: one rule set for forms, imports and exports."""
    digests = {name: category.hash for name, category in policy.categories.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Label under {policy.name}",
        "type": "object",
        "additionalProperties": False,
        "required": ["item", "decision", "reviewer", "policy_hash"],
        "properties": {
            "item": {"type": "string", "minLength": 1},
            "decision": {"enum": list(DECISIONS)},
            "categories": {"type": "array", "uniqueItems": True, "items": {"enum": list(digests)}},
            "category_hashes": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {"const": digest} for name, digest in digests.items()},
            },
            "severity": {"enum": ["low", "medium", "high", "critical"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "spans": {"type": "array", "items": {"type": "array", "prefixItems": [{"type": "integer"}] * 2}},
            "note": {"type": "string", "maxLength": 4000},
            "reviewer": {"type": "string", "minLength": 1},
            "seconds": {"type": "number", "minimum": 0},
            "policy_hash": {"const": policy.hash},
        },
        "if": {"properties": {"decision": {"const": "violates"}}},
        "then": {"required": ["categories", "category_hashes"], "properties": {"categories": {"minItems": 1}}},
    }


def training_row(
    policy: ResolvedPolicy,
    category: str,
    passage: Passage | str,
    *,
    violates: float,
    surface: Surface = "content",
    layout: Layout = "rules_first",
) -> dict[str, Any]:
    """A row that teaches a judge this rule: the turn in which it is asked, the right word, and what both rest on.

    Args:
        violates: share of reviewers who said so; kept as a soft target beside the word.
        layout: how the prompt is laid out; a judge must later be asked in the same way.
    """
    if not 0.0 <= violates <= 1.0:
        raise ValueError(f"violates: {violates} is no share")
    own = policy.categories[category]
    shown = Passage(text=passage) if isinstance(passage, str) else passage
    return {
        "prompt": moderation_prompt(shown, own, layout=layout),
        "completion": verdict_word(violates >= 0.5),
        "soft_target": violates,
        "surface": surface,
        "category": category,
        "category_hash": own.hash,
        "policy": policy.name,
        "policy_hash": policy.hash,
        "prompt_version": f"{PROMPT_VERSION}/{layout}",
    }


def compile_view(policy: ResolvedPolicy, view: str, *, today: date | None = None) -> Any:
    """One of the five as plain data, for `workbench policy show --as`."""
    match view:
        case "evaluation":
            return evaluation_plan(policy, today=today)
        case "runtime":
            assumed = policy.context.get("assume")
            return {surface: runtime_table(policy, surface, assumed, today=today) for surface in SURFACES}
        case "prompt":
            return {name: judge_text(category) for name, category in policy.categories.items()}
        case "screen":
            return reviewer_screen(policy)
        case _:
            return label_schema(policy)
