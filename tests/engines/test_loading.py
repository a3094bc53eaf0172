"""From a checkpoint to the engine that serves it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.engines.loading import load, model_folder
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import EngineError
from workbench.store.checkpoints import resolve


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def test_a_folder_is_served_by_transformers_unless_told_otherwise(tiny):
    assert isinstance(load(resolve(tiny), dtype="float32"), TransformersEngine)


def test_a_hub_model_is_loaded_from_the_snapshot_that_was_hashed(tiny, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(tiny, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    checkpoint = resolve("acme/tiny")
    assert checkpoint.kind == "hub"
    assert Path(model_folder(checkpoint)) == cache / "snapshots" / ("0" * 40)
    assert isinstance(load(checkpoint, dtype="float32"), TransformersEngine)


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("transfomers", {}, 'did you mean "transformers"'),
        ("openai", {}, "name an endpoint as URL#model"),
        ("transformers", {"batch_token": 9}, 'did you mean "batch_tokens"'),
        ("transformers", {"model": 1}, "option model"),
        ("vllm", {"tensor_parallel_size": 0}, "tensor_parallel_size: a whole number from 1 on"),
        ("vllm", {"pipeline_parallel_size": "two"}, "pipeline_parallel_size: a whole number from 1 on"),
        ("vllm", {"data_parallel_size": 4}, "--workers 4 starts as many"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_near_name(tiny, engine, options, message):
    with pytest.raises(EngineError, match=message):
        load(resolve(tiny), engine=engine, **options)


def test_an_endpoint_is_served_by_no_engine_that_needs_weights(tiny):
    endpoint = replace(resolve(tiny), kind="endpoint", source="http://127.0.0.1:9/v1#m")
    with pytest.raises(EngineError, match="leave --engine out"):
        load(endpoint, engine="transformers")
    with pytest.raises(EngineError, match='did you mean "timeout_s"'):
        load(endpoint, timeout=1)
