"""`workbench mix plan`: short runs at several shares of replay, and the share to take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from workbench.mixplan import PlannedMix


def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, with suites of the domain and of what to retain.")],
    shares: Annotated[
        str, typer.Option(help="Percentages of replay to try, separated by commas; at least four.")
    ] = "0,2,5,15,30",
    replay: Annotated[
        list[str] | None, typer.Option(help="A source that is replay (default: as the recipe says); repeat.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Loss that a retained task may have: 2pt or 0.02 (default: the suite's margins).")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Loss-bearing tokens of an arm (default: a tenth of the recipe's).")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Train one more run at the chosen share; show predicted against got.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another value for a key: schedule.learning_rate=1e-4.")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan a mix: the share of replay with the largest domain gain at which no retained task overruns its budget.

    Short runs at several shares are trained and evaluated; a curve is fitted for each task, with an interval that holds
    what another run would differ by. A plan that was interrupted goes on with the same command.

    Examples:
        workbench mix plan recipe.yaml --replay general
        workbench mix plan recipe.yaml --replay general --shares 0,2,5,15,30 --budget 2pt --verify
    """
    from workbench.cli.eval import Talk as EvalTalk
    from workbench.cli.projects import find_project
    from workbench.margins import parse_margin
    from workbench.mixplan import plan_document, plan_mix

    home = find_project(project, create=True)
    talk = _Talk()
    made = plan_mix(
        recipe,
        project=home,
        shares=_parse_shares(shares),
        replay=replay or [],
        tokens=tokens,
        budget=parse_margin(budget, where="--budget") if budget else None,
        verify=verify,
        overrides=set_ or [],
        on_arm=talk.arm,
        on_step=talk.step,
        listener=EvalTalk().listener(),
    )
    if as_json:
        print_json(plan_document(made))
    else:
        _print_plan(made)


class _Talk:
    """One line an arm, and one a few steps."""

    def __init__(self) -> None:
        self._told = ""

    def arm(self, share: float, number: int, count: int) -> None:
        self._told = f"arm {number} of {count}, {share:.1%} replay"
        say(self._told)

    def step(self, seen: Any) -> None:
        if seen.step == seen.steps or seen.step % max(1, seen.steps // 4) < 1:
            say(f"  step {seen.step}/{seen.steps}  loss {seen.loss:.3f}  {seen.tokens_per_second:,.0f} tokens/s")


def _print_plan(made: "PlannedMix") -> None:
    tasks = [curve.task for curve in made.plan.curves]
    columns = [Column("replay", right=True), Column("tokens", right=True, drop=2)]
    columns += [Column(f"{task}{' (domain)' if curve.is_domain else ''}", right=True, drop=1)
                for task, curve in zip(tasks, made.plan.curves, strict=True)]  # fmt: skip
    rows: list[list[Any]] = [
        [f"{arm.share:.1%}", f"{arm.tokens:,}", *(f"{arm.changes[task]:+.4f}" for task in tasks)] for arm in made.arms
    ]
    print_table(columns, rows)
    say("changes against the start in each task's own unit; losses are negative")
    print_line()
    if made.plan.share is None:
        print_line(f"no share: {made.plan.why}")
    else:
        shares = ", ".join(f"{name} {share:.3g}" for name, share in made.shares.items())
        print_line(f"{made.plan.share:.1%} replay: {made.plan.why}")
        print_line(f"shares of the mix: {shares}")
    share = made.plan.safest if made.plan.share is None else made.plan.share
    head = [
        Column("task"),
        Column("curve", drop=2),
        Column("predicted [90%]", right=True),
        Column("budget", right=True),
        Column("got", right=True),
        Column("inside"),
    ]
    checks = {check.task: check for check in made.checks}
    body: list[list[Any]] = []
    for curve in made.plan.curves:
        value, low, high = curve.at(share)
        check = checks.get(curve.task)
        body.append(
            [
                curve.task,
                curve.shape,
                f"{value:+.4f} [{low:+.4f}, {high:+.4f}]",
                None if curve.is_domain else f"{curve.margin:g}",
                None if check is None else f"{check.got:+.4f}",
                None if check is None else ("yes" if check.is_inside else "no"),
            ]
        )
    print_line()
    print_table(head, body)
    if not made.checks:
        say("next: the same command with --verify")


def _parse_shares(text: str) -> list[float]:
    from workbench.errors import ConfigError

    found: list[float] = []
    for part in text.split(","):
        try:
            found.append(float(part.strip().removesuffix("%")) / 100)
        except ValueError:
            raise ConfigError(f"--shares: {part.strip()!r}: a percentage is expected, such as 0,2,5,15,30") from None
    return found
