"""`workbench recipes`: recipes to start from."""

from typing import Annotated

import typer

from workbench.cli.output import print_json, print_line, print_table, say


def command(
    name: Annotated[str | None, typer.Argument(help="Print this one, to be saved and changed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the recipes to start from, or print one.

    Examples:
        workbench recipes
        workbench recipes pretrain
        workbench recipes sft
    """
    from training.recipe import load_recipe, shipped_recipes
    from workbench.errors import ConfigError, did_you_mean

    shipped = shipped_recipes()
    if name is not None:
        if name not in shipped:
            raise ConfigError(f"recipes: {name!r}: no such recipe; {did_you_mean(name, shipped)}")
        text = shipped[name].read_text(encoding="utf-8")
        if as_json:
            print_json({"name": name, "recipe": load_recipe(shipped[name]).model_dump(mode="json")})
        else:
            print_line(text.rstrip())
            say(f"save it, name your data, then: workbench train {name}.yaml --dry-run")
        return
    purposes = {
        key: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for key, path in shipped.items()
    }
    if as_json:
        print_json({"recipes": purposes})
        return
    print_table(["recipe", "for"], [[key, purpose] for key, purpose in purposes.items()])
    say("next: workbench recipes NAME")
