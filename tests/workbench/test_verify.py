"""Every method goes on after a kill to the same bits, in real processes; a difference is seen and said."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tiny import save_tiny_checkpoint
from workbench.errors import ConfigError
from workbench.store import Project
from workbench.verify import compare_runs, verify_resume

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
LORA = {"lora": {"rank": 4, "dropout": 0.1}}
RECIPES: dict[str, dict[str, Any]] = {
    "pretrain": {"method": "pretrain"},
    "pretrain-lora": {"method": "pretrain", **LORA},
    "sft": {"method": "sft"},
    "sft-lora": {"method": "sft", **LORA},
    "dpo": {"method": "dpo"},
    "dpo-lora": {"method": "dpo", **LORA},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    home = tmp_path_factory.mktemp("verify")
    save_tiny_checkpoint(home / "tiny")
    (home / "tiny" / "chat_template.jinja").write_text(TEMPLATE)
    asked = [f"What does part {i} of the body do, and why so {'often ' * (i % 4)}?" for i in range(60)]
    rows: dict[str, list[dict[str, Any]]] = {
        "text": [{"text": q * 3} for q in asked],
        "pairs": [{"prompt": q, "completion": f"It does its work {q}"} for q in asked],
        "preferences": [{"prompt": q, "chosen": f"It does its work {q}", "rejected": "No, no."} for q in asked],
        "chat": [{"prompt": f"And {q}", "completion": "Much."} for q in asked],
    }
    for name, found in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return Project.init(home)


def write_recipe(project: Project, name: str) -> Path:
    data = {"pretrain": "text", "sft": "pairs", "dpo": "preferences"}[RECIPES[name]["method"]]
    recipe = {
        "recipe": name,
        "start": str(project.root / "tiny"),
        "mix": [
            {"name": "domain", "data": f"{data}.jsonl", "share": 0.7, "max_epochs": 99},
            {"name": "chat", "data": "chat.jsonl", "share": 0.3, "max_epochs": 99},
        ],
        "tokens": 4000,
        "sequence_length": 256,
        "batch_tokens": 512,
        "schedule": {"learning_rate": 1e-3},
        "dtype": "float32",
        **RECIPES[name],
    }
    path = project.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_run_goes_on_to_the_same_bits(project: Project, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = verify_resume(write_recipe(project, name), project, steps=2, together=True)
    assert {part.part: part.detail for part in found.parts if not part.same} == {}
    assert {part.part for part in found.parts} == {
        "weights",
        "optimizer",
        "schedule",
        "random state",
        "rows",
        "counters",
    }
    assert (found.saved, found.killed, found.steps) == (2, 3, 4)
    assert not list((project.root / "runs").glob(".verify-*"))


def test_a_difference_in_any_part_is_seen(project: Project, tmp_path: Path) -> None:
    from training.run import train
    from workbench.runs import prepare_run

    prepared = prepare_run(write_recipe(project, "sft"), project, ["tokens=1500"])
    made = train(
        prepared.recipe,
        prepared.sources,
        prepared.plan,
        start=prepared.start_folder,
        tokenizer=prepared.tokenizer,
        folder=tmp_path / "one",
    )
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert all(part.same for part in compare_runs(tmp_path / "one", tmp_path / "other", made.steps))
    spoiled = tmp_path / "other" / made.last.name
    state = torch.load(spoiled / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"].view(-1)[0] += 1
    torch.save(state, spoiled / "optimizer.pt")
    mark = json.loads((spoiled / "mixer.json").read_text())
    mark["cursors"]["chat"]["place"] += 1
    (spoiled / "mixer.json").write_text(json.dumps(mark))
    found = {part.part: part for part in compare_runs(tmp_path / "one", tmp_path / "other", made.steps)}
    assert {name for name, part in found.items() if not part.same} == {"optimizer", "counters"}
    assert found["counters"].detail == "mixer.cursors.chat.place differs"
    assert "exp_avg" in found["optimizer"].detail


def test_more_steps_than_the_run_has_are_refused(project: Project) -> None:
    with pytest.raises(ConfigError, match="set --steps between 2 and"):
        verify_resume(write_recipe(project, "sft"), project, steps=5000)
