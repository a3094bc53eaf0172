"""Adapters, holds on the start, and faults: each does what its definition says, and resumes to the same bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_preference import dpo_recipe
from tests.training.test_preference import home as home
from tests.training.test_run import make_recipe, open_all, run, same_weights
from training.adapters import capacity_advice
from training.hooks import Hook, Running
from training.options import Lora
from training.run import train
from workbench.errors import ConfigError, RunError

SHORT: dict[str, Any] = {"tokens": 2500, "log_every": 1, "save_every": 2}


def cut_after(folder: Path, step: int, copy: Path) -> Path:
    """The run's folder as a process that was killed after a step's checkpoint left it."""
    shutil.copytree(folder, copy)
    for path in copy.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    return copy


@pytest.mark.parametrize(
    "lora", [{"rank": 4}, {"rank": 4, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}, {"rank": 4, "init": "pissa"}]
)
@pytest.mark.parametrize("method", ["pretrain", "dpo"])
def test_adapters_are_trained_merged_and_resumed_to_the_same_bits(home: Path, method: str, lora: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = f"lora-{method}-{len(json.dumps(lora))}"
    build = dpo_recipe if method == "dpo" else make_recipe
    recipe = build(recipe=name, lora=lora, **SHORT | {"keep": 9})
    made, _ = run(recipe, home, home / name)
    start, merged = load_file(home / "tiny" / "model.safetensors"), load_file(made.last / "model.safetensors")
    assert merged.keys() == start.keys()
    moved = {name for name in start if (merged[name] - start[name]).abs().max() > 1e-6}
    targets = lora.get("targets", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    assert moved == {name for name in start if any(f"{target}.weight" in name for target in targets)}

    ids = AutoTokenizer.from_pretrained(made.last)("the heart pumps", return_tensors="pt")["input_ids"]
    logits = AutoModelForCausalLM.from_pretrained(made.last)(ids).logits
    if lora.get("init") != "pissa":  # its adapters belong to other frozen weights than the start's
        on_top = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "tiny"), made.last / "adapter")
        assert torch.allclose(logits, on_top.eval()(ids).logits, atol=1e-4)

    again, _ = run(recipe, home, cut_after(made.folder, 4, home / f"{name}-cut"))
    assert same_weights(made.last, again.last)
    assert same_adapters(made.last, again.last)


def same_adapters(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_adapters_with_gradient_checkpointing_come_to_the_same_weights(home: Path) -> None:
    made = [
        run(make_recipe(lora={"rank": 4}, gradient_checkpointing=on, **SHORT), home, home / f"checkpointing-{on}")[0]
        for on in (False, True)
    ]
    one, other = (load_file(folder.last / "model.safetensors") for folder in made)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_a_target_that_names_no_module_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets: .*no_such"):
        run(make_recipe(lora={"targets": ["no_such"]}), home, home / "no-target")


def test_more_tokens_than_adapters_hold_are_answered_with_advice() -> None:
    from transformers import LlamaConfig

    smollm2 = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
    )
    assert capacity_advice(Lora(), smollm2, 5_000_000) is None
    advice = capacity_advice(Lora(), smollm2, 500_000_000)
    assert advice is not None and "lora.rank to 8" in advice and "4,884,480 trained weights" in advice


def test_the_weights_that_advice_counts_are_those_that_peft_trains(home: Path) -> None:
    from training.adapters import rank_weights
    from training.start import load_model

    model = load_model(make_recipe(lora={"rank": 4}), home / "tiny")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 4 * rank_weights(model.config)


def distance(home: Path, name: str, **more: Any) -> float:
    made, _ = run(make_recipe(recipe=name, **SHORT | more), home, home / name)
    start, now = (load_file(folder / "model.safetensors") for folder in (home / "tiny", made.last))
    return sum(float((now[key] - start[key]).pow(2).sum()) for key in start)


def test_a_pull_back_keeps_the_weights_nearer_and_resumes_to_the_same_bits(home: Path) -> None:
    free = distance(home, "free")
    near = distance(home, "pulled", keep_near={"l2": 50.0}, keep=9)
    assert near < 0.7 * free
    recipe = make_recipe(recipe="pulled", keep_near={"l2": 50.0}, **SHORT | {"keep": 9})
    again, _ = run(recipe, home, cut_after(home / "pulled", 2, home / "pulled-cut"))
    assert same_weights(again.last, home / "pulled" / again.last.name)


def test_a_pull_back_takes_off_rate_times_strength_of_the_distance() -> None:
    from training.trainer import PullBack

    layer = torch.nn.Linear(3, 2)
    start = layer.weight.detach().clone()
    pull = PullBack(layer, 0.5)
    moved = start + torch.randn(2, 3)
    layer.weight.data.copy_(moved)
    pull.on_pre_optimizer_step(None, None, None, optimizer=torch.optim.SGD(layer.parameters(), lr=0.2))
    assert torch.allclose(layer.weight, moved - 0.2 * 0.5 * (moved - start))


def divergence(home: Path, folder: Path) -> float:
    """KL(start ‖ model) in nats a token, over a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(home / "tiny")("the heart pumps blood in case 3. " * 4, return_tensors="pt")
    before, after = (
        AutoModelForCausalLM.from_pretrained(path)(**ids).logits[0].detach().log_softmax(-1)
        for path in (home / "tiny", folder)
    )
    return float((before.exp() * (before - after)).sum(-1).mean())


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_divergence_term_keeps_the_answers_nearer(home: Path, lora: Any) -> None:
    name = "lora" if lora else "full"
    free, _ = run(make_recipe(recipe=f"kl-free-{name}", lora=lora, **SHORT), home, home / f"kl-free-{name}")
    near, _ = run(
        make_recipe(recipe=f"kl-near-{name}", lora=lora, keep_near={"kl": 5.0}, **SHORT), home, home / f"kl-near-{name}"
    )
    assert divergence(home, near.last) < 0.7 * divergence(home, free.last)


