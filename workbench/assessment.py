"""Checkpoints under a policy: ask, judge, record, compare. Knows every part by its front door only.

Answers go through the same ledger as an evaluation's, so a killed assessment goes on where it stopped, and the same
answers are judged again under another policy without being computed again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError
from workbench.evaluation import Evaluated, EvaluationRequest, Listener, describe_environment, opened
from workbench.records import Checkpoint, Report

if TYPE_CHECKING:
    from benchmarks.lm import EngineLM
    from safety.assess import Asked, Compared, Judges
    from safety.judges.base import Judge
    from safety.probes import Question
    from safety.rates import JudgeError
    from safety.resolved import ResolvedPolicy
    from workbench.pipeline import Evaluation
    from workbench.store import Project

POLICY_SETTING = "policy"


@dataclass(frozen=True, kw_only=True, slots=True)
class AssessmentRequest:
    """What to ask under which policy. All of it shapes the numbers."""

    policy: str | Path
    probes: Sequence[str] = ()
    """Empty: all of them."""
    prompts: Sequence[str | Path] = ()
    """Own files of questions."""
    attacks: Sequence[str] | None = None
    """None: those that the policy's `robustness` dimension names; empty: none."""
    limit: int | None = None
    """Questions of each probe."""
    per_attack: int = 20
    """Harmful questions in each wrapper."""
    judges: Sequence[str] = ()
    """Judges of the policy that may raise, besides the refusal detector; `NAME=CHECKPOINT` for a model judge."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the caller that the policy's conditions ask for."""
    seed: int = 0
    engine: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    workers: str | None = None
    """As in EvaluationRequest."""

    def of_engine(self) -> EvaluationRequest:
        """The part that an engine is opened by."""
        return EvaluationRequest(
            engine=self.engine,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            engine_options=self.engine_options,
            workers=self.workers,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AssessmentPlan:
    """The resolved policy, and all questions in the order in which they are asked."""

    policy: "ResolvedPolicy"
    context: Mapping[str, Any]
    """Attributes of whoever asks: the request's, else those that the policy assumes."""
    questions: tuple["Question", ...]
    attacks: tuple[str, ...]
    probes: tuple[str, ...]


def build_assessment(project: "Project", request: AssessmentRequest) -> AssessmentPlan:
    """Everything that can be wrong with a request is found here, before a model is loaded. Raises UserError."""
    from safety.assess import with_attacks
    from safety.attacks import NONE, TRANSFORMS, check_attacks
    from safety.policy import load_policy
    from safety.probes import PROBES, load_questions, read_own
    from workbench.config import data_folder

    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"--limit: must be at least 1, got {request.limit}")
    policy = load_policy(request.policy, folders=[project.root / "policies"])
    probes = tuple(request.probes) or (() if request.prompts else tuple(PROBES))
    data = data_folder(project.config, root=project.root)
    questions = load_questions(probes, data, limit=request.limit, seed=request.seed)
    for path in request.prompts:
        questions += read_own(Path(path), policy.categories)
    asked = request.attacks
    if asked is None:
        asked = policy.dimensions.get("robustness", {}).get("attacks") or tuple(TRANSFORMS)
    attacks = tuple(name for name in check_attacks(list(asked)) if name != NONE)
    wrapped = with_attacks(questions, attacks, per_attack=request.per_attack)
    context = dict(request.context) or dict(policy.context.get("assume") or {})
    return AssessmentPlan(
        policy=policy, context=context, questions=tuple(questions + wrapped), attacks=attacks, probes=probes
    )


def assess_many(
    checkpoints: Sequence[str | Path | Checkpoint],
    *,
    project: "Project | str | Path",
    request: AssessmentRequest,
    baseline: str | Path | Checkpoint | None = None,
    listener: Listener | None = None,
) -> "Evaluation":
    """Assess checkpoints under one policy, the baseline first; record a report of each and compare them.

    Raises UserError for what can be mended, RunError where a run failed; nothing computed is lost.
    """
    from workbench import pipeline

    home, listener = pipeline.open_project(project), listener or Listener()
    plan = build_assessment(home, request)
    resolved = [pipeline.resolve_checkpoint(one, home) for one in checkpoints]
    base = pipeline.resolve_checkpoint(baseline, home) if baseline is not None else None
    alike = [i for i, one in enumerate(resolved) if base is not None and one.fingerprint == base.fingerprint]
    first = assess_one(base, plan, home, request, listener) if base is not None and not alike else None
    done = [assess_one(one, plan, home, request, listener) for one in resolved]
    if alike:
        first = done[alike[0]]
    comparisons = {
        one.report.id: pipeline.compare(first.report.id, [one.report.id], project=home, seed=request.seed)[0]
        for one in done
        if first is not None and one.report.id != first.report.id
    }
    return pipeline.Evaluation(evaluated=tuple(done), baseline=first, comparisons=comparisons)


