"""`workbench reward`: rewards that there are, and one tried out on recorded answers before a run is spent on it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_facts, print_json, print_line, print_table, say
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from training.rewards.base import Sample
    from training.rewards.trial import Trial


def ls(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the kinds of reward, with what each takes.

    Examples:
        workbench reward ls
        workbench reward ls --json
    """
    from training.rewards.base import rewards

    found = []
    for name in rewards.names():
        kind: Any = rewards.get(name)
        about = (kind.__doc__ or "").strip().splitlines()[0]
        found.append({"kind": name, "about": about, "options": list(_keys(kind.Options))})
    if as_json:
        print_json({"rewards": found})
        return
    rows = [[one["kind"], one["about"], ", ".join(one["options"])] for one in found]
    print_table(["kind", Column("what it gives"), Column("options", drop=1)], rows)
    say("next: name one in rl.rewards of a recipe; workbench reward test RECIPE ROLLOUTS tries it out")


def _keys(options: Any) -> list[str]:
    return [field.alias or name for name, field in options.model_fields.items()]


def test(
    recipe: Annotated[Path, typer.Argument(help="Recipe with rl.rewards.")],
    rollouts: Annotated[
        Path, typer.Argument(help="A run's folder, a file of its rollouts, or JSONL rows with an answer.")
    ],
    limit: Annotated[int, typer.Option(help="Answers at most.")] = 500,
    answer: Annotated[str, typer.Option(help="Column with the answer, of JSONL rows that are no rollouts.")] = "answer",
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score recorded answers by a recipe's rewards: distribution, ties, failures, and what smells of cheating.

    Each reward is asked twice, and it is told where it does not say the same. Exit code 1 where one failed on every
    answer, or gives all the same.

    Examples:
        workbench reward test recipe.yaml runs/my-rewards
        workbench reward test recipe.yaml answers.jsonl --answer completion
    """
    from training.recipe import load_recipe
    from training.rewards.trial import read_samples, try_rewards
    from training.rl.prompts import open_prompts
    from training.rl.setup import load_own
    from workbench.cli.projects import find_project
    from workbench.reinforcing import build_services

    found = load_recipe(recipe)
    if found.rl is None or not found.rl.rewards:
        raise ConfigError(f"{recipe}: names no rl.rewards, so there is nothing to try")
    if limit < 1:
        raise ConfigError(f"--limit {limit}: at least 1")
    prompts = None
    if rollouts.is_dir() or _is_recorded(rollouts):
        prompts = open_prompts(found.rl, tokenizer=None, folder=recipe.parent, on_bad_row=found.on_bad_row)
    samples: list[Sample] = read_samples(rollouts, found.rl, prompts, limit=limit, answer=answer)
    load_own(found.rl, recipe.parent)
    services = build_services(find_project(project, create=True), recipe.parent)
    trials = try_rewards(found.rl, services, samples)
    if as_json:
        print_json({"samples": len(samples), "rewards": trials})
    else:
        for trial in trials:
            _print_trial(trial)
    if any(trial.failed == len(samples) or trial.distinct == 1 for trial in trials):
        raise SystemExit(1)


def _is_recorded(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return "generation" in json.loads(file.readline() or "{}")
    except (OSError, ValueError, TypeError):
        return False


def _print_trial(trial: "Trial") -> None:
    from workbench.cli.runs import spark

    facts = [
        ("scored", f"{trial.samples - trial.failed:,} of {trial.samples:,} in {trial.seconds:.2g} s"),
        *[("failed", f"{count:,}: {why}") for why, count in trial.faults.items()],
    ]
    if trial.mean is not None:
        low, high = trial.interval or (trial.mean, trial.mean)
        facts += [
            ("mean", f"{trial.mean:.3f} [{low:.3f}, {high:.3f}], n = {trial.samples - trial.failed}"),
            ("distribution", f"{trial.low:.2f} {spark([float(one) for one in trial.histogram])} {trial.high:.2f}"),
            ("different scores", f"{trial.distinct:,}; the commonest is that of {trial.commonest:.0%}"),
        ]
    if trial.tied_groups is not None:
        facts.append(("groups without signal", f"{trial.tied_groups:.0%}"))
    print_facts(trial.name, facts)
    for smell in trial.smells:
        print_line(f"▲ {smell}")
    print_line()
