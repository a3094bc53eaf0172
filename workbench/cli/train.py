"""`workbench train`: a recipe carried out, evaluated and decided upon."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Progress, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from training.control import Judged
    from training.run import Step
    from workbench.pipeline import TrainedRun
    from workbench.runs import PreparedRun


def command(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another value for a key: schedule.learning_rate=1e-4.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what it comes to, train nothing.")
    ] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train by a recipe, then evaluate against the start and decide: exit code 0 pass, 1 fail, 3 hold.

    Under torchrun or accelerate launch the same command trains on several processes (`-m workbench.cli train ...`).
    Sources are mixed exactly in tokens. What cannot work is refused before a second of training. An interrupted run
    goes on from its last checkpoint with the same command, to the same weights.

    Examples:
        workbench train recipe.yaml --dry-run
        workbench train recipe.yaml
        workbench train recipe.yaml --set schedule.learning_rate=1e-4 --set recipe=slower
    """
    from workbench.cli.gate import EXIT_CODES
    from workbench.cli.projects import find_project
    from workbench.pipeline import train
    from workbench.runs import build_hooks, prepare_run

    home = find_project(project, create=True)
    if dry_run:
        prepared = prepare_run(recipe, home, set_ or [])
        build_hooks(prepared, home)  # what it would watch is checked too
        _dry_run(prepared, as_json)
        return
    talk = Talk()
    try:
        with talk:
            found = train(
                recipe,
                project=home,
                overrides=set_ or [],
                on_prepared=talk.prepared,
                on_step=talk.step,
                on_judged=talk.judged,
                listener=talk.listener(),
            )
    except KeyboardInterrupt:
        say(f"interrupted. To go on from the last checkpoint: {shlex.join(['workbench', *sys.argv[1:]])}")
        raise SystemExit(130) from None
    if not found.checkpoints:  # one of several processes: the first one tells
        return
    _print_run(found, as_json)
    if found.gated is not None:
        raise SystemExit(EXIT_CODES[found.gated.decision.outcome])
    if found.made.stopped:
        raise SystemExit(EXIT_CODES["fail"])  # by a gate inside training, where nothing else was to decide


def _dry_run(run: "PreparedRun", as_json: bool) -> None:
    from training.inspection import packed_rows
    from training.preflight import refuse
    from workbench.cli.preflight import print_plan
    from workbench.preflight import check_model

    checked = check_model(run, steps=True)
    (first,) = packed_rows(run.recipe, run.sources, first=0, count=1) if run.recipe.mix else [[]]
    print_plan(run, checked, first, as_json=as_json)
    refuse(checked.findings)


class Talk:
    """Progress of training, then of the evaluation."""

    def __init__(self) -> None:
        from workbench.cli.eval import Talk as EvalTalk

        self._bar: Progress | None = None
        self._watched = ""
        self._eval = EvalTalk()

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def listener(self) -> Any:
        """Hears the evaluation."""
        return self._eval.listener()

    def prepared(self, run: "PreparedRun") -> None:
        """Say what is about to be trained."""
        from training.run import is_first_process

        if not is_first_process():
            return
        plan = run.plan
        if (rl := run.recipe.rl) is not None:
            say(f"{run.recipe.recipe}: {plan.steps} steps of {rl.episodes} episodes, from {run.start.name}")
            if rl.orchestrator is not None:
                say(f"  your orchestrator drives them; the way to them: {run.folder / 'orchestrator.json'}")
        else:
            tokens = f"{plan.tokens:,} tokens that carry loss"
            say(f"{run.recipe.recipe}: {plan.steps} steps, {tokens}, from {run.start.name}")
        for source in plan.sources:
            passes = f"{source.epochs:.2f} passes over {source.rows:,} rows"
            left = "".join(f", {count:,} {reason}" for reason, count in source.left_out.items())
            share = f"{source.share:.1%} of the tokens, " if run.recipe.rl is None else ""
            say(f"  {source.name}: {share}{passes}{left and '; left out'}{left.lstrip(',')}")
        for finding in run.findings:
            if finding.level == "warning":
                say(f"warning: {finding.check}: {finding.text}")
        for note in run.advice:
            say(f"advice: {note}")

    def step(self, seen: "Step") -> None:
        """A step was taken."""
        if self._bar is None:
            self._bar = Progress("training", seen.steps, unit="steps").__enter__()
        measure = f"loss {seen.loss:.3f}" if seen.reward is None else f"reward {seen.reward:.3f}"
        self._bar.label = f"{measure}  {seen.tokens_per_second:,.0f} tokens/s{self._watched}"
        self._bar.advance(seen.step - self._bar.done)
        if seen.step == seen.steps:
            self._close()

    def judged(self, found: "Judged") -> None:
        """The run was looked at from inside."""
        worst = min(found.tasks, key=lambda task: task.change / task.margin)
        self._watched = f"  retained {found.verdict} ({worst.change / worst.margin:+.1f} margins)"
        if found.verdict not in ("ok", "watch"):
            if self._bar is not None:
                self._close()  # a line of its own
            say(f"step {found.step}: {found.verdict}: {found.why}")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = None


def _print_run(found: "TrainedRun", as_json: bool) -> None:
    from workbench.frontier import frontier_document

    if as_json:
        decision = found.gated.decision if found.gated else None
        comparison = found.gated.comparison if found.gated else None
        more = {"frontier": frontier_document(found.frontier)} if found.frontier else {}
        comparisons = list(found.evaluation.comparisons.values()) if found.evaluation else []
        print_json(
            {
                "plan": found.prepared.plan,
                "checkpoints": found.checkpoints,
                "stopped": found.made.stopped,
                "decision": decision,
                "comparison": comparison,
                "trajectory": comparisons,
                **more,
            }
        )
        return
    if found.made.stopped:
        say(f"the run was stopped at step {found.made.steps}: {found.made.stopped}")
    for checkpoint in found.checkpoints:
        say(f"checkpoint {checkpoint.name}: weights {checkpoint.fingerprint[:12]}, {checkpoint.source}")
    if found.evaluation is None or found.gated is None:
        print_line(found.checkpoints[-1].source)
        say("nothing was evaluated: the recipe names no suites")
        return
    from workbench.cli import tables, verdicts
    from workbench.publish.wording import decision_headline

    evaluation, gated = found.evaluation, found.gated
    assert evaluation.baseline is not None
    trajectory = [evaluation.comparisons[one.report.id] for one in evaluation.evaluated[:-1]]
    reports = [evaluation.baseline.report, evaluation.evaluated[-1].report]
    print_table(*tables.report_table(reports, evaluation.comparisons))
    print_line()
    if trajectory and reports[1].id in evaluation.comparisons:
        print_table(*verdicts.trajectory_table([*trajectory, evaluation.comparisons[reports[1].id]]))
        print_line()
    if found.frontier is not None:
        from workbench.cli.merge import print_frontier

        print_frontier(found.frontier)
        print_line()
        reports[1] = found.frontier.best.report
    print_line(decision_headline(gated.decision, gated.comparison))
    for note in verdicts.verdict_notes(gated.comparison) if gated.comparison else []:
        say(f"note: {note}")
    say(f"next: workbench compare {reports[0].id[:12]} {reports[1].id[:12]} --flips 20")
