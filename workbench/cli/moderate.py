"""`workbench moderate`: posts against a policy's rules and their communities', and how sure the model is."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, format_duration, print_json, print_table, say

if TYPE_CHECKING:
    from workbench.moderation import ModerationRun


def command(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder, GGUF file, hub id, URL#model, or a name the project knows.")
    ],
    policy: Annotated[str, typer.Option(help="Name of a shipped policy, or a policy file.", rich_help_panel="Rules")],
    input: Annotated[
        str,
        typer.Option(help="JSONL, CSV, TSV or Parquet of posts; - reads JSONL from stdin.", rich_help_panel="Posts"),
    ] = "-",
    output: Annotated[
        Path | None,
        typer.Option(help="JSONL to write, gone on with when it exists (default: stdout).", rich_help_panel="Posts"),
    ] = None,
    communities: Annotated[
        Path | None,
        typer.Option(
            help="Folder of policies that extend the policy, or JSONL of community, rules.", rich_help_panel="Rules"
        ),
    ] = None,
    surface: Annotated[
        str, typer.Option(help="user_input, model_output or content.", rich_help_panel="Rules")
    ] = "content",
    layout: Annotated[
        str,
        typer.Option(help="rules_first, text_first, or auto: what shares more tokens.", rich_help_panel="Model"),
    ] = "auto",
    both_orders: Annotated[
        bool, typer.Option("--both-orders", help="Ask in both orders of the answers.", rich_help_panel="Model")
    ] = False,
    min_mass: Annotated[
        float,
        typer.Option(help="Least probability of Yes and No together, else unscorable.", rich_help_panel="Model"),
    ] = 0.90,
    calibration: Annotated[
        Path | None,
        typer.Option(help="What workbench review calibrate wrote for this model and policy.", rich_help_panel="Model"),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text, where it has another name.", rich_help_panel="Posts")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Posts at most.", rich_help_panel="Posts")] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Posts of one call to the model.", rich_help_panel="Model")] = 128,
    restart: Annotated[bool, typer.Option("--restart", help="Write the output anew.", rich_help_panel="Posts")] = False,
    queue: Annotated[
        str | None,
        typer.Option(help="Draw texts for people into this queue when all are judged.", rich_help_panel="Review"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts to draw.", rich_help_panel="Review")] = 200,
    ranker: Annotated[
        str, typer.Option(help="By what people's time is spent.", rich_help_panel="Review")
    ] = "expected_loss",
    seed: Annotated[int, typer.Option(help="Of the draw.", rich_help_panel="Review")] = 0,
    reference: Annotated[
        Path | None,
        typer.Option(help="Posts of before: what is unlike them is drawn more often.", rich_help_panel="Review"),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm or openai.", rich_help_panel="Model")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Model")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one forward pass.", rich_help_panel="Model")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes to share the work, or a Ray cluster: ray://HOST:10001.", rich_help_panel="Model"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the one around here).")] = None,
) -> None:
    """Judge posts by a policy's rules and those of their communities.

    Each post is asked about each rule in one pass, the probability of Yes and No is read, and the policy decides. What
    a model cannot answer is unscorable, never safe. With --output a run that was stopped goes on when given again.

    Examples:

        workbench moderate smollm2 --policy communities --input posts.jsonl --output judged.jsonl

        workbench moderate checkpoints/mod --policy communities --communities rules.jsonl --input posts.parquet

        cat posts.jsonl | workbench moderate smollm2 --policy default > judged.jsonl
    """
    from workbench.cli.projects import find_project
    from workbench.moderation import ModerationRequest, moderate, write_line

    if output is None and as_json:
        from workbench.errors import ConfigError

        raise ConfigError("--json: the summary and the lines would both go to stdout; add --output FILE")
    request = ModerationRequest(
        policy=policy,
        input=input,
        output=output,
        communities=communities,
        surface=surface,  # type: ignore[arg-type]  # checked there
        layout=layout,
        swap=both_orders,
        min_mass=min_mass,
        calibration=calibration,
        chunk=chunk,
        limit=limit,
        text_column=text_column,
        restart=restart,
        engine=engine,
        dtype=dtype,
        batch_tokens=batch_tokens,
        workers=workers,
    )
    home = find_project(project, create=True)
    draw = None
    if queue is not None:
        from workbench.moderation_queue import QueueRequest, check_queue_request

        draw = QueueRequest(name=queue, size=batch, ranker=ranker, seed=seed, reference=reference)
        check_queue_request(request, draw)
    try:
        run = moderate(checkpoint, project=home, request=request, write=write_line, on_progress=_told)
    except KeyboardInterrupt:
        kept = "what was written is kept" if output else "nothing is kept without --output"
        say(f"interrupted; {kept}. To go on: {shlex.join(['workbench', *sys.argv[1:]])}")
        raise SystemExit(130) from None
    except BrokenPipeError:  # whoever read the lines has enough
        raise SystemExit(0) from None
    if output is not None:
        print_json(_summary(run)) if as_json else _print_summary(run)
    _say_costs(run)
    if draw is not None:
        _fill(home, request, draw, run, project)


def _fill(home: Any, request: Any, draw: Any, run: "ModerationRun", project: Path | None) -> None:
    from workbench.cli.review import open_queue
    from workbench.moderation_queue import fill_queue, novelty_of

    work, operator = open_queue(home)
    novelty = None if draw.reference is None else novelty_of(home, run.checkpoint, request, draw.reference)
    found = fill_queue(home, work, operator, request, draw, novelty=novelty)
    parts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.strata.items())
    say(
        f"{found.drawn:,} of {found.posts:,} posts drawn for people ({parts}), {found.added:,} of them new in the queue"
    )
    named = [] if project is None else ["--project", str(project)]
    say(f"next: {shlex.join(['workbench', 'review', 'status', draw.name, *named])}")


def _told(run: "ModerationRun") -> None:
    new = run.posts - run.kept
    rate = new / run.seconds if run.seconds else 0.0
    say(
        f"{run.posts:,} posts, {rate:,.1f} a second; {run.actions.total() - run.actions['allow']:,} not plainly allowed"
    )


def _summary(run: "ModerationRun") -> dict[str, Any]:
    return {
        "posts": run.posts,
        "kept": run.kept,
        "pairs": run.pairs,
        "actions": dict(run.actions),
        "violations": dict(run.violations),
        "unscorable": run.unscorable,
        "cleared": None if run.calibrator is None else run.cleared,
        "layout": run.layout,
        "layout_tokens": dict(run.costs),
        "tokens": run.tokens,
        "naive_tokens": run.naive_tokens,
        "seconds": run.seconds,
        "policy": run.policy,
        "policy_hash": run.policy_hash,
        "prompt_version": run.prompt_version,
        "model": run.checkpoint.fingerprint,
        "output": str(run.output),
    }


def _print_summary(run: "ModerationRun") -> None:
    rows = [[f"action {name}", f"{count:,}", f"{count / run.posts:.1%}"] for name, count in run.actions.most_common()]
    rows += [[f"violates {n}", f"{c:,}", f"{c / run.posts:.1%}"] for n, c in run.violations.most_common()]
    rows.append(["a rule unscorable", f"{run.unscorable:,}", f"{run.unscorable / run.posts:.1%}"])
    if run.calibrator is not None:
        rows.append(["cleared alone", f"{run.cleared:,}", f"{run.cleared / run.posts:.1%}"])
    print_table([Column("posts"), Column("n", right=True), Column("share", right=True)], rows)


def _say_costs(run: "ModerationRun") -> None:
    for note in run.notes:
        say(f"note: {note}")
    if run.unscorable > run.posts / 2:
        say(
            f"note: of {run.unscorable:,} posts a rule could not be scored: the model does not answer Yes or No; "
            "tune it on labels, take another one, or ask for less with --min-mass"
        )
    if run.calibrator is not None and not run.calibrator.clear:
        say("note: the calibration promises nothing for any rule, so nothing is cleared alone")
    chosen = ""
    if run.costs:
        other = {name: f"{tokens:,}" for name, tokens in run.costs.items()}
        chosen = f" (rules first {other['rules_first']} tokens of a sample, text first {other['text_first']})"
    say(f"prompts {run.layout.replace('_', ' ')}{chosen}; policy {run.policy} ({run.policy_hash[:12]})")
    if run.tokens:
        saved = run.naive_tokens / run.tokens
        took = format_duration(run.seconds)
        say(f"{run.tokens:,} tokens computed in {took}, one prompt at a time would take {saved:.1f} times as many")
    if run.kept:
        say(f"{run.kept:,} posts were done already")
    if run.output is not None:
        say(f"{run.posts:,} lines are in {run.output}")
