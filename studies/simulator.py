"""A simulator behind an endpoint as the only reward: what does a small model of molecules gain, and what does it lose?

    make study-simulator          # resumable; writes docs/studies/simulator.md

A model with random weights learns the language of molecules (SMILES) from public sets, by `start: {new: llama}`. RDKit
in a process of its own (examples/molecule_simulator.py) then scores what it writes, over HTTP, and GRPO raises the score:
once freely, once held near the start. Before and after, 1,000 molecules each; and as many draws from the start as the
run asked the simulator for, of which the best are kept: what the calls would have bought without training.
"""

# ruff: noqa: E501 (sentences of the page)

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from studies.experiment import PAGES, RESULTS, ROOT, read_rows, say, write_rows

TAKES = "15 minutes"
PORT, SECRET = 8431, "MOLECULE_SECRET"
ASKED = "molecule"
LONGEST, SPELLINGS, BEST = 60, 2, 100
"""Characters of a molecule; random spellings of each besides the canonical one (Arús-Pous et al. 2019); best ones kept."""
STEPS, GROUP, DRAWN = 80, 64, 1000
RESULT, PAGE = RESULTS / "simulator.json", PAGES / "simulator.md"
REWARD = {
    "kind": "http",
    "name": "simulator",
    "options": {
        "url": f"http://127.0.0.1:{PORT}/score",
        "allow_private": ["127.0.0.1"],
        "secret_env": SECRET,
        "batch": 64,
    },
}
BIRTH: dict[str, Any] = {
    "recipe": "smiles",
    "start": {"new": "llama", "layers": 4, "width": 192, "heads": 6, "vocabulary": 400, "context": 256},
    "method": "sft",
    "mix": [{"name": "molecules", "data": "molecules.jsonl", "share": 1.0, "max_epochs": 8}],
    "tokens": 400_000,
    "sequence_length": 256,
    "batch_tokens": 4096,
    "micro_batch": 16,
    "dtype": "float32",
    "schedule": {"kind": "cosine", "learning_rate": 2.0e-3, "warmup": 0.05},
    "log_every": 10,
    "save_every": 50,
    "keep": 1,
}
FREE: dict[str, Any] = {
    "recipe": "free",
    "start": "run/smiles",
    "method": "grpo",
    "rl": {
        "prompts": "asked.jsonl",
        "steps": STEPS,
        "prompts_per_step": 1,
        "group_size": GROUP,
        "max_tokens": 64,
        "temperature": 1.0,
        "kl": 0.0,
        "rewards": [REWARD],
        "on_failure": "stop",
    },
    "micro_batch": 64,
    "dtype": "float32",
    "schedule": {"kind": "constant", "learning_rate": 3.0e-4, "warmup": 0.0},
    "log_every": 1,
    "save_every": 10,
    "keep": 1,
}
HELD: dict[str, Any] = FREE | {"recipe": "held", "rl": FREE["rl"] | {"kl": 0.1}}
ENVIRONMENT: dict[str, Any] = {
    "task": "molecules",
    "prompts": "draws.jsonl",
    "rewards": [REWARD],
    "success_at": 1e-9,
    "temperature": 1.0,
    "max_tokens": 64,
}


