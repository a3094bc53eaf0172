"""Is a model's last hidden state a better measure of novelty than word counts, for the alarm on what is new?

python -m studies.emerging_hidden [--quick] [--project FOLDER]

A part of the study `emerging_threat`: about 2,400 texts are read by SmolLM2-135M once (kept in `hidden.npz`), then
streams are drawn from them, with the same alarm on both kinds of vectors. Writes `hidden.json` into the project's
folder; `make study-emerging-threat` takes it into the page.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safety.drift import NoveltyAlarm
from safety.uncertainty import Novelty
from studies.emerging_threat import DIMENSIONS, SCENARIOS, count_words, load
from studies.experiment import ROOT, say
from workbench.store import Project

TAKES = "6 minutes on one quiet core"
START = "smollm2"
USUAL, NEW = 1900, 200
"""Texts of the usual kinds, and of each new kind at most."""
REFERENCE, LENGTH, SHARES, RESAMPLES = 1000, 600, (0.05, 0.10), 100
CUT, BATCH = 24, 32
"""Tokens of a text that are read; texts of one pass."""
Floats = npt.NDArray[np.float64]


def choose(*, quick: bool) -> tuple[list[str], npt.NDArray[np.int8]]:
    """Texts, and what each is: -1 usual, else the place of its scenario."""
    texts: list[str] = []
    kinds: list[int] = []
    for place, name in enumerate(SCENARIOS):
        posts, rng = load(name), np.random.default_rng([place, 41])
        new = rng.permutation(np.flatnonzero(posts.kind == 2))[: 8 if quick else NEW]
        old = rng.permutation(np.flatnonzero(posts.kind < 2))[: 60 if quick else USUAL] if place == 0 else []
        for rows, kind in ((old, -1), (new, place)):
            texts += [posts.texts[row] for row in rows]
            kinds += [kind] * len(rows)
    return texts, np.array(kinds, np.int8)


def read_all(texts: Sequence[str], project: Project) -> dict[str, Floats]:
    """The last layer's hidden state of each text: at its last token, and the mean over its tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint

    folder = model_folder(resolve_checkpoint(START, project))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    ids = [tokenizer.encode(text)[:CUT] or [0] for text in texts]
    order = np.argsort([len(one) for one in ids], kind="stable")
    last, mean = (np.zeros((len(texts), model.config.hidden_size)) for _ in range(2))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(ids[row]) for row in rows)
        tokens, mask = (torch.zeros((len(rows), longest), dtype=torch.long) for _ in range(2))
        for place, row in enumerate(rows):
            tokens[place, : len(ids[row])] = torch.tensor(ids[row])
            mask[place, : len(ids[row])] = 1
        with torch.inference_mode():
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        for place, row in enumerate(rows):
            own = hidden[place, : len(ids[row])]
            last[row], mean[row] = own[-1].numpy(), own.mean(dim=0).numpy()
        if start // BATCH % 20 == 0:
            say(f"{start}/{len(order)} texts read")
    return {"hidden state, last token": last, "hidden state, mean": mean}


def vectors_of(texts: Sequence[str], kinds: Any, folder: Path) -> dict[str, Floats]:
    """All kinds of vectors; the model's are kept."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.random_projection import SparseRandomProjection

    path = folder / "hidden.npz"
    if not path.is_file():
        found = read_all(texts, Project.open_or_init(folder))
        partial = folder / "hidden.part.npz"
        np.savez(partial, **{name: one.astype(np.float32) for name, one in found.items()})
        partial.replace(path)
    with np.load(path) as kept:
        made = {name: np.asarray(kept[name], np.float64) for name in kept.files}
    usual = np.flatnonzero(kinds < 0)
    # centred: hidden states of a language model all point much the same way
    made = {name: one - one[usual].mean(axis=0) for name, one in made.items()}
    counts = count_words(texts)
    x = TfidfTransformer(sublinear_tf=True).fit(counts[usual]).transform(counts)
    projected = SparseRandomProjection(DIMENSIONS, random_state=0, dense_output=True).fit_transform(x)
    return {"word counts": np.asarray(projected.todense() if hasattr(projected, "todense") else projected)} | made


def measure(
    vectors: Floats, kinds: Any, place: int, share: float, *, resamples: int, sizes: tuple[int, int]
) -> dict[str, Any]:
    """How well novelty tells the new kind, and after how many texts the alarm goes off."""
    from sklearn.metrics import roc_auc_score

    reference, length = sizes
    usual, new = np.flatnonzero(kinds < 0), np.flatnonzero(kinds == place)
    delays: list[int | None] = []
    aucs: list[float] = []
    false: list[bool] = []
    for seed in range(resamples):
        rng = np.random.default_rng([seed, place, 8])
        order = rng.permutation(usual)
        novelty = Novelty(vectors[order[:reference]], seed=seed)
        rest = order[reference : reference + length]
        quiet, loud = novelty.p_value(vectors[rest]), novelty.p_value(vectors[new])
        aucs.append(float(roc_auc_score([0] * len(quiet) + [1] * len(loud), np.concatenate([-quiet, -loud]))))
        calm, alarm = NoveltyAlarm(), NoveltyAlarm()
        false.append(calm.feed(quiet))
        is_new = rng.random(length) < share
        mixed = np.where(is_new, rng.choice(loud, length), np.resize(quiet, length))
        alarm.feed(mixed)
        delays.append(alarm.fired_at)
    fired = [delay is not None for delay in delays]
    return {"share": share, "auc": float(np.mean(aucs)), "delays": delays, "fired": fired, "false": false}


def run(folder: Path, *, quick: bool) -> Mapping[str, Any]:
    """All that computes."""
    folder.mkdir(parents=True, exist_ok=True)
    texts, kinds = choose(quick=quick)
    sizes, resamples = ((44, 16), 3) if quick else ((REFERENCE, LENGTH), RESAMPLES)
    rows = [
        {"scenario": name, "vectors": title} | measure(vectors, kinds, place, share, resamples=resamples, sizes=sizes)
        for title, vectors in vectors_of(texts, kinds, folder).items()
        for place, name in enumerate(SCENARIOS)
        for share in SHARES
    ]
    rows.sort(key=lambda row: (SCENARIOS.index(row["scenario"]), row["share"]))
    found = {"rows": rows, "reference": sizes[0], "length": sizes[1], "resamples": resamples, "cut": CUT}
    hidden = folder / ".hidden.json"
    hidden.write_text(json.dumps(found), encoding="utf-8")
    hidden.replace(folder / "hidden.json")
    return found


def main() -> None:
    """Measure, and keep it for the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "build" / "studies" / "emerging-threat"
    parser.add_argument("--project", type=Path, default=default, help="folder that keeps vectors and numbers")
    parser.add_argument("--quick", action="store_true", help="a few texts")
    asked = parser.parse_args()
    folder = asked.project.with_name(asked.project.name + "-quick") if asked.quick else asked.project
    for row in run(folder, quick=asked.quick)["rows"]:
        said = f"{row['scenario']}, {row['vectors']}, {row['share']:.0%}"
        say(f"{said}: AUC {row['auc']:.3f}, alarm in {np.mean(row['fired']):.0%}")


if __name__ == "__main__":
    main()
