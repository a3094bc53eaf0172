"""From what a person typed to a Checkpoint; every damaged or missing model is one clear line."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import CheckpointError
from workbench.store import local_path, resolve

REPOSITORY = Path(__file__).parents[3]


def safetensors_bytes(value: float = 1.0) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({"a": np.full((4, 3), value, dtype=np.float32), "b": np.zeros(5, dtype=np.float16)})


def make_folder(folder: Path, *, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (folder / "model.safetensors").write_bytes(safetensors_bytes(value))
    return folder


def make_sharded(folder: Path) -> Path:
    make_folder(folder)
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number in (2, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        (folder / name).write_bytes(safetensors_bytes(float(number)))
        weight_map[f"layer.{number}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def make_gguf(path: Path, *, tokens: bool = True, template: str = "{{ messages }}") -> Path:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a", "b", "é"])
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
    writer.add_tensor("output.weight", np.ones((3, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def settle(folder: Path) -> None:
    """Let the files be older than the moment in which a change could go unseen."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(time.time_ns() - 10**9,) * 2)


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        resolve(source, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_folder_is_known_by_the_bytes_of_its_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shop-sft")
    checkpoint = resolve(folder)
    assert (checkpoint.name, checkpoint.kind, checkpoint.source) == ("shop-sft", "folder", str(folder))
    assert checkpoint.fingerprint == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert local_path(checkpoint) == folder
    assert resolve(folder, name="mine").name == "mine"


def test_shards_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "big")
    (folder / "consolidated.safetensors").write_bytes(safetensors_bytes(9.0))  # not in the index: not the model
    parts = [(folder / f"model-0000{n}-of-00002.safetensors").read_bytes() for n in (1, 2)]
    assert resolve(folder).fingerprint == hashlib.sha256(b"".join(parts)).hexdigest()


def test_moved_weights_keep_their_fingerprint_and_changed_ones_do_not(tmp_path: Path) -> None:
    one, two = resolve(make_folder(tmp_path / "a")), resolve(make_folder(tmp_path / "b"))
    other = resolve(make_folder(tmp_path / "c", value=2.0))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.tokenizer == two.tokenizer == other.tokenizer


