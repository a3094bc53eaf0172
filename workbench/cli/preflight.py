"""How a checked run and its data look on a terminal: the mix, what was checked, rows with their loss mask."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.cli.output import Column, format_duration, has_colour, print_json, print_line, print_table, say, tone

if TYPE_CHECKING:
    from training.inspection import Piece, SourceLook
    from training.preflight import Finding, Measured
    from workbench.preflight import Preflight
    from workbench.runs import PreparedRun

SIGNS = {"ok": ("●", "good"), "warning": ("▲", "warn"), "refused": ("■", "bad")}


def print_plan(run: "PreparedRun", checked: "Preflight", pieces: "Sequence[Piece]", *, as_json: bool) -> None:
    """What `train --dry-run` shows."""
    plan, findings = run.plan, [*run.findings, *checked.findings]
    if as_json:
        print_json(
            {
                "recipe": run.recipe.model_dump(mode="json"),
                "start": run.start,
                "plan": plan,
                "advice": run.advice,
                "checks": findings,
                "measured": checked.measured,
            }
        )
        return
    numbers = ["rows", "left out", "tokens", "share", "asked", "passes", "skipped"]
    rows = [
        [
            s.name,
            f"{s.rows:,}",
            f"{sum(s.left_out.values()):,}",
            f"{s.tokens:,}",
            f"{s.share:.1%}",
            f"{s.asked:.1%}",
            f"{s.epochs:.2f}",
            f"{s.skipped:,}",
        ]
        for s in plan.sources
    ]
    print_table([Column("source"), *(Column(name, right=True) for name in numbers)], rows)
    for source in plan.sources:
        if source.left_out:
            say(f"{source.name}: left out: {_reasons(source.left_out)}")
    if (rl := run.recipe.rl) is not None:
        say(f"{plan.steps} steps of {rl.episodes} episodes, each answer of at most {rl.max_tokens} tokens")
    else:
        say(f"{plan.steps} steps of {run.recipe.batch_tokens:,} tokens, {plan.packed_tokens:,} in all")
    if plan.anneal_step < plan.steps:
        say(f"the learning rate falls after step {plan.anneal_step}, where the stage-entry checkpoint is kept")
    print_findings(findings)
    for note in run.advice:
        say(f"advice: {note}")
    if checked.measured:
        say(_measured(checked.measured))
    if pieces:
        say("the first row as it is trained on:" if run.recipe.rl is None else "the first row of the replay:")
        print_row(pieces, most=1200)
    say(f"from {run.start.name} ({run.start.fingerprint[:12]}) into {run.folder}")


def print_findings(findings: "Sequence[Finding]") -> None:
    """A line for each, the worst last, where it is read."""
    order = list(SIGNS)
    for one in sorted(findings, key=lambda one: order.index(one.level)):
        sign, kind = SIGNS[one.level]
        print_line(f"{tone(sign, kind)} {one.check}: {one.text}")  # pyright: ignore[reportArgumentType]


def _measured(found: "Measured") -> str:
    return (
        f"two real steps: {found.tokens_per_second:,.0f} tokens/s, {found.seconds_per_step:,.1f} s a step, about "
        f"{format_duration(found.seconds)} in all; {found.memory_bytes / 1e9:.1f} GB used, "
        f"{found.available_bytes / 1e9:.1f} GB more are free"
    )


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def print_look(looks: "Sequence[SourceLook]") -> None:
    """Sources with their samples."""
    heads = ["source", "kind", "role", *(Column(n, right=True) for n in ("rows", "left out", "tokens/char", "share"))]
    rows: list[list[Any]] = [
        [
            look.name,
            look.kind,
            look.category or look.role,
            f"{look.rows:,}",
            f"{sum(look.left_out.values()):,}",
            f"{look.tokens_per_character:.2f}",
            f"{look.asked:.1%}" + (f" → {look.asked_annealing:.1%}" if look.asked != look.asked_annealing else ""),
        ]
        for look in looks
    ]
    print_table(heads, rows)
    for look in looks:
        for sample in look.samples:
            print_line()
            title = f"{look.name}:{sample.row}  {sample.tokens:,} tokens, {sample.loss_tokens:,} carry loss"
            print_line(tone(title, "strong"))
            print_line(_safe(sample.text)[:600])


def print_row(pieces: "Sequence[Piece]", *, most: int | None = None) -> None:
    """A packed row: what carries loss is green, or stands in ⟦ ⟧ where there are no colours."""
    import sys

    coloured = has_colour(sys.stdout)
    left = most if most is not None else sum(len(piece.text) for piece in pieces)
    for piece in pieces:
        if piece.source == "padding":
            continue
        if piece.begins:
            print_line(tone(f"— {piece.source}:{piece.row}", "dim"))
        text = _safe(piece.text)[: max(0, left)]
        left -= len(text)
        if text:
            marked = tone(text, "good") if coloured else f"⟦{text}⟧"
            print_line(marked if piece.carries_loss else text)
        if left <= 0:
            say("… cut here; --json has all of it")
            break


def _safe(text: str) -> str:
    """Without characters that move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