def molecules() -> list[str]:
    """Canonical SMILES of the public sets: one piece, of at most LONGEST characters, each once."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    found: dict[str, None] = {}
    for name in ("bbbp", "clintox", "esol", "tox21"):
        for row in read_rows("moleculenet", f"{name}.jsonl"):
            molecule = Chem.MolFromSmiles(row["smiles"])
            text = "" if molecule is None else Chem.MolToSmiles(molecule)
            if text and len(text) <= LONGEST and "." not in text and "*" not in text:
                found[text] = None
    return list(found)


def write_project(home: Path, *, quick: bool) -> None:
    """Rows, recipes and environments."""
    from rdkit import Chem

    home.mkdir(parents=True, exist_ok=True)
    known = molecules()
    rows = []
    for place, text in enumerate(known[:200] if quick else known):
        molecule = Chem.MolFromSmiles(text)
        spelt = Chem.MolToRandomSmilesVect(molecule, SPELLINGS, randomSeed=place + 1)
        rows += [{"prompt": ASKED, "completion": one} for one in dict.fromkeys([text, *spelt])]
    write_rows(home / "molecules.jsonl", rows)
    write_rows(home / "asked.jsonl", [{"prompt": ASKED}])
    drawn, calls = (40, 64) if quick else (DRAWN, STEPS * GROUP)
    write_rows(home / "draws.jsonl", [{"prompt": ASKED, "number": i} for i in range(drawn)])
    write_rows(home / "many.jsonl", [{"prompt": ASKED, "number": i} for i in range(calls)])
    less = {"tokens": 20_000, "save_every": 2} if quick else {}
    steps = {"steps": 3, "group_size": 16} if quick else {}
    saves = {"save_every": 3} if quick else {}
    files = {
        "smiles.yaml": BIRTH | less,
        "free.yaml": FREE | saves | {"rl": FREE["rl"] | steps},
        "held.yaml": HELD | saves | {"rl": HELD["rl"] | steps},
        "draws.yaml": ENVIRONMENT,
        "many.yaml": ENVIRONMENT | {"task": "many", "prompts": "many.jsonl"},
    }
    for name, content in files.items():
        (home / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@contextmanager
def simulator() -> Iterator[None]:
    """The endpoint, in a process of its own, with a secret that requests are signed by."""
    os.environ[SECRET] = secrets.token_hex(16)
    process = subprocess.Popen([sys.executable, str(ROOT / "examples" / "molecule_simulator.py"), "--port", str(PORT)])
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", PORT), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: no simulator at port {PORT}; is the port taken?") from None
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(10)


def measure(home: Path, *, quick: bool) -> dict[str, Any]:
    """All runs and draws; each goes on where it was stopped."""
    from workbench.evaluation import EvaluationRequest
    from workbench.pipeline import evaluate_many, train
    from workbench.store import Project

    write_project(home, quick=quick)
    project = Project.open_or_init(home)

    def told(step: Any) -> None:
        say(f"step {step.step}/{step.steps} loss {step.loss:.3f} reward {step.reward}")

    found: dict[str, Any] = {"arms": {}, "training": len(molecules())}
    with simulator():
        clock = {"birth": time.perf_counter()}
        born = train(home / "smiles.yaml", project=project, on_step=told)
        clock["birth"] = time.perf_counter() - clock["birth"]
        start = born.checkpoints[-1]
        request = EvaluationRequest(environments=[home / "draws.yaml"], dtype="float32")
        for arm in ("free", "held"):
            began = time.perf_counter()
            made = train(home / f"{arm}.yaml", project=project, on_step=told)
            clock[arm] = time.perf_counter() - began
            evaluation = evaluate_many([made.checkpoints[-1]], project=project, request=request, baseline=start)
            assert evaluation.baseline is not None
            found["arms"]["start"] = {"drawn": _drawn(evaluation.baseline)}
            log = [json.loads(line) for line in (made.made.folder / "log.jsonl").read_text().splitlines()]
            comparison = next(iter(evaluation.comparisons.values()), None)
            if comparison is None:
                raise SystemExit(f"error: {arm}: the run changed no weight; did the start write no molecule at all?")
            found["arms"][arm] = {
                "drawn": _drawn(evaluation.evaluated[0]),
                "log": [{k: line.get(k) for k in ("step", "reward", "entropy", "length", "kl")} for line in log],
                "asked": _asked(made.made.folder),
                "verdict": [_verdict(task) for task in comparison.tasks],
            }
        many = EvaluationRequest(environments=[home / "many.yaml"], dtype="float32")
        found["many"] = _drawn(evaluate_many([start], project=project, request=many).evaluated[0])
    return _described(found | {"seconds": clock})


def _drawn(one: Any) -> list[tuple[str, float]]:
    return [(item.answer.strip(), item.metrics["reward"]) for item in one.items]


def _asked(folder: Path) -> list[tuple[str, float]]:
    """What the run itself asked the simulator for."""
    from training.rl.episodes import read_episodes

    found: list[tuple[str, float]] = []
    number = 0
    while (recorded := read_episodes(folder, number)) is not None:
        found += [(one.answer.strip(), one.reward or 0.0) for one in recorded[1]]
        number += 1
    return found


def _verdict(task: Any) -> dict[str, Any]:
    change = task.difference
    span = None if change is None else [change.value, change.low, change.high]
    return {"task": task.task, "verdict": task.verdict, "change": span, "n": task.n}


def _described(found: dict[str, Any]) -> dict[str, Any]:
    """Numbers for the page; the molecules themselves stay in the project."""
    known = set(molecules())
    arms = {name: {**arm, **chemistry(arm["drawn"], known)} for name, arm in found["arms"].items()}
    for arm in arms.values():
        arm["samples"] = [text for text, _ in arm.pop("drawn")[:8]]
        if "asked" in arm:
            asked = arm.pop("asked")
            arm |= {"calls": len(asked), "best": best_of(asked, known)}
    return {"arms": arms, "many": {"calls": len(found["many"]), "best": best_of(found["many"], known)}} | {
        key: found[key] for key in ("training", "seconds")
    }


def chemistry(drawn: Sequence[tuple[str, float]], known: set[str]) -> dict[str, Any]:
    """Of some draws, (value, low, high) at 95%: valid, score and QED of valid ones, new, different, diverse."""
    from rdkit import Chem
    from rdkit.Chem import QED, rdFingerprintGenerator
    from rdkit.Chem.Scaffolds import MurckoScaffold
    from rdkit.DataStructs import BulkTanimotoSimilarity

    from workbench.statistics import cluster_t_interval, wilson_interval

    parsed = [Chem.MolFromSmiles(text) if text else None for text, _ in drawn]
    whole = [one for one in parsed if one is not None and one.GetNumAtoms()]
    texts = [Chem.MolToSmiles(one) for one in whole]

    def told(interval: Any) -> list[float | None]:
        return [interval.value, interval.low, interval.high]

    found: dict[str, Any] = {
        "n": len(drawn),
        "valid": told(wilson_interval(len(whole), len(drawn))),
        "score": told(cluster_t_interval([value for _, value in drawn])),
    }
    if len(whole) < 20:
        return found
    parts = [texts[at : at + 100] for at in range(0, len(texts) - 99, 100)] or [texts]
    prints = rdFingerprintGenerator.GetMorganGenerator(radius=2).GetFingerprints(whole[:300])
    near = np.array([BulkTanimotoSimilarity(one, list(prints)) for one in prints])
    return found | {
        "qed": told(cluster_t_interval([QED.qed(one) for one in whole])),
        "new": told(wilson_interval(sum(text not in known for text in texts), len(texts))),
        "different": told(cluster_t_interval([len(set(part)) / len(part) for part in parts])),
        "diverse": jackknife_diversity(near),
        "scaffolds": len({MurckoScaffold.MurckoScaffoldSmiles(mol=one) for one in whole}),
        "molecules": len(set(texts)),
        "atoms": float(np.mean([one.GetNumAtoms() for one in whole])),
    }


def jackknife_diversity(near: np.ndarray) -> list[float]:
    """1 less the mean similarity of two different draws, with the jackknife's 95% over draws."""
    n = len(near)
    away = 1.0 - near
    np.fill_diagonal(away, 0.0)
    total, each = away.sum(), away.sum(1)
    value = total / (n * (n - 1))
    without = (total - 2 * each) / ((n - 1) * (n - 2))
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return [float(value), float(value - 1.96 * error), float(value + 1.96 * error)]