def test_the_tokenizer_counts_with_its_chat_template_and_nothing_else(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    before = resolve(folder).tokenizer
    (folder / "README.md").write_text("hello")
    assert resolve(folder).tokenizer == before
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with_template = resolve(folder).tokenizer
    assert with_template != before
    (folder / "chat_template.jinja").write_text("{{ messages }}!")
    assert resolve(folder).tokenizer not in (before, with_template)


def test_a_second_resolve_reads_no_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    settle(folder)
    first = resolve(folder)
    weights = folder / "model.safetensors"
    stat = weights.stat()
    with weights.open("r+b") as stream:  # same inode, size and times, other bytes: only a reader could tell
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seconds: list[float] = []
    for _ in range(5):
        began = time.process_time()
        assert resolve(folder) == first
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.010


def test_weights_that_were_written_again_are_read_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    seen: set[str] = set()
    for number in range(10):
        (folder / "model.safetensors").write_bytes(safetensors_bytes(float(number)))
        seen.add(resolve(folder).fingerprint)
    assert len(seen) == 10


def test_a_damaged_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    folder = make_folder(tmp_path / "a")
    settle(folder)
    first = resolve(folder)
    entries = list((tmp_path / "cache" / "digests").iterdir())
    assert len(entries) == 2
    for entry in entries:
        entry.write_text("{broken")
    assert resolve(folder) == first
    monkeypatch.setenv("WORKBENCH_CACHE", "/dev/null/no-folder")
    assert resolve(folder) == first


@pytest.mark.parametrize(("folder", "name"), [("sft/checkpoint-500", "sft/checkpoint-500"), ("sft/final", "sft/final")])
def test_a_folder_with_a_name_that_says_nothing_is_called_with_its_parent(
    folder: str, name: str, tmp_path: Path
) -> None:
    assert resolve(make_folder(tmp_path / folder)).name == name


def test_a_gguf_file_is_known_by_its_bytes_and_its_tokenizer_by_its_keys(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "tiny.Q4_1.gguf")
    checkpoint = resolve(path)
    assert (checkpoint.name, checkpoint.kind, checkpoint.source) == ("tiny.Q4_1", "gguf", str(path))
    assert checkpoint.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    other = resolve(make_gguf(tmp_path / "other.gguf", template="{{ other }}"))
    assert other.tokenizer != checkpoint.tokenizer
    assert resolve(make_gguf(tmp_path / "same.gguf")).tokenizer == checkpoint.tokenizer


def test_an_endpoint_is_known_by_its_address_and_model() -> None:
    checkpoint = resolve("http://localhost:8000/v1#qwen")
    assert (checkpoint.name, checkpoint.kind, checkpoint.tokenizer) == ("qwen", "endpoint", "")
    assert checkpoint.fingerprint != resolve("http://localhost:8000/v1#llama").fingerprint
    assert "is written with its model" in refusal("http://localhost:8000/v1")
    with pytest.raises(CheckpointError, match="choose the engine openai"):
        local_path(checkpoint)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface_hub lays it out, with acme/tiny at one revision."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    commit = "0123456789abcdef0123456789abcdef01234567"
    make_folder(cache / "models--acme--tiny" / "snapshots" / commit)
    (cache / "models--acme--tiny" / "refs").mkdir()
    (cache / "models--acme--tiny" / "refs" / "main").write_text(commit)
    return cache


def test_a_hub_model_in_the_cache_needs_no_hub(hub_cache: Path) -> None:
    checkpoint = resolve("acme/tiny")
    assert (checkpoint.name, checkpoint.source, checkpoint.kind) == ("acme/tiny", "acme/tiny", "hub")
    assert local_path(checkpoint).is_relative_to(hub_cache)
    pinned = resolve("acme/tiny@0123456789abcdef0123456789abcdef01234567")
    assert pinned.fingerprint == checkpoint.fingerprint
    assert local_path(pinned) == local_path(checkpoint)
    assert resolve("acme/tiny", revision="0123456789abcdef0123456789abcdef01234567") == pinned


def test_an_unknown_hub_model_is_answered_with_near_names(hub_cache: Path) -> None:
    assert hub_cache.is_dir()
    assert refusal("acme/tinny").endswith('the hub cannot be reached; did you mean "acme/tiny"?')
    assert refusal("acme/tiny", revision="v2").startswith("acme/tiny: ")


def test_a_missing_folder_is_answered_with_near_names(tmp_path: Path) -> None:
    make_folder(tmp_path / "shop-sft")
    assert refusal(tmp_path / "shop-stf").endswith('no such file or folder; did you mean "shop-sft"?')
    assert "does not exist either" in refusal(tmp_path / "no" / "such" / "model.gguf")
    gone = resolve(make_folder(tmp_path / "shop-sft-2"))
    (tmp_path / "shop-sft-2").rename(tmp_path / "shop-sft-3")
    with pytest.raises(CheckpointError, match=r"is gone; did you mean"):
        local_path(gone)


def test_a_folder_without_config_is_answered_with_what_may_be_meant(tmp_path: Path) -> None:
    make_folder(tmp_path / "run" / "checkpoint-10")
    assert f'did you mean "{tmp_path / "run" / "checkpoint-10"}"?' in refusal(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refusal(tmp_path / "empty")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert "merge it into its base" in refusal(tmp_path / "adapter")


def test_pickled_weights_are_refused_with_the_cure(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = refusal(folder)
    assert "its weights are pickles (pytorch_model.bin)" in text
    assert "save_pretrained() writes safetensors" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: no valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a JSON object is expected, got list"),
        (lambda folder: (folder / "model.safetensors").write_text("hi"), "2 bytes are no safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_text("<html>" * 99), "no safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"[]"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(safetensors_bytes() + b"x"), "too long"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(damage: Any, message: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    damage(folder)
    assert message in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "big")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 weight files are missing (model-00002-of-00002.safetensors)" in refusal(folder)


def test_a_file_that_is_no_model_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "this file is no model" in refusal(tmp_path / "notes.txt")
    weights = make_folder(tmp_path / "a") / "model.safetensors"
    assert "name its folder" in refusal(weights)
    (tmp_path / "fake.gguf").write_text("hello")
    assert "no GGUF file" in refusal(tmp_path / "fake.gguf")
    (tmp_path / "empty.gguf").touch()
    assert "no GGUF file" in refusal(tmp_path / "empty.gguf")
    assert "has no tokenizer" in refusal(make_gguf(tmp_path / "bare.gguf", tokens=False))


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_safetensors_cut_anywhere_are_refused(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_folder(tmp_path_factory.getbasetemp() / "cut")
    whole = safetensors_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
    assert "model.safetensors" in refusal(folder)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(4, 60))
def test_a_gguf_cut_or_scrambled_anywhere_never_crashes(
    share: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = make_gguf(tmp_path_factory.getbasetemp() / "whole.gguf").read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut.gguf" in refusal(path)
    path.write_bytes(whole[:flip] + struct.pack("<Q", 2**63) + whole[flip + 8 :])
    try:
        resolve(path)
    except CheckpointError as error:
        assert "cut.gguf" in str(error)


def test_naming_a_checkpoint_loads_no_tensor_library(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    code = "import sys; from workbench.store import resolve, Store; resolve(sys.argv[1]); "
    code += (
        "print([name for name in ('torch', 'transformers', 'lm_eval', 'pandas', 'datasets') if name in sys.modules])"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert child.stdout == "[]\n"
