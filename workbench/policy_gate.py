"""What a policy says of a recorded checkpoint: its newest assessment under this very policy, held against its gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workbench.records import ItemScore, Report, RuleResult

if TYPE_CHECKING:
    from safety.resolved import ResolvedPolicy
    from workbench.overrides import Override
    from workbench.store import Store

POLICY_HASH = "policy_hash"
"""In `Report.settings` of an assessment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySide:
    """The part of a decision that is about a policy."""

    evaluation: Report | None
    """The newest report that is no assessment; None: the checkpoint was not evaluated."""
    rules: tuple[RuleResult, ...]
    evidence: Mapping[str, str]


def is_assessment(report: Report) -> bool:
    """Whether a report comes from an assessment under a policy."""
    return POLICY_HASH in report.settings


def policy_side(store: "Store", named: Report, policy: "ResolvedPolicy", *, baseline: str | None = None) -> PolicySide:
    """The policy's rules on the newest assessment of a checkpoint; `named` itself where it is one under this policy.

    An assessment under another version of the policy is none: it holds, and says which command makes a new one.
    `baseline`: a report or checkpoint, whose assessment gates `against: baseline` compare with.
    """
    own = [named, *store.reports(checkpoint=named.checkpoint.fingerprint)]
    evaluation = next((report for report in own if not is_assessment(report)), None)
    assessed = [report for report in own if is_assessment(report)]
    found = next((report for report in assessed if report.settings[POLICY_HASH] == policy.hash), None)
    evidence = {"policy": policy.name, "policy hash": policy.hash}
    if found is None:
        rules = [_not_assessed(named, policy, assessed)]
    else:
        base = _assessment_of(store, baseline, policy)
        rules = gate_assessment(policy, found, store.items(found.id), baseline=store.items(base.id) if base else None)
        evidence |= {"baseline assessment": base.id} if base else {}
        evidence |= {"assessment": found.id, "assessment items": store.items_digest(found.id) or ""}
    if evaluation is None:
        rules.append(_not_evaluated(named))
    return PolicySide(evaluation=evaluation, rules=tuple(rules), evidence=evidence)


def gate_assessment(
    policy: "ResolvedPolicy", report: Report, items: Sequence[ItemScore], *, baseline: Sequence[ItemScore] | None = None
) -> list[RuleResult]:
    """The policy's gates on one assessment, in the context and with the judge's error that it was made with."""
    from safety.gating import policy_rules
    from safety.rates import JudgeError

    measured = report.settings.get("judge_error")
    return policy_rules(
        policy,
        items,
        context=report.settings.get("context") or None,
        error=JudgeError(**measured) if measured else None,
        baseline=baseline,
        today=datetime.now(UTC).date(),
    )


def record_overrides(store: "Store", overrides: "Sequence[Override]", *, decision: str, outcome: str) -> None:
    """Keep who overrode what, with the signature, in the audit that only grows."""
    from workbench.store.audit import AuditEvent, append_audit

    events = [
        AuditEvent(
            kind="override",
            actor=one.signer,
            document={
                "rule": one.rule,
                "reason": one.reason,
                "statement": one.statement,
                "signature": one.signature,
                "decision": decision,
                "outcome": outcome,
            },
        )
        for one in overrides
    ]
    append_audit(store.database, events)


def _assessment_of(store: "Store", reference: str | None, policy: "ResolvedPolicy") -> Report | None:
    """The newest assessment of a checkpoint under exactly this policy."""
    if reference is None:
        return None
    named = store.report(reference)
    own = [named, *store.reports(checkpoint=named.checkpoint.fingerprint)]
    return next((report for report in own if report.settings.get(POLICY_HASH) == policy.hash), None)


def _not_assessed(named: Report, policy: "ResolvedPolicy", others: list[Report]) -> RuleResult:
    other = (
        f"only under {others[0].settings.get('policy')} {str(others[0].settings[POLICY_HASH])[:12]}" if others else ""
    )
    step = f"run workbench assess {named.checkpoint.name} --policy {policy.id}"
    reason = f"not assessed under {policy.name} {policy.hash[:12]}{f', {other}' if other else ''}; {step}"
    return RuleResult(rule="policy: assessed", outcome="hold", required=True, reason=reason, task="policy")


def _not_evaluated(named: Report) -> RuleResult:
    reason = f"nobody measured what it can do and what it forgot; run workbench eval {named.checkpoint.name}"
    return RuleResult(rule="evaluation", outcome="hold", required=True, reason=reason, task="evaluation")
