"""Many posts under a policy: read, judge, write as they come, go on where a run was killed. Knows every part by its
front door only.

What is written is a line for each post, in the order of the input. Posts are judged in chunks that are counted from the
input's beginning, so a run that was killed computes the same chunks and writes the same bits as one that was not.
"""

import hashlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workbench.errors import ConfigError, did_you_mean
from workbench.evaluation import EvaluationRequest, engine_options
from workbench.posts import STDIN, read_posts
from workbench.records import SURFACES, Checkpoint, Surface
from workbench.resumable import ResumableLines

if TYPE_CHECKING:
    from safety.calibration import Calibrator
    from safety.moderation import Moderated, Moderator, Post
    from workbench.store import Project

SCHEMA_VERSION = 1
MIN_MASS = 0.90
CHUNK = 128
"""Posts of one call to the engine."""
AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModerationRequest:
    """What to judge, by which rules, and where to write it."""

    policy: str | Path
    input: str | Path = STDIN
    output: Path | None = None
    """None: lines go to whoever asked, and a killed run begins anew."""
    communities: Path | None = None
    """A folder of policies that extend `policy`, or JSONL of {community, rules: [sentence, ...]}."""
    surface: Surface = "content"
    layout: str = AUTO
    """`auto`: what shares more. A model that was tuned on one layout is asked in that one."""
    swap: bool = False
    """Ask in both orders of the answers: two passes for each rule."""
    min_mass: float = MIN_MASS
    """Least probability of Yes and No together; under it a rule is unscorable."""
    calibration: Path | None = None
    """What `workbench review calibrate` wrote: lines bear calibrated probabilities and what may be cleared alone."""
    chunk: int = CHUNK
    limit: int | None = None
    """Posts at most."""
    text_column: str | None = None
    restart: bool = False
    """Write the output anew."""
    engine: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    workers: str | None = None
    """As in EvaluationRequest: each chunk is shared among them, so larger chunks keep them busier."""


@dataclass(kw_only=True, slots=True)
class ModerationRun:
    """How far a run is, and at its end what came of it."""

    checkpoint: Checkpoint
    policy: str
    policy_hash: str
    layout: str
    prompt_version: str
    costs: Mapping[str, int]
    """Layout -> distinct tokens of the sample by which it was chosen; empty where it was given."""
    posts: int = 0
    kept: int = 0
    """Posts that an earlier run had written."""
    pairs: int = 0
    """Rules asked, over all posts."""
    actions: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    """Posts for each rule that they violate."""
    unscorable: int = 0
    """Posts with a rule that could not be scored."""
    tokens: int = 0
    """Tokens that this run computed."""
    naive_tokens: int = 0
    """Tokens that one pass for each prompt would have computed."""
    seconds: float = 0.0
    output: Path | None = None
    notes: list[str] = field(default_factory=list)
    cleared: int = 0
    """Posts that were cleared alone, under the calibration's promise."""
    calibrator: "Calibrator | None" = field(default=None, repr=False)

    def count(self, row: Mapping[str, Any]) -> None:
        """Take a line into the sums."""
        rules = row["rules"]
        self.posts += 1
        self.pairs += len(rules)
        self.actions[row["action"]] += 1
        self.violations.update(name for name, one in rules.items() if one["value"] == "violates")
        self.unscorable += any(one["value"] == "unscorable" for one in rules.values())
        self.cleared += bool(row.get("cleared"))


def moderate(
    checkpoint: str | Path | Checkpoint,
    *,
    project: "Project | str | Path",
    request: ModerationRequest,
    write: Callable[[Mapping[str, Any]], None] | None = None,
    on_progress: Callable[[ModerationRun], None] = lambda _: None,
    posts: "Iterable[Post] | None" = None,
    stdin: IO[str] | None = None,
) -> ModerationRun:
    """Judge posts and write a line for each; what an earlier run wrote into the same output is kept.

    Args:
        write: takes lines where the request names no output.
        posts: instead of the request's input.

    Raises:
        UserError: what can be mended: policy, input, output of another run.
        RunError: the engine or the disk failed; what was written is kept.
    """
    from workbench import pipeline
    from workbench.drifting import note_enforced
    from workbench.engines.loading import load

    _check(request)
    home = pipeline.open_project(project)
    asked = pipeline.resolve_checkpoint(checkpoint, home)
    communities = build_communities(request, home)
    note_enforced(home, communities.base)
    given = read_posts(request.input, text_column=request.text_column, stdin=stdin) if posts is None else iter(posts)
    given = itertools.islice(given, request.limit)
    first = list(itertools.islice(given, request.chunk))
    if not first:
        raise ConfigError(f"{request.input}: no posts")
    of_engine = EvaluationRequest(
        engine=request.engine,
        dtype=request.dtype,
        batch_tokens=request.batch_tokens,
        engine_options=request.engine_options,
        workers=request.workers,
    )
    engine = load(asked, **engine_options(asked, home, of_engine))
    try:
        moderator, run = _prepare(asked, engine, communities, request, first)
        header = {
            "schema_version": SCHEMA_VERSION,
            "model": asked.fingerprint,
            "tokenizer": asked.tokenizer,
            "scorer": engine.scorer,
            "policy": communities.base.name,
            "policy_hash": communities.base.hash,
            "communities": str(request.communities or ""),
            "prompt_version": run.prompt_version,
            "min_mass": request.min_mass,
            "surface": request.surface,
            "chunk": request.chunk,
        }
        if request.calibration is not None:
            header["calibration"] = hashlib.sha256(request.calibration.read_bytes()).hexdigest()
        chunks = itertools.chain([first], _chunks(given, request.chunk))
        if request.output is None:
            _run_through(moderator, run, chunks, write or (lambda _: None), on_progress)
        else:
            output = ResumableLines(request.output, header, restart=request.restart)
            _run_on(moderator, run, chunks, output, on_progress)
    finally:
        engine.close()
    return run


