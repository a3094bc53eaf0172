"""A run may begin with a model that never saw a text: random weights, and a tokenizer of the run's own rows."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CORPUS
from workbench.errors import ConfigError
from workbench.pipeline import train
from workbench.runs import prepare_run
from workbench.store import Project

NEW = {"new": "llama", "layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "context": 128}
ASKED = "Wie heißt 漢字?"


def write_recipe(home: Path, **more: Any) -> Path:
    """A recipe of the new model beside its data."""
    rows = [{"text": f"{text} Case {i}."} for i, text in enumerate(CORPUS * 10)]
    (home / "domain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": f"{ASKED} {i}", "completion": f"So, {i}."} for i in range(40)]
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    recipe: dict[str, Any] = {
        "recipe": "newborn",
        "start": NEW,
        "method": "pretrain",
        "mix": [{"name": "domain", "data": "domain.jsonl", "share": 1, "max_epochs": 50}],
        "tokens": 4000,
        "sequence_length": 64,
        "batch_tokens": 256,
        "schedule": {"learning_rate": 0.01},
    }
    path = home / "recipe.yaml"
    path.write_text(json.dumps(recipe | more))  # JSON is YAML
    return path


def test_the_same_recipe_makes_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe, project = write_recipe(tmp_path), Project.open_or_init(tmp_path / "project")
    first = prepare_run(recipe, project)
    shutil.rmtree(first.start_folder)
    again, other = prepare_run(recipe, project), prepare_run(recipe, project, ["seed=1"])
    assert again.start == first.start
    assert other.start.fingerprint != first.start.fingerprint and other.start.tokenizer == first.start.tokenizer
    model = AutoModelForCausalLM.from_pretrained(first.start_folder, use_safetensors=True)
    # by hand: embedding 300 × 32 (the head too), attention 4 × 32², feed-forward 3 × 32 × 128, three norms
    assert sum(weight.numel() for weight in model.parameters()) == 300 * 32 + 4 * 32**2 + 3 * 32 * 128 + 3 * 32
    assert first.tokenizer.decode(first.tokenizer(ASKED)["input_ids"]) == ASKED


def test_a_new_model_begins_at_the_uniform_guess_learns_and_goes_on_to_answers(tmp_path: Path) -> None:
    project = Project.open_or_init(tmp_path / "project")
    made = train(write_recipe(tmp_path), project=project)
    losses = [json.loads(line)["loss"] for line in (made.made.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * math.log(300)
    assert made.checkpoints[-1].parent == made.prepared.start.fingerprint
    assert project.store.checkpoint(made.prepared.start.fingerprint).name.startswith("new-llama-")

    pairs = [{"name": "pairs", "data": "pairs.jsonl", "share": 1, "max_epochs": 50}]
    answers = write_recipe(
        tmp_path, recipe="answers", start="run/newborn", method="sft", mix=pairs, tokens=400, sequence_length=128
    )
    tuned = train(answers, project=project)
    assert tuned.checkpoints[-1].parent == made.checkpoints[-1].fingerprint
    assert tuned.checkpoints[-1].tokenizer == made.prepared.start.tokenizer


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"start": NEW | {"widht": 8}}, r'start\.widht: unknown key; did you mean "width"'),
        ({"start": NEW | {"width": 34}}, r"width: 34: no multiple of 4 \(twice the heads\); try 32"),
        ({"start": NEW | {"new": "lama"}}, 'start.new: .*did you mean "llama"'),
        ({"start": NEW | {"context": 32}}, r"start\.context: 32 is shorter than a row of 64"),
        ({"start": NEW | {"vocabulary": 30_000}}, r"start\.vocabulary: 30000: the rows give only \d+ different"),
        ({"method": "dpo"}, "method dpo needs a model that answers"),
        ({"lora": {}}, "lora: adapters on random weights"),
        ({"merge": {}, "evaluation": {"tasks": ["arc_easy"]}}, "merge: an average with random weights is no model"),
    ],
)
def test_what_random_weights_cannot_be_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare_run(write_recipe(tmp_path, **more), Project.open_or_init(tmp_path / "project"))