def logprob_of(model: Any, tokenizer: Any) -> float:
    from workbench.engines.base import ScoreRequest
    from workbench.engines.causal_model import CausalModel
    from workbench.engines.transformers_engine import TransformersEngine

    taken = CausalModel(model, device=model.device, weights="float32", arithmetic="float32")
    engine = TransformersEngine(taken, tokenizer)
    [[(_, score)]] = list(engine.score([ScoreRequest(context="the heart", continuation=" pumps blood")]))
    return score.logprob


class Asks(Hook):
    """Scores a text with the model in training, as a sentinel does."""

    name = "asks"
    last = 0.0

    def on_step(self, run: Running) -> None:
        self.last = logprob_of(run.model, run.tokenizer)
        run.model.train()


def test_a_hook_asks_the_model_with_its_adapters_as_any_engine_does(home: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe = make_recipe(recipe="asked", lora={"rank": 4}, **SHORT)
    tokenizer, opened, plan = open_all(recipe, home)
    hook = Asks()
    made = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=home / "asked", hooks=[hook])
    merged = AutoModelForCausalLM.from_pretrained(made.last, dtype=torch.float32)
    assert hook.last == pytest.approx(logprob_of(merged, tokenizer), abs=1e-3)
    start = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32)
    assert abs(hook.last - logprob_of(start, tokenizer)) > 0.05


class Poison(Hook):
    """Makes the weights worthless after a step."""

    name = "poison"

    def on_step(self, run: Running) -> None:
        if run.step == 3:
            with torch.no_grad():
                run.model.get_input_embeddings().weight.fill_(float("nan"))


def test_a_loss_that_is_no_number_ends_the_run_and_the_last_good_checkpoint_is_kept(home: Path) -> None:
    recipe = make_recipe(recipe="nan", schedule={"kind": "constant", "learning_rate": 1e-3}, **SHORT)
    tokenizer, opened, plan = open_all(recipe, home)
    with pytest.raises(RunError, match="step 4: the loss or its gradient is not a number"):
        train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=home / "nan", hooks=[Poison()])
    good = load_file(home / "nan" / "checkpoint-2" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in good.values())
    assert [path.name for path in (home / "nan").glob("checkpoint-*")] == ["checkpoint-2"]


def test_on_a_full_disk_the_run_ends_with_the_cure_and_goes_on_where_there_is_room(
    home: Path, small_disk: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(recipe="full", **SHORT | {"save_every": 1, "keep": 99})
    with pytest.raises(RunError, match=r"disk is full|make room on the disk"):
        run(recipe, home, small_disk / "full")
    assert all((path / "mixer.json").is_file() for path in (small_disk / "full").glob("checkpoint-*"))
    shutil.copytree(small_disk / "full", tmp_path / "full")
    made, _ = run(recipe, home, tmp_path / "full")
    whole, _ = run(recipe, home, home / "room")
    assert same_weights(made.last, whole.last)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"dpo": {"beta": 0.2}}, "dpo: has no effect with method pretrain"),
        ({"method": "dpo", "dpo": {"loss": "ipo", "label_smoothing": 0.1}}, "has no meaning with loss ipo"),
        ({"method": "dpo", "keep_near": {"kl": 1.0}}, r"raise dpo\.beta instead"),
        ({"lora": {}, "keep_near": {"l2": 1.0}}, "use weight_decay"),
        ({"shard": True, "keep_near": {"l2": 1.0}}, "not there with shard"),
        ({"shard": True, "lora": {"init": "pissa"}}, "use default"),
        ({"curriculum": {"source": "nowhere"}}, "is no source of the mix: domain, chat"),
        ({"curriculum": {"source": "chat", "by": "field"}}, "names the column"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_with_the_cure(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        make_recipe(**fields)
