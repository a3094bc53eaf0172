"""A run starts from any checkpoint of any run, and lineage shows the chain."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import save_tiny_checkpoint
from workbench.errors import CheckpointError, ConfigError
from workbench.pipeline import train
from workbench.runs import prepare_run
from workbench.store import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    home = tmp_path_factory.mktemp("starts")
    save_tiny_checkpoint(home / "tiny")
    rows = [{"text": f"the heart pumps blood in case {i}. " * 4} for i in range(60)]
    (home / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Project.init(home)


def recipe(project: Project, name: str, start: str, **more: Any) -> Path:
    fields: dict[str, Any] = {
        "recipe": name,
        "start": start,
        "method": "pretrain",
        "mix": [{"name": "text", "data": "text.jsonl", "share": 1.0, "max_epochs": 99}],
        "tokens": 1500,
        "sequence_length": 64,
        "batch_tokens": 256,
        "schedule": {"learning_rate": 1e-3, "anneal": 0.5},
        "save_every": 2,
        "keep": 99,
        "log_every": 1,
        "dtype": "float32",
        **more,
    }
    path = project.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_a_run_starts_from_any_checkpoint_of_any_run_and_the_chain_is_known(project: Project) -> None:
    first = train(recipe(project, "first", str(project.root / "tiny")), project=project)
    second = train(recipe(project, "second", "run/first/checkpoint-2"), project=project)
    third = train(recipe(project, "third", "run/second", lora={"rank": 2}), project=project)
    assert second.prepared.start.fingerprint == first.checkpoints[0].fingerprint
    assert third.prepared.start.fingerprint == second.checkpoints[-1].fingerprint
    chain, known = [third.checkpoints[-1]], {one.fingerprint: one for one in project.store.checkpoints()}
    while chain[-1].parent is not None:
        chain.append(known[chain[-1].parent])
    assert [one.fingerprint for one in chain] == [
        third.checkpoints[-1].fingerprint,
        second.checkpoints[-1].fingerprint,
        first.checkpoints[0].fingerprint,
        first.prepared.start.fingerprint,
    ]


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(project: Project) -> None:
    train(recipe(project, "first", str(project.root / "tiny")), project=project)
    with pytest.raises(CheckpointError, match=r"that checkpoint is not there; run first has checkpoint-2, checkpoint-"):
        prepare_run(recipe(project, "none", "run/first/checkpoint-77"), project)


def test_from_an_annealed_checkpoint_the_rate_has_to_rise_again(project: Project) -> None:
    cold = {"schedule": {"learning_rate": 1e-3, "warmup": 0.0}}
    train(recipe(project, "annealed", str(project.root / "tiny"), tokens=5000), project=project)
    with pytest.raises(ConfigError, match=r"set schedule\.warmup to 0\.05"):
        prepare_run(recipe(project, "cold", "run/annealed", **cold), project)
    prepare_run(recipe(project, "entry", "run/annealed/checkpoint-2", **cold), project)  # the rate had not fallen there


def test_gigabytes_into_an_adapter_are_answered_with_advice(project: Project) -> None:
    found = prepare_run(recipe(project, "much", str(project.root / "tiny"), lora={"rank": 1}, tokens=9000), project)
    assert len(found.advice) == 1 and "leave out lora" in found.advice[0]
