"""GGUF files and rounded copies become ordinary model folders, whole or not at all."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from tests.tiny import save_tiny_checkpoint
from workbench.engines.convert import convert_gguf, copy_in_dtype, new_folder, round_matrix, round_weights
from workbench.errors import CheckpointError

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER = 300, 64, 2, 4, 96


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


def write_tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of two layers with random float32 weights and a byte tokenizer; returns its tensors."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    byte_names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    names = byte_names + [f"▁w{i}" for i in range(VOCABULARY - len(byte_names))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (VOCABULARY, HIDDEN), "output_norm": (HIDDEN,), "output": (VOCABULARY, HIDDEN)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}": (HIDDEN, HIDDEN) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{i}.{name}": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.ffn_gate": (INNER, HIDDEN), f"blk.{i}.ffn_up": (INNER, HIDDEN)}
        shapes |= {f"blk.{i}.ffn_down": (HIDDEN, INNER)}
    tensors = {f"{name}.weight": rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_file_becomes_a_folder_with_the_same_weights(tmp_path):
    tensors = write_tiny_gguf(tmp_path / "tiny.gguf")
    folder = convert_gguf(tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for ours, theirs in [
        (model.lm_head.weight, "output.weight"),
        (model.model.embed_tokens.weight, "token_embd.weight"),
        (model.model.layers[1].mlp.down_proj.weight, "blk.1.ffn_down.weight"),
        (model.model.layers[0].self_attn.v_proj.weight, "blk.0.attn_v.weight"),
    ]:
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, torch.from_numpy(tensors[theirs]).bfloat16())
    assert not hasattr(model.config, "quantization_config")


def test_a_second_call_returns_the_folder_and_a_changed_file_makes_a_new_one(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    first = convert_gguf(path)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert convert_gguf(path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    path.write_bytes(path.read_bytes() + b"\0")
    assert convert_gguf(path) != first


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "no GGUF file"), (b"GGUFrubbish", "cannot read this GGUF")]
)
def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(tmp_path, content, message):
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        convert_gguf(path)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def llama_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def test_rounding_touches_linear_weights_only_and_keeps_the_rest(tmp_path):
    source = llama_folder(tmp_path / "a")
    out = round_weights(source, tmp_path / "b", bits=4)
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert (out / "config.json").read_text() == (source / "config.json").read_text()
    assert (out / "chat_template.jinja").exists()
    for name in changed:
        groups = after[name].float().reshape(-1, 32)
        assert max(len(set(row.tolist())) for row in groups) <= 15


def test_gpt2_is_rounded_along_its_inputs(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=100, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "a")
    after = load_file(round_weights(tmp_path / "a", tmp_path / "b", bits=3) / "model.safetensors")
    weight_IO = after["transformer.h.0.mlp.c_fc.weight"]
    assert max(len(set(row.tolist())) for row in weight_IO.T.reshape(-1, 32)) <= 7


def test_rounding_refuses_to_overwrite_and_to_read_what_is_no_model(tmp_path):
    source = llama_folder(tmp_path / "a")
    with pytest.raises(CheckpointError, match="exists already"):
        round_weights(source, source)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        round_weights(tmp_path, tmp_path / "b")


matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.floats(-100, 100, width=32)
)


@given(matrices, st.integers(2, 8), st.sampled_from([4, 32]))
def test_rounding_is_off_by_half_a_step_at_most_and_stays_within_range(values, bits, group):
    weight = torch.from_numpy(values)
    rounded = round_matrix(weight, bits=bits, group=group)
    assert rounded.shape == weight.shape
    for start in range(0, weight.shape[1], group):
        part, got = weight[:, start : start + group], rounded[:, start : start + group]
        largest = part.abs().amax(dim=1, keepdim=True)
        step = largest / (2 ** (bits - 1) - 1)
        assert torch.all((part - got).abs() <= step * 0.5001 + 1e-30)
        assert torch.all(got.abs() <= largest * 1.0001)


@given(matrices, st.integers(2, 8))
def test_rounding_twice_is_rounding_once(values, bits):
    once = round_matrix(torch.from_numpy(values), bits=bits, group=32)
    assert torch.allclose(round_matrix(once, bits=bits, group=32), once, rtol=1e-5, atol=1e-30)


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "m") as fresh:
        (fresh / "part").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_makers_wins_and_the_second_agrees(tmp_path):
    with new_folder(tmp_path / "m") as slow:
        (slow / "by").write_text("slow")
        with new_folder(tmp_path / "m") as quick:
            (quick / "by").write_text("quick")
    assert (tmp_path / "m" / "by").read_text() == "quick"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def _make_slowly(target: Path) -> None:
    with new_folder(target) as fresh:
        (fresh / "part").write_text("half")
        time.sleep(60)


def test_a_killed_maker_leaves_no_model_and_its_rubbish_is_swept_later(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_make_slowly, args=(tmp_path / "m",))
    process.start()
    while not list(tmp_path.glob(".making-*/part")):
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    process.close()
    assert not (tmp_path / "m").exists()
    (rubbish,) = tmp_path.glob(".making-*")
    os.utime(rubbish, (0, 0))
    with new_folder(tmp_path / "m"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_copy_in_another_type_holds_the_same_weights_under_another_fingerprint(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "a")
    out = copy_in_dtype(tmp_path / "a", tmp_path / "b", dtype="float16")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "a", out))
    assert before.keys() == after.keys()
    for name, weights in after.items():
        assert str(weights.dtype) == "torch.float16"
        assert (weights.float() - before[name].float()).abs().max() <= 2**-10 * before[name].float().abs().max()
    with pytest.raises(CheckpointError, match="exists already"):
        copy_in_dtype(tmp_path / "a", out, dtype="float16")
