"""What a policy does with a text: judgements -> one decision. One pure function, for evaluation and runtime alike."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from safety.resolved import RANK, Category, ResolvedPolicy, Step
from workbench.errors import ConfigError, did_you_mean
from workbench.records import Action, CategoryOutcome, GuardDecision, Judgement, JudgementValue, Surface

_WEIGHT: Mapping[str, int] = {"allowed": 0, "uncertain": 1, "unscorable": 2, "violates": 3}
_KINDS: Mapping[str, str] = {"violates": "actions", "uncertain": "uncertain", "unscorable": "on_error"}


def decide(
    policy: ResolvedPolicy,
    surface: Surface,
    judgements: Iterable[Judgement],
    context: Mapping[str, Any] | None = None,
    *,
    categories: Sequence[str] | None = None,
    today: date | None = None,
) -> GuardDecision:
    """The strictest action that the judgements ask for.

    Args:
        context: attributes of the request (never of the text); `entities`: the entity lists that the text names.
        categories: those that had to be judged; one without a judgement is unscorable. Default: all about which the
            policy does something on this surface, so that a judge that was forgotten never means "allowed".
        today: waivers that ended before this day are void; default: none has ended since the policy was resolved.

    Raises:
        ConfigError: a judgement of a category that the policy does not have.
    """
    context = dict(context or {})
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.category not in policy.categories:
            known = did_you_mean(judgement.category, policy.categories)
            raise ConfigError(f"policy {policy.name}: no category {judgement.category!r}; {known}")
        found.setdefault(judgement.category, []).append(judgement)
    readings = {name: _read_all(policy, policy.categories[name], own) for name, own in found.items()}
    context["clean"] = [name for name, (value, _) in readings.items() if value == "allowed"]
    asked = policy.judged(surface, context, today=today) if categories is None else categories
    for name in asked:
        if not any(above in readings for above in policy._ancestors(name)):
            readings[name] = ("unscorable", None)
    outcomes = [_outcome(policy, name, *reading, surface, context, today) for name, reading in readings.items()]
    # The strictest action first; of equal ones the surest finding, then the id, so that order never matters.
    outcomes.sort(key=lambda o: (-RANK[o.action], -_WEIGHT[o.value], -(o.probability or 0.0), o.category))
    first = outcomes[0] if outcomes and outcomes[0].action != "allow" else None
    return GuardDecision(
        action=first.action if first else "allow",
        category=first.category if first else None,
        reason=first.reason if first else "nothing that this policy acts on was found",
        policy_hash=policy.hash,
        surface=surface,
        outcomes=tuple(outcomes),
    )


def read_judgement(category: Category, judgement: Judgement) -> JudgementValue:
    """What a judgement says at this policy's thresholds; without any, what the judge itself says."""
    if judgement.value == "unscorable" or judgement.probability is None:
        return judgement.value
    if not 0.0 <= judgement.probability <= 1.0:  # NaN as well
        return "unscorable"
    threshold = category.thresholds.get(judgement.judge) or category.thresholds.get("*")
    if threshold is None:
        return judgement.value
    if judgement.probability >= threshold.high:
        return "violates"
    return "allowed" if judgement.probability < threshold.low else "uncertain"


def doubt_of(outcome: CategoryOutcome) -> float:
    """1 - |2p - 1|, the margin of two classes; 1 of what could not be scored, 0 of what a rule of words decided."""
    if outcome.value == "unscorable":
        return 1.0
    return 0.0 if outcome.probability is None else 1.0 - abs(2.0 * outcome.probability - 1.0)


def effective_step(
    category: Category, value: str, surface: Surface, context: Mapping[str, Any] | None, today: date | None
) -> Step:
    """What is done with a value other than allowed; a doubt is never treated more harshly than a certain violation."""
    violation = category.step("actions", surface, context, today=today)
    if value == "violates":
        return violation
    doubt = category.step(_KINDS[value], surface, context, today=today)
    return doubt if RANK[doubt.action] <= RANK[violation.action] else violation


Reading = tuple[JudgementValue, Judgement | None]


def _read_all(policy: ResolvedPolicy, category: Category, judgements: Sequence[Judgement]) -> Reading:
    """Several judges as one: the strictest reading counts, with three exceptions that a policy can name.

    A judge that may only raise clears nothing that others must judge. A second opinion (`when: uncertain`) settles the
    doubt of the first. With `combine: agree`, judges that differ make it uncertain, unless a raising one found it.
    """
    raising = {name for name, judge in policy.judges.items() if judge.get("effect") == "raise_only"}
    second = {name for name, judge in policy.judges.items() if judge.get("when") == "uncertain"}
    read: list[tuple[JudgementValue, Judgement]] = [(read_judgement(category, one), one) for one in judgements]
    if not set(category.judges) <= raising:
        read = [(value, one) for value, one in read if value != "allowed" or one.judge not in raising]
    if any(value in ("violates", "allowed") and one.judge in second for value, one in read):
        read = [(value, one) for value, one in read if value != "uncertain"]
    if not read:
        return "unscorable", None
    values: set[JudgementValue] = {value for value, _ in read}
    raised = any(value == "violates" and one.judge in raising for value, one in read)
    if policy.combine == "agree" and {"violates", "allowed"} <= values and not raised:
        return "uncertain", max((one for _, one in read), key=_surest)
    worst = max(values, key=lambda value: _WEIGHT[value])
    return worst, max((one for value, one in read if value == worst), key=_surest)


def _surest(judgement: Judgement) -> tuple[float, str]:
    return -1.0 if judgement.probability is None else judgement.probability, judgement.judge


def _outcome(
    policy: ResolvedPolicy,
    name: str,
    value: JudgementValue,
    judgement: Judgement | None,
    surface: Surface,
    context: Mapping[str, Any],
    today: date | None,
) -> CategoryOutcome:
    action: Action = "allow"
    set_by = ""
    if value != "allowed":
        step = effective_step(policy.categories[name], value, surface, context, today)
        action, set_by = step.action, step.set_by
    return CategoryOutcome(
        category=name,
        value=value,
        action=action,
        reason=_reason(name, value, judgement, action, surface, set_by),
        probability=judgement.probability if judgement and value != "unscorable" else None,
        judge=judgement.judge if judgement else "",
        set_by=set_by,
    )


def _reason(
    name: str, value: JudgementValue, judgement: Judgement | None, action: Action, surface: Surface, set_by: str
) -> str:
    if judgement is None:
        who = ": no judge answered"
    elif judgement.probability is None or value == "unscorable":
        who = f" says {judgement.judge}"
    else:
        who = f" says {judgement.judge} ({judgement.probability:.2f})"
    where = f" by {set_by}" if set_by else ""
    return f"{name}: {value}{who}; {surface}: {action}{where}"
