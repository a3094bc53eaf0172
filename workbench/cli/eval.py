"""`workbench eval`: checkpoints on suites and tasks, with error bars."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, Progress, format_duration, print_json, print_table, say

if TYPE_CHECKING:
    from benchmarks.progress import ProgressReport
    from workbench.agents import EpisodePlan
    from workbench.engines.base import Engine
    from workbench.pipeline import CheckpointCost, Evaluation
    from workbench.records import Checkpoint
    from workbench.store import Project

_PHASES = {"score": "scoring", "perplexity": "reading text", "generate": "writing", "episodes": "episodes"}


def command(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Folder, GGUF file, hub id, URL#model, or a name the project knows.", show_default=False),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Checkpoint or report to compare with; evaluated too.", rich_help_panel="Model"),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm or openai.", rich_help_panel="Model")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Model")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one forward pass.", rich_help_panel="Model")
    ] = None,
    cache_gb: Annotated[
        float | None, typer.Option(min=0.0, help="Most memory for shared prefixes, GB.", rich_help_panel="Model")
    ] = None,
    model_args: Annotated[
        str | None, typer.Option(help="More options of the engine: key=value,key=value.", rich_help_panel="Model")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes to share the work, or a Ray cluster: ray://HOST:10001.", rich_help_panel="Model"),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put prompts into the chat format.", rich_help_panel="Model")
    ] = False,
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite of tasks; may be repeated.", rich_help_panel="Tasks")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks, separated by commas.", rich_help_panel="Tasks")
    ] = None,
    environment: Annotated[
        list[Path] | None,
        typer.Option(help="File of an environment: episodes as a task; may be repeated.", rich_help_panel="Tasks"),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in each prompt.", rich_help_panel="Tasks")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="Items a task; below 1, a share.", rich_help_panel="Tasks")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draws shots, samples and resamples (default: 0).", rich_help_panel="Tasks")
    ] = None,
    variants: Annotated[
        int | None, typer.Option(min=2, max=6, help="Prompts to ask each question in.", rich_help_panel="Tasks")
    ] = None,
    choices_only: Annotated[
        bool,
        typer.Option(
            "--choices-only", help="Ask without the question too: can it be guessed?", rich_help_panel="Tasks"
        ),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="File of these options, or a recipe of Nova's.", rich_help_panel="Tasks")
    ] = None,
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Folder of task and suite files.", rich_help_panel="Tasks")
    ] = None,
    noise_floor: Annotated[
        bool,
        typer.Option(
            "--noise-floor", help="Compute the baseline twice: what does arithmetic do?", rich_help_panel="Tasks"
        ),
    ] = False,
    project: Annotated[
        Path | None, typer.Option(help="Project folder (default: the nearest).", rich_help_panel="Output")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost; compute nothing.", rich_help_panel="Output")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted evaluation.", rich_help_panel="Output")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel="Output")] = False,
) -> None:
    """Evaluate checkpoints on the same questions, with error bars, and what each kept or forgot against a baseline.

    Every answer is kept: an interrupted run goes on where it stopped, a baseline is paid for once, and a larger
    --limit pays only for the new questions.

    Examples:
        workbench eval smollm2 --suite sample-general
        workbench eval runs/shop/checkpoint-300 --suite shopping --suite general --baseline smollm2
        workbench eval smollm2 --tasks arc_easy,hellaswag --limit 200 --dry-run
        workbench eval runs/agent/checkpoint-50 --environment boxes.yaml --suite general --baseline smollm2
        workbench eval --config release.yaml --limit 500
    """
    from workbench.agents import plan_episodes
    from workbench.cli.eval_config import read_eval_config
    from workbench.cli.projects import find_project
    from workbench.cli.unfinished import clear_unfinished, read_unfinished, write_unfinished
    from workbench.errors import ConfigError, UserError
    from workbench.pipeline import EvaluationRequest, evaluate_many, plan_evaluation

    home = find_project(project, create=True)
    asked = read_eval_config(config, home)
    limit = asked.or_else("limit", limit)
    request = EvaluationRequest(
        suites=asked.or_else("suite", suite) or [],
        tasks=[
            name.strip() for part in asked.or_else("tasks", tasks) or [] for name in part.split(",") if name.strip()
        ],
        environments=[str(path) for path in asked.or_else("environment", environment) or []],
        num_fewshot=asked.or_else("num_fewshot", num_fewshot),
        limit=int(limit) if limit is not None and limit >= 1 else limit,
        seed=asked.or_else("seed", seed) or 0,
        apply_chat_template=asked.or_else("apply_chat_template", apply_chat_template),
        variants=asked.or_else("variants", variants),
        choices_only=asked.or_else("choices_only", choices_only),
        include_path=[str(path) for path in asked.or_else("include_path", include_path) or []],
        engine=asked.or_else("engine", engine),
        dtype=asked.or_else("dtype", dtype),
        batch_tokens=asked.or_else("batch_tokens", batch_tokens),
        cache_gb=asked.or_else("cache_gb", cache_gb),
        workers=asked.or_else("workers", workers),
        engine_options=_engine_options(asked.or_else("model_args", model_args)),
    )
    named = list(checkpoints or asked.checkpoints)
    base = asked.or_else("baseline", baseline) or home.config.baseline
    if resume and not named:
        named, base, request = read_unfinished(home.root)
    if not named:
        raise ConfigError("eval: no checkpoint named; give a folder, a GGUF file, a hub id, or smollm2")
    if dry_run:
        _print_costs(
            plan_evaluation(named, project=home, request=request, baseline=base), plan_episodes(home, request), as_json
        )
        return
    write_unfinished(home.root, named, base, request)
    talk = Talk()
    try:
        with talk:
            evaluation = evaluate_many(
                named, project=home, request=request, baseline=base, noise_floor=noise_floor, listener=talk.listener()
            )
    except KeyboardInterrupt:
        say(f"interrupted; {talk.kept()}. To go on: {shlex.join(['workbench', *_arguments()])}")
        raise SystemExit(130) from None
    except UserError:
        clear_unfinished(home.root)  # as it was asked it cannot go on
        raise
    clear_unfinished(home.root)
    _print_evaluation(evaluation, home, as_json)


def _engine_options(model_args: str | None) -> dict[str, Any]:
    """`key=value,key=value`, as lm-eval writes it; values are read as YAML."""
    from workbench.config import apply_overrides

    return apply_overrides({}, [part for part in (model_args or "").split(",") if part.strip()])


class Talk:
    """Progress and notes on stderr while a run goes on."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._doing: tuple[str, str] | None = None
        self._last: ProgressReport | None = None

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def listener(self) -> Any:
        """Who the pipeline tells how it goes."""
        from workbench.pipeline import Listener

        return Listener(on_loaded=self.loaded, on_progress=self.progress, on_note=self.note)

    def loaded(self, checkpoint: "Checkpoint", engine: "Engine", seconds: float) -> None:
        """A model is ready."""
        self._close()
        say(f"{checkpoint.name}: loaded in {seconds:.1f} s ({engine.scorer})")

    def progress(self, checkpoint: "Checkpoint", report: "ProgressReport") -> None:
        """So much of a phase is done."""
        doing = (checkpoint.fingerprint, report.phase)
        again = self._last is not None and (report.total, report.done) < (self._last.total, self._last.done)
        if doing != self._doing or again or (self._last is not None and report.total != self._last.total):
            self._close()
            if report.done < report.total:
                label = f"{checkpoint.name}: {_PHASES[report.phase]}"
                self._bar = Progress(label, report.total, done=report.done).__enter__()
            self._doing, self._last = doing, report
            return
        if self._bar is not None:
            self._bar.advance(report.done - self._bar.done)
        self._last = report

    def note(self, text: str) -> None:
        """Something that a reader must know."""
        self._close()
        say(f"note: {text}")

    def kept(self) -> str:
        """What an interrupted run keeps, in words."""
        if self._last is None:
            return "nothing was computed yet"
        return f"{self._last.done:,} of {self._last.total:,} items of this part are done, and every answer is kept"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = self._doing = None


