"""Averages of checkpoints: closed form, types, shards, tied heads, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_tiny_checkpoint, tiny_model, tiny_tokenizer
from training.merge import Part, line, merge_weights
from workbench.errors import CheckpointError


def part(folder: Path, weight: float = 1.0) -> Part:
    return Part(folder=folder, weight=weight, name=folder.name, fingerprint=f"of {folder.name}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    save_tiny_checkpoint(folder / "a", seed=1)
    save_tiny_checkpoint(folder / "b", seed=2)
    return folder


def test_a_point_on_the_line_is_the_weighted_mean_of_every_tensor(home: Path, tmp_path: Path) -> None:
    out = merge_weights(line(part(home / "a"), [part(home / "b")], 0.6), tmp_path / "out")
    a, b, made = weights(home / "a"), weights(home / "b"), weights(out)
    assert made.keys() == b.keys()
    for name in made:
        torch.testing.assert_close(made[name], 0.4 * a[name] + 0.6 * b[name], rtol=1e-5, atol=1e-6)


def test_the_ends_of_the_line_and_the_mean_of_equals_are_bit_equal(home: Path, tmp_path: Path) -> None:
    whole = merge_weights(line(part(home / "a"), [part(home / "b")], 1.0), tmp_path / "whole")
    same = merge_weights([part(home / "b", 0.3), part(home / "b", 0.7)], tmp_path / "same")
    for folder in (whole, same):
        assert all(torch.equal(t, weights(home / "b")[name]) for name, t in weights(folder).items())


def test_the_same_parts_give_the_same_bytes(home: Path, tmp_path: Path) -> None:
    files = [
        merge_weights(line(part(home / "a"), [part(home / "b")], 0.5), tmp_path / name) / "model.safetensors"
        for name in ("one", "two")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_shards_and_types_are_those_of_the_tuned_model(home: Path, tmp_path: Path) -> None:
    model = tiny_model(seed=2).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    tiny_tokenizer().save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    out = merge_weights(line(part(home / "a"), [part(tmp_path / "sharded")], 0.25), tmp_path / "out")
    assert [f.name for f in sorted(out.glob("*.safetensors"))] == [
        f.name for f in sorted((tmp_path / "sharded").glob("*.safetensors"))
    ]
    a, b, made = weights(home / "a"), weights(tmp_path / "sharded"), weights(out)
    for name in made:
        assert made[name].dtype == torch.bfloat16
        expected = (a[name] + 0.25 * (b[name].float() - a[name])).to(torch.bfloat16)
        assert torch.equal(made[name], expected)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()


def test_a_tied_head_may_be_stored_or_not(home: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    for name, seed in (("stored", 1), ("not", 2)):
        config = tiny_model(seed=seed).config
        config.tie_word_embeddings = True
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    file = tmp_path / "stored" / "model.safetensors"
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    for order in (("stored", "not"), ("not", "stored")):
        first, last = (tmp_path / name for name in order)
        out = merge_weights(line(part(first), [part(last)], 0.5), tmp_path / f"from-{order[0]}")
        model = LlamaForCausalLM.from_pretrained(out)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        mean = (weights(tmp_path / "not")["model.norm.weight"] + weights(tmp_path / "stored")["model.norm.weight"]) / 2
        torch.testing.assert_close(weights(out)["model.norm.weight"], mean)


def test_other_architectures_shapes_and_weights_are_refused(home: Path, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "wide", vocabulary=600)
    with pytest.raises(CheckpointError, match="vocab_size is 600 and 512"):
        merge_weights(line(part(home / "a"), [part(tmp_path / "wide")], 0.5), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"add up to 0\.9"):
        merge_weights([part(home / "a", 0.4), part(home / "b", 0.5)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_never_overwritten(home: Path, tmp_path: Path) -> None:
    out = merge_weights(line(part(home / "a"), [part(home / "b")], 0.5), tmp_path / "out")
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert merge_weights(line(part(home / "a"), [part(home / "b")], 0.5), out) == out
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="holds something else"):
        merge_weights(line(part(home / "a"), [part(home / "b")], 0.6), out)
    assert json.loads((out / "merge.json").read_text())["merged"][0]["weight"] == 0.5


def test_nothing_of_a_run_comes_along(home: Path, tmp_path: Path) -> None:
    (home / "b" / "mixer.json").write_text("{}")
    (home / "b" / "optimizer.pt").write_bytes(b"state")
    out = merge_weights(line(part(home / "a"), [part(home / "b")], 0.5), tmp_path / "out")
    assert {file.name for file in out.iterdir()} <= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "chat_template.jinja", "merge.json",
    }  # fmt: skip