def build_communities(request: ModerationRequest, project: "Project") -> Any:
    """The policy and its communities' rules. Raises ConfigError."""
    from safety.communities import Communities, read_rules
    from safety.policy import load_policy

    base = load_policy(request.policy, folders=[project.root / "policies"])
    if request.communities is None:
        return Communities(base)
    if request.communities.is_dir():
        return Communities(base, folder=request.communities)
    return Communities(base, rules=read_rules(request.communities))


def row_of(found: "Moderated", model: str, calibrator: "Calibrator | None" = None) -> dict[str, Any]:
    """One post's line: what is done with it, and of each rule what was found and how sure it is."""
    severity = {name: category.severity for name, category in found.policy.categories.items()}
    spans = {one.category: one.spans for one in found.judgements if one.spans}
    rules: dict[str, Any] = {}
    for outcome in sorted(found.decision.outcomes, key=lambda o: o.category):
        own: dict[str, Any] = {
            "value": outcome.value,
            "probability": None if outcome.probability is None else round(outcome.probability, 6),
            "action": outcome.action,
            "severity": severity[outcome.category],
        }
        if found.policy.categories[outcome.category].expressive:
            own["expressive"] = True
        if outcome.value == "unscorable":
            own["why"] = next((j.evidence for j in found.judgements if j.category == outcome.category), "")
        if outcome.category in spans:
            own["spans"] = [list(span) for span in spans[outcome.category]]
        rules[outcome.category] = own
    row = {
        "schema_version": SCHEMA_VERSION,
        "id": found.post.id,
        "community": found.post.community,
        "action": found.decision.action,
        "category": found.decision.category,
        "reason": found.decision.reason,
        "doubt": round(found.doubt, 6),
        "rules": rules,
        "policy": found.policy.name,
        "policy_hash": found.policy.hash,
        "model": model,
    }
    if calibrator is not None:
        _calibrate(row, calibrator)
    return row


def _calibrate(row: dict[str, Any], calibrator: "Calibrator") -> None:
    """Put calibrated probabilities into a line, and whether it is cleared alone.

    A text is cleared by the rule that is in question of it, at that rule's own promise; one that breaks a rule, or of
    which a rule could not be scored, never is.
    """
    import numpy as np

    from safety.review.ranking import dearest_rule

    rules = row["rules"]
    for name, one in rules.items():
        if one["probability"] is not None and name in calibrator.curves:
            given = np.array([one["probability"]])
            one["calibrated"] = round(float(calibrator.apply(name, given, [row["community"]])[0]), 6)
    name = dearest_rule(row)
    promise = calibrator.clear.get(name)
    sure = all(one["value"] not in ("violates", "unscorable") for one in rules.values())
    probability = rules[name]["probability"] if name else None
    row["cleared"] = promise is not None and sure and probability is not None and probability < promise.below


def _check(request: ModerationRequest) -> None:
    from safety.prompt import LAYOUTS

    if request.layout not in (AUTO, *LAYOUTS):
        raise ConfigError(f"--layout {request.layout}: unknown; {did_you_mean(request.layout, [AUTO, *LAYOUTS])}")
    if request.surface not in SURFACES:
        raise ConfigError(f"--surface {request.surface}: unknown; {did_you_mean(request.surface, SURFACES)}")
    if request.chunk < 1:
        raise ConfigError(f"--chunk: must be at least 1, got {request.chunk}")
    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"--limit: must be at least 1, got {request.limit}")
    if request.restart and request.output is None:
        raise ConfigError("--restart: nothing to write anew; it goes with --output")
    if request.communities is not None and not request.communities.exists():
        raise ConfigError(f"{request.communities}: no such folder or file of communities' rules")