def assess_one(
    checkpoint: Checkpoint,
    plan: AssessmentPlan,
    project: "Project",
    request: AssessmentRequest,
    listener: Listener,
) -> Evaluated:
    """Ask, judge, record. What is computed is kept, whatever happens."""
    from safety.assess import ask_all, judge_answers
    from workbench.store import report_id

    started = time.perf_counter()
    judges = build_judges(plan.policy, request, project)
    with opened(checkpoint, project, request.of_engine(), listener) as lm:
        answers = ask_all(plan.questions, LedgerAsker(lm))
    try:
        assessed = judge_answers(answers, plan.policy, judges, context=plan.context, seed=request.seed)
    finally:
        for judge in judges.extra:
            close_engine(judge)
    for note in [*lm.usage.notes, *assessed.notes]:
        listener.on_note(note)
    seconds = time.perf_counter() - started
    error = None if judges.extra else judges.refusal_error
    report = _build_report(checkpoint, lm, plan, request, assessed.results, error=error, seconds=seconds)
    report = replace(report, id=report_id(report, assessed.items))
    project.store.add_report(report, assessed.items)
    return Evaluated(report=report, items=assessed.items, usage=lm.usage, computed=lm.computed, reused=lm.reused)


def build_judges(policy: "ResolvedPolicy", request: AssessmentRequest, project: "Project") -> "Judges":
    """The shipped refusal detector and classifier, with the policy's own judges that the request names."""
    from safety.assess import Judges
    from safety.judges.base import build_judge
    from safety.judges.card import read_errors
    from safety.judges.classifier import ClassifierJudge
    from safety.judges.refusal import ARTEFACT, RefusalJudge
    from workbench.engines.loading import load
    from workbench.errors import did_you_mean
    from workbench.references import resolve_checkpoint

    extra = []
    for asked in request.judges:
        name, _, model = asked.partition("=")
        if name not in policy.judges:
            raise ConfigError(
                f"--judge {name}: policy {policy.name} has no judge of that name; {did_you_mean(name, policy.judges)}"
            )
        entry = policy.judges[name]
        options = dict(entry.get("options") or {})
        if entry["kind"] == "model":
            if not model:
                raise ConfigError(f"--judge {name}: a model judges; name its checkpoint: --judge {name}=smollm2")
            # The codes between which texts stand are drawn from the policy's hash and the text: reports repeat.
            options |= {"engine": load(resolve_checkpoint(model, project)), "nonce": policy.hash}
        extra.append(build_judge(name, str(entry["kind"]), options))
    errors = read_errors(ARTEFACT)
    return Judges(
        refusal=RefusalJudge(name="refusal"),
        content=ClassifierJudge(name="moderation"),
        extra=tuple(extra),
        refusal_error=next(iter(errors.values()), None),
    )


def close_engine(judge: "Judge") -> None:
    """Free the model of a model judge; others have none."""
    engine = getattr(judge, "engine", None)
    if engine is not None:
        engine.close()


class LedgerAsker:
    """An EngineLM as an assessment asks it."""

    def __init__(self, lm: "EngineLM") -> None:
        self._lm = lm
        template = getattr(lm.tokenizer, "chat_template", None) if lm.tokenizer is not None else None
        self._has_template = bool(template)

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The model's chat format; a model without one gets plain lines."""
        if self._has_template:
            return self._lm.apply_chat_template([dict(turn) for turn in turns])
        names = {"system": "Instruction", "user": "User", "assistant": "Assistant"}
        lines = [f"{names[turn['role']]}: {turn['content']}" for turn in turns]
        return "\n".join([*lines, "Assistant:"])

    def generate(self, asked: Sequence["Asked"]) -> list[str]:
        """Greedy answers. A model without a chat format stops where it would speak for the user."""
        from lm_eval.api.instance import Instance

        until = [] if self._has_template else ["\nUser:"]
        instances = [
            Instance(
                request_type="generate_until",
                doc={},
                arguments=(one.prompt, {"until": until, "max_gen_toks": one.max_new_tokens, "do_sample": False}),
                idx=0,
                metadata=(one.tile, one.number, 1),
            )
            for one in asked
        ]
        return self._lm.generate_until(instances) if instances else []

    def score(self, compared: Sequence["Compared"]) -> list[float]:
        """Log-probabilities of continuations."""
        from lm_eval.api.instance import Instance

        instances = [
            Instance(
                request_type="loglikelihood",
                doc={},
                arguments=(one.context, one.continuation),
                idx=place,
                metadata=(one.tile, one.number, 1),
            )
            for place, one in enumerate(compared)
        ]
        return [logprob for logprob, _ in self._lm.loglikelihood(instances)] if instances else []


def _build_report(
    checkpoint: Checkpoint,
    lm: "EngineLM",
    plan: AssessmentPlan,
    request: AssessmentRequest,
    results: Sequence[Any],
    *,
    error: "JudgeError | None",
    seconds: float,
) -> Report:
    from workbench.evaluation import timing_of

    usage = lm.usage
    return Report(
        id="",
        checkpoint=checkpoint,
        suites=(),
        results=tuple(results),
        settings={
            "tasks": [*plan.probes, *(str(Path(path).name) for path in request.prompts)],
            "engine": lm.engine.name,
            "scorer": lm.engine.scorer,
            "window": lm.engine.max_length,
            "num_fewshot": None,
            "limit": request.limit,
            "seed": request.seed,
            "apply_chat_template": True,
            "system_instruction": None,
            POLICY_SETTING: plan.policy.name,
            "policy_hash": plan.policy.hash,
            "attacks": list(plan.attacks),
            "judges": ["refusal", "moderation", *request.judges],
            "context": dict(plan.context),
            "judge_error": asdict(error) if error is not None else None,
        },
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment() | ({"notes": "; ".join(usage.notes)} if usage.notes else {}),
        timing=timing_of(lm, seconds),
    )