def _print_evaluation(evaluation: "Evaluation", home: "Project", as_json: bool) -> None:
    from workbench.cli import tables

    first = [] if evaluation.baseline is None else [evaluation.baseline]
    shown = first + [one for one in evaluation.evaluated if one not in first]
    reports = [one.report for one in shown]
    if as_json:
        print_json(
            {
                "baseline": evaluation.baseline.report.id if evaluation.baseline else None,
                "reports": reports,
                "comparisons": evaluation.comparisons,
            }
        )
    else:
        print_table(*tables.report_table(reports, evaluation.comparisons))
    for note in tables.report_notes(reports, evaluation.comparisons):
        say(f"note: {note}")
    names = tables.unique_names(reports)
    for one in shown:
        if one.usage is not None:
            say(f"{names[one.report.id]}: {tables.cost_line(one.report.timing)}")
    for one in evaluation.evaluated:
        say(f"report {one.report.id[:12]} ({names[one.report.id]}) is in {_short(home.reports_folder)}")
    say(f"next: workbench {_next_command(evaluation)}{_project_option()}")


def _next_command(evaluation: "Evaluation") -> str:
    last = evaluation.evaluated[-1].report.id[:12]
    base = evaluation.baseline.report.id[:12] if evaluation.baseline and evaluation.comparisons else None
    return f"gate {last} --baseline {base}" if base else f"show {last}"


def _print_costs(costs: "list[CheckpointCost]", episodes: "list[EpisodePlan]", as_json: bool) -> None:
    if as_json:
        print_json({"costs": costs, "environments": episodes})
        return
    heads = ["checkpoint", "task", "items", "requests", "known", "tokens", "one by one", "to write"]
    columns = [Column(head, right=place > 1) for place, head in enumerate(heads)]
    rows = [
        [cost.checkpoint.name, one.task, *(f"{number:,}" for number in numbers)]
        for cost in costs
        for one in cost.tasks
        for numbers in [(one.items, one.requests, one.known, one.tokens, one.naive_tokens, one.new_tokens)]
    ]
    print_table(columns, rows)
    for cost in costs:
        tokens = sum(t.tokens for t in cost.tasks)
        time = "unknown time, no report of it yet" if cost.seconds is None else f"about {format_duration(cost.seconds)}"
        say(f"{cost.checkpoint.name}: {tokens:,} tokens to compute, {time}")
    for one in episodes:
        say(f"{one.task}: {one.rows * one.samples:,} episodes; what they cost, the environment decides")


def _arguments() -> list[str]:
    return sys.argv[1:]


def _project_option() -> str:
    """Repeat --project in the next command where this one had it."""
    arguments = _arguments()
    for place, argument in enumerate(arguments[:-1]):
        if argument == "--project":
            return f" --project {shlex.quote(arguments[place + 1])}"
    return next((f" {shlex.quote(a)}" for a in arguments if a.startswith("--project=")), "")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
