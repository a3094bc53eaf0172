"""Training speed and memory against TRL's own defaults, all in one run on one machine. Writes docs/performance.md.

python -m studies.train_speed [--steps 4] [--only sft,pretrain] [--no-page]

Each arm trains the same model on the same rows in a process of its own, one after the other. Tokens are those of rows,
without padding; the first step is not timed. Losses stand beside: a fast step that learns otherwise is worth nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- training: begin -->", "<!-- training: end -->"
ARMS = {"sft": ("workbench", "trl", "trl-packed"), "pretrain": ("workbench", "trl", "trl-packed")}
NAMES = {"workbench": "workbench", "trl": "TRL, its defaults", "trl-packed": "TRL, `packing=True`"}
TITLES = {"sft": "SFT on Dolly's pairs", "pretrain": "pre-training on a textbook"}


def measure(arm: str, work: str, model: str, data: Path, steps: int, *more: str) -> dict[str, Any]:
    """One arm in a process of its own."""
    command = [sys.executable, "-m", "studies.train_speed_worker", arm, work, model, str(data), str(steps), *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm} {work}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rate(found: dict[str, Any]) -> float:
    """Tokens of rows a second."""
    return found["tokens"] / found["seconds"]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, one row an arm."""
    lines = [
        "| work | trainer | steps | tokens a step | tokens/s | ours is | peak memory | ours needs | padding "
        "| loss, first and last step |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = {found["work"]: found for found in results if found["arm"] == "workbench"}
    for found in results:
        ours, steps = base[found["work"]], found["steps"]
        is_ours = found is ours
        padding = 1 - found["tokens"] / found["padded"] if "padded" in found else 0.0
        faster = "" if is_ours else f"{rate(ours) / rate(found):.2f} times as fast"
        needs = "" if is_ours else f"{ours['peak_gb'] / found['peak_gb']:.2f} of it"
        lines.append(
            f"| {TITLES[found['work']]} | {NAMES[found['arm']]} | {steps} | {found['tokens'] / steps:,.0f} "
            f"| {rate(found):.1f} | {faster} | {found['peak_gb']:.2f} GB | {needs} "
            f"| {'' if is_ours else f'{padding:.0%}'} | {found['losses'][0]:.3f}, {found['losses'][-1]:.3f} |"
        )
    shares = ", ".join(f"{TITLES[work]} {found['mixing_and_recording']:.2%}" for work, found in base.items())
    return "\n".join([*lines, "", f"Mixing, tokenising and recording rows, as a share of the step time: {shares}."])


def write_page(text: str) -> None:
    """Between the markers of the page."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="sft,pretrain")
    parser.add_argument("--arms", default="workbench,trl,trl-packed")
    parser.add_argument("--cpu", action="store_true", help="one thread, seconds of the processor: a busy machine")
    parser.add_argument("--no-page", action="store_true", help="print the table only")
    options = parser.parse_args()
    import torch
    import transformers
    import trl

    from studies.speed import machine as look_at
    from workbench.config import data_folder
    from workbench.engines.embedded import fetch_embedded

    model, data = str(fetch_embedded("smollm2").folder), data_folder()
    assert data is not None, "set WORKBENCH_DATA"
    results = []
    for work in options.only.split(","):
        for arm in [arm for arm in ARMS[work] if arm in options.arms.split(",")]:
            results.append(measure(arm, work, model, data, options.steps, *(["cpu"] if options.cpu else [])))
            print(json.dumps(results[-1]), flush=True)
    machine = [
        f"- processor: {look_at()['processor']}; float32 in all arms",
        f"- seconds: {'of the processor, one thread' if options.cpu else 'of the clock'}",
        f"- versions: torch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__}",
        f"- date: {datetime.now(UTC):%Y-%m-%d}; `python -m studies.train_speed --steps {options.steps}`",
    ]
    text = "\n".join([*machine, "", table(results)])
    print(text)
    if not options.no_page:
        write_page(text)


if __name__ == "__main__":
    main()