def _prepare(
    checkpoint: Checkpoint, engine: Any, communities: Any, request: ModerationRequest, first: "Sequence[Post]"
) -> "tuple[Moderator, ModerationRun]":
    from safety.calibration import Binding, Calibrator
    from safety.judges.model import ModelJudge
    from safety.moderation import Moderator
    from safety.prompt import LAYOUTS

    # The code between which a text stands is drawn from the policy's hash and the text: lines repeat.
    judge = ModelJudge(
        name="model",
        engine=engine,
        nonce=communities.base.hash,
        min_mass=request.min_mass,
        swap=request.swap,
        strict=True,
    )
    moderator = Moderator(communities, judge, surface=request.surface)
    costs: Mapping[str, int] = {}
    layout = request.layout
    fitted = None if request.calibration is None else Calibrator.read(request.calibration)
    if layout == AUTO and fitted is not None:
        layout = next((one for one in LAYOUTS if one in fitted.binding.prompt_version.split("/")), AUTO)
    if layout == AUTO:
        layout, costs = moderator.choose_layout(first)
    own: ModelJudge = judge.in_layout(layout)  # type: ignore[arg-type]  # checked above
    moderator.judge = own
    calibrator = None
    if request.calibration is not None:
        binding = Binding(
            model=checkpoint.fingerprint, policy_hash=communities.base.hash, prompt_version=own.prompt_version
        )
        calibrator = Calibrator.load(request.calibration, binding)
    run = ModerationRun(
        checkpoint=checkpoint,
        policy=communities.base.name,
        policy_hash=communities.base.hash,
        layout=layout,
        prompt_version=own.prompt_version,
        costs=costs,
        output=request.output,
        calibrator=calibrator,
    )
    return moderator, run


def _run_through(
    moderator: "Moderator",
    run: ModerationRun,
    chunks: "Iterable[Sequence[Post]]",
    write: Callable[[Mapping[str, Any]], None],
    on_progress: Callable[[ModerationRun], None],
) -> None:
    for chunk in chunks:
        for row in _judge(moderator, run, chunk):
            run.count(row)
            write(row)
        on_progress(run)


def _run_on(
    moderator: "Moderator",
    run: ModerationRun,
    chunks: "Iterable[Sequence[Post]]",
    output: ResumableLines,
    on_progress: Callable[[ModerationRun], None],
) -> None:
    """Pass what is written, then go on; of a chunk that was cut short only the rest is written."""
    written = output.lines()
    for chunk in chunks:
        done = list(itertools.islice(written, len(chunk)))
        for post, row in zip(chunk, done, strict=False):
            if row.get("id") != post.id:
                raise ConfigError(
                    f"{output.path}: line {run.posts + 1:,} is about post {row.get('id')!r}, and there the input has "
                    f"{post.id!r}; give the same input again, or --restart"
                )
            run.count(row)
        run.kept += len(done)
        if len(done) < len(chunk):
            rest = _judge(moderator, run, chunk)[len(done) :]
            output.append(rest)
            for row in rest:
                run.count(row)
            on_progress(run)
    if (left := next(written, None)) is not None:
        raise ConfigError(
            f"{output.path}: holds more lines than the input has posts, the first about {left.get('id')!r}; give the "
            "same input again, or --restart"
        )


def _judge(moderator: "Moderator", run: ModerationRun, chunk: "Sequence[Post]") -> list[dict[str, Any]]:
    started = time.perf_counter()
    model = run.checkpoint.fingerprint
    rows = [row_of(found, model, run.calibrator) for found in moderator.moderate(chunk)]
    run.seconds += time.perf_counter() - started
    usage = moderator.judge.engine.usage  # type: ignore[attr-defined]  # a ModelJudge, made above
    run.tokens += usage.prompt_tokens
    # the engine counts a request for each way to write an answer; a plain loop would compute the prompt once for all
    run.naive_tokens += usage.naive_tokens // moderator.judge.label_words  # type: ignore[attr-defined]
    run.notes += [note for note in usage.notes if note not in run.notes]
    return rows


def _chunks(posts: "Iterator[Post]", size: int) -> "Iterator[list[Post]]":
    while chunk := list(itertools.islice(posts, size)):
        yield chunk


def write_line(row: Mapping[str, Any]) -> None:
    """A line on standard output, as it comes."""
    import json

    sys.stdout.write(json.dumps(row, separators=(",", ":")) + "\n")
    sys.stdout.flush()
