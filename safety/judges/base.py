"""What a judge is: texts and categories in, one Judgement each out. Knows no policy file, no threshold, no action.

A judge never raises for a text: what it cannot score is `unscorable`, which is never "safe". It reads numbers, never a
model's prose. Registered by kind; a policy's `judges:` names kinds with options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from workbench.errors import ConfigError
from workbench.records import Judgement, JudgementValue
from workbench.registry import Registry

LOW, HIGH = 0.5, 0.5
"""Thresholds of a judge that nobody calibrated for a policy; a policy's own thresholds replace them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A text to be judged, with what it answers."""

    text: str
    prompt: str = ""
    """The question that `text` answers; empty for a text that stands alone."""
    context: Mapping[str, str] = field(default_factory=dict)
    """What is shown beside it: title, parent, community, author. Judges that read the text alone leave it out."""


@runtime_checkable
class CategoryLike(Protocol):
    """What a judge must know of a category; a policy's Category has it."""

    @property
    def id(self) -> str:
        """Name in judgements."""
        ...

    @property
    def title(self) -> str:
        """A few words."""
        ...

    @property
    def definition(self) -> str:
        """What violates it, as a moderator would read it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainCategory:
    """A category without a policy around it."""

    id: str
    title: str = ""
    definition: str = ""


class Judge(Protocol):
    """Judges passages by categories."""

    name: str
    """Id, as in Judgement.judge."""

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        """[passage][category], in the order given; every pair has exactly one Judgement."""
        ...


JudgeFactory = Callable[..., Judge]
"""`factory(name=..., **options)`; raises ConfigError for options that it does not take."""
judges: Registry[JudgeFactory] = Registry("judge", group="workbench.judges")
judges.register_lazy("rules", "safety.judges.rules:build_rules")
judges.register_lazy("keyword", "safety.judges.rules:build_rules")
judges.register_lazy("regex", "safety.judges.rules:build_rules")
judges.register_lazy("refusal", "safety.judges.refusal:RefusalJudge")
judges.register_lazy("classifier", "safety.judges.classifier:ClassifierJudge")
judges.register_lazy("model", "safety.judges.model:ModelJudge")
judges.register_lazy("ensemble", "safety.judges.ensemble:build_ensemble")


def build_judge(name: str, kind: str, options: Mapping[str, Any] | None = None) -> Judge:
    """The judge of a policy's `judges:` entry. Raises UserError: unknown kind, options it does not take."""
    factory = judges.get(kind)
    try:
        return factory(name=name, **dict(options or {}))
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(f"judge {name}: kind {kind}: {str(error).split(') ')[-1].split('() ')[-1]}") from None


def judgement_of(
    category: str, judge: str, probability: float | None, *, evidence: str = "", uncertainty: float | None = None
) -> Judgement:
    """A Judgement by the judge's own thresholds; a number that is none, or outside 0..1, is unscorable."""
    if probability is None or not 0.0 <= probability <= 1.0:
        reason = evidence or "the judge gave no probability"
        return Judgement(category=category, value="unscorable", judge=judge, evidence=reason)
    value: JudgementValue = "violates" if probability >= HIGH else "allowed" if probability < LOW else "uncertain"
    if uncertainty is None:
        uncertainty = 1.0 - abs(2.0 * probability - 1.0)
    return Judgement(
        category=category,
        value=value,
        judge=judge,
        probability=probability,
        uncertainty=uncertainty,
        evidence=evidence,
    )


def unscorable(category: str, judge: str, reason: str) -> Judgement:
    """No verdict: a time-out, a broken judge, no mass on the label tokens."""
    return Judgement(category=category, value="unscorable", judge=judge, evidence=reason)