def best_of(asked: Sequence[tuple[str, float]], known: set[str]) -> list[float]:
    """Mean score of the BEST different new molecules among some calls, with a bootstrap's 95% over the calls."""
    from rdkit import Chem

    canonical = {text: Chem.CanonSmiles(text) for text, value in asked if value > 0}
    pairs = [(canonical[text], value) for text, value in asked if value > 0 and canonical[text] not in known]
    if not pairs:
        return [0.0, 0.0, 0.0]
    names = {text: place for place, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
    values = np.zeros(len(names))
    for text, value in pairs:
        values[names[text]] = value
    places = np.array([names[text] for text, _ in pairs])
    rng = np.random.default_rng(0)

    def mean(drawn: np.ndarray) -> float:
        return float(np.sort(values[np.unique(drawn)])[-BEST:].mean())

    again = [mean(places[rng.integers(0, len(places), len(places))]) for _ in range(300)]
    return [mean(places), float(np.quantile(again, 0.025)), float(np.quantile(again, 0.975))]


def render(kept: dict[str, Any]) -> str:
    """The page, of the kept numbers."""
    arms, many = kept["arms"], kept["many"]
    start, free, held = arms["start"], arms["free"], arms["held"]
    rows = "\n".join(
        f"| {label} | " + " | ".join(_cell(arm.get(key), share=share) for arm in (start, free, held)) + " |"
        for key, label, share in (
            ("valid", "valid", True),
            ("score", "the simulator's score, invalid ones 0", False),
            ("qed", "QED of the valid ones", False),
            ("new", "valid ones that no training row holds", True),
            ("different", "different ones among 100 valid ones", True),
            ("diverse", "diversity: 1 − mean Tanimoto similarity", False),
        )
    )
    counts = "\n".join(
        f"| {label} | " + " | ".join(f"{arm[key]:,.0f}" if key in arm else "–" for arm in (start, free, held)) + " |"
        for key, label in (
            ("molecules", "different molecules"),
            ("scaffolds", "different scaffolds"),
            ("atoms", "heavy atoms, mean"),
        )
    )
    samples = "\n".join(
        f"| {name} | " + ", ".join(f"`{text}`" for text in arm["samples"][:4] if text and "`" not in text) + " |"
        for name, arm in (("start", start), ("free", free), ("held", held))
    )
    curve = "\n".join(
        f"| {one['step']} | {one['reward']:.3f} | {two['reward']:.3f} | {one['length']:.0f} | {two['length']:.0f} |"
        for one, two in zip(free["log"], held["log"], strict=True)
        if one["step"] % 10 == 0 or one["step"] == 1
    )
    gain = free["score"][0] - start["score"][0]
    lost = start["molecules"] - free["molecules"] if "molecules" in free else 0
    verdict = next(iter(free["verdict"]))
    change = verdict["change"]
    return f"""# A simulator as the reward

*A chemistry team has a simulator that scores molecules, and a model that writes them. What does reinforcement learning from the simulator
alone gain, and what does it lose?* **The mean score went from {start["score"][0]:.2f} to {free["score"][0]:.2f} of 1 ({gain:+.2f}) and the valid share from {start["valid"][0]:.0%} to
{free["valid"][0]:.0%} (`workbench compare`: {change[0]:+.2f}, 90% interval [{change[1]:+.2f}, {change[2]:+.2f}], {verdict["verdict"]}); of {start["n"]:,} draws {start.get("molecules", 0):,} were different molecules before,
{free.get("molecules", 0):,} after{", which is what was lost" if lost > 0 else ""}.** Held near its start (`kl: 0.1`) the score is {held["score"][0]:.2f}, with {held.get("molecules", 0):,} different molecules.

| of {start["n"]:,} draws, 95% interval | start | free (`kl: 0`) | held (`kl: 0.1`) |
|---|---|---|---|
{rows}
{counts}

**Was training worth its calls?** The mean score of the {BEST} best different new molecules (95% bootstrap over the calls):

| calls of the simulator | spent on | the {BEST} best |
|---|---|---|
| {many["calls"]:,} | draws from the start, the best kept | {_cell(many["best"])} |
| {free["calls"]:,} | training, free: those that it asked about on its way | {_cell(free["best"])} |
| {held["calls"]:,} | training, held | {_cell(held["best"])} |

After training each further draw costs no call; before it, each must be scored.

## How it was done

The start is a Llama of {BIRTH["start"]["layers"]} layers and width {BIRTH["start"]["width"]} with random weights (`start: {{new: llama}}`), fine-tuned for {BIRTH["tokens"]:,} tokens of answers on {kept["training"]:,} molecules of
BBBP, ClinTox, ESOL and Tox21 (MoleculeNet, CC0), each in up to {SPELLINGS + 1} spellings. The simulator is `examples/molecule_simulator.py`: RDKit in a process of its own, asked over
HTTP in signed batches by the reward of kind `http`. Its score is QED (drug-likeness, Bickerton et al. 2012), half of it where logP is outside 0 to 3, and 0
for what is no molecule. Training is `method: grpo`: {STEPS} steps of {GROUP} molecules, all weights. Each draw is an item of an environment's file
(`workbench eval --environment`), at temperature 1.

| step | score, free | score, held | tokens, free | tokens, held |
|---|---|---|---|---|
{curve}

| | some draws |
|---|---|
{samples}

## What it does not show

- QED and logP are formulas over a drawing of the molecule. A high score says nothing of binding, synthesis or toxicity, and no chemist looked at
  these. The endpoint's contract is the same for a docking program; its cost for each call is not.
- A model of two million weights, six thousand molecules, one seed. Larger models begin at a higher valid share, with less to gain.
- Nothing in the reward asks for different molecules. A share of repeats in the endpoint's own score, or `kl`, is what is meant against it.

## How to repeat it

```bash
pip install 'model-workbench[studies]'
make study-simulator
```

It took {sum(kept["seconds"].values()) / 60:.0f} minutes of one core: {kept["seconds"]["birth"] / 60:.1f} for the start, {kept["seconds"]["free"] / 60:.1f} and {kept["seconds"]["held"] / 60:.1f} for the two runs.
"""


def _cell(interval: Sequence[float | None] | None, *, share: bool = False) -> str:
    if not interval:
        return "–"
    value, low, high = interval
    form = ".0%" if share else ".2f"
    span = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{span}"


def main() -> None:
    """Measure and write the page; --render writes it again from the kept numbers."""
    from studies.experiment import options

    asked = options("simulator", __doc__ or "")
    if not asked.render:
        kept = measure(asked.project, quick=asked.quick)
        if asked.quick:
            print(json.dumps(kept, indent=1)[:3000])
            return
        RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
