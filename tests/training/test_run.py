"""A real run of a tiny model: it learns, resumes to the same bits, and what cannot work is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_tiny_checkpoint
from training.ledger import seen_rows
from training.plan import TrainingPlan, plan_run
from training.recipe import Recipe
from training.run import Step, Trained, train
from training.sources import RowDocuments, open_source
from workbench.errors import ConfigError

SENTENCES = ["the heart pumps blood", "the lung takes air", "a bone holds the body up", "a nerve carries a signal"]


def write_data(folder: Path) -> None:
    domain = [{"text": f"{SENTENCES[i % 4]} in case {i}. " * (1 + i % 5)} for i in range(40)]
    chat = [{"prompt": f"What about {s}?", "completion": s.upper()} for s in SENTENCES * 8]
    for name, rows in (("domain", domain), ("chat", chat)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_recipe(**more: Any) -> Recipe:
    fields: dict[str, Any] = {
        "recipe": "test",
        "start": "tiny",
        "method": "pretrain",
        "mix": [
            {"name": "domain", "data": "domain.jsonl", "share": 0.7, "max_epochs": 50},
            {"name": "chat", "data": "chat.jsonl", "share": 0.3, "anneal_share": 0.6, "max_epochs": 50},
        ],
        "tokens": 6000,
        "sequence_length": 64,
        "batch_tokens": 512,
        "micro_batch": 2,
        "schedule": {"learning_rate": 3e-3, "warmup": 0.1, "anneal": 0.3},
        "dtype": "float32",
        "log_every": 2,
    }
    return Recipe.model_validate(fields | more, strict=False)


def open_all(recipe: Recipe, home: Path) -> tuple[Any, dict[str, RowDocuments], TrainingPlan]:
    """Tokenizer, sources and plan."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home / "tiny")
    opened = {s.name: open_source(s, tokenizer=tokenizer, method=recipe.method, folder=home) for s in recipe.mix}
    return tokenizer, opened, plan_run(recipe, opened, pad=tokenizer.eos_token_id)


def run(recipe: Recipe, home: Path, folder: Path, steps: list[Step] | None = None) -> tuple[Trained, TrainingPlan]:
    tokenizer, opened, plan = open_all(recipe, home)
    seen = [] if steps is None else steps
    made = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, on_step=seen.append)
    return made, plan


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_tiny_checkpoint(folder / "tiny")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Trained, TrainingPlan, list[Step]]:
    steps: list[Step] = []
    made, plan = run(make_recipe(), home, home / "whole", steps)
    return made, plan, steps


def test_a_run_learns_and_ends_with_what_the_plan_said(whole: Any) -> None:
    made, plan, steps = whole
    assert steps[-1].loss < 0.8 * steps[0].loss
    assert (made.steps, steps[-1].step) == (plan.steps, plan.steps)
    assert sum(made.given.values()) == plan.tokens == steps[-1].tokens
    assert made.given == {source.name: source.tokens for source in plan.sources}
    for source in plan.sources:
        assert abs(source.share - source.asked) * plan.tokens < 2 * 64


def test_the_rate_warms_up_stays_and_anneals(whole: Any) -> None:
    _, plan, steps = whole
    rates = {step.step: step.learning_rate for step in steps}
    middle = [rate for step, rate in rates.items() if 4 <= step <= plan.anneal_step]
    assert max(middle) == pytest.approx(3e-3) and min(middle) == pytest.approx(3e-3)
    falling = plan.steps - plan.anneal_step
    assert rates[plan.steps] == pytest.approx(3e-3 * (1 - ((falling - 1) / falling) ** 0.5), rel=1e-3)


def test_the_stage_entry_checkpoint_and_the_last_one_can_be_loaded_and_evaluated(whole: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made, plan, _ = whole
    assert made.entry == made.folder / f"checkpoint-{plan.anneal_step}"
    for folder in (made.entry, made.last):
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = AutoTokenizer.from_pretrained(folder)("the heart", return_tensors="pt")["input_ids"]
        assert torch.isfinite(model(ids).logits).all()


def test_the_tokenizer_comes_along_byte_for_byte(home: Path, whole: Any) -> None:
    """Saved anew it would have another digest, and nothing could be compared with the start."""
    from workbench.store.checkpoints import resolve

    made, _, _ = whole
    assert resolve(made.last).tokenizer == resolve(home / "tiny").tokenizer


def test_every_step_says_which_documents_it_saw(whole: Any) -> None:
    made, plan, _ = whole
    packed = sorted({(seen.step, seen.packed) for seen in seen_rows(made.folder)})
    assert packed == [(step, row) for step in range(1, plan.steps + 1) for row in range(plan.rows_per_step)]


def test_the_annealing_phase_has_its_own_mix(whole: Any) -> None:
    made, plan, _ = whole
    sources = {(seen.step, seen.packed): seen.source for seen in seen_rows(made.folder)}

    def share(found: list[str]) -> float:
        return found.count("chat") / len(found)

    stable = [source for (step, _), source in sources.items() if step <= plan.anneal_step]
    annealed = [source for (step, _), source in sources.items() if step > plan.anneal_step + 1]
    assert share(annealed) > share(stable) + 0.1


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(home: Path, whole: Any) -> None:
    """What a killed process leaves: complete checkpoints, half a later one, and half a line."""
    made, plan, _ = whole
    cut = home / "cut"
    shutil.copytree(made.folder, cut)
    shutil.rmtree(cut / made.last.name)
    (cut / "checkpoint-11").mkdir()
    (cut / "checkpoint-11" / "model.safetensors").write_bytes(b"half")
    with (cut / "log.jsonl").open("a") as file:
        file.write('{"step": 9')
    again, _ = run(make_recipe(), home, cut)
    assert same_weights(made.last, again.last)
    assert again.given == made.given
    assert seen_rows(cut) == seen_rows(made.folder)
    states = [json.loads((one.last / "trainer_state.json").read_text())["global_step"] for one in (made, again)]
    assert states == [plan.steps, plan.steps]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(home: Path, whole: Any) -> None:
    made, _, _ = whole
    folder = home / "killed"
    script = (
        "import sys; from pathlib import Path; from tests.training.test_run import make_recipe, run;"
        "run(make_recipe(save_every=2), Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    for wait_for in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", script, str(home), str(folder)])
        while process.poll() is None and not (folder / f"checkpoint-{wait_for}").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again, _ = run(make_recipe(save_every=2), home, folder)
    assert same_weights(made.last, again.last)
    assert seen_rows(folder) == seen_rows(made.folder)


def test_a_finished_run_is_not_trained_again(home: Path, whole: Any) -> None:
    made, _, _ = whole
    before = (made.last / "model.safetensors").stat().st_mtime_ns
    steps: list[Step] = []
    run(make_recipe(), home, made.folder, steps)
    assert not steps and (made.last / "model.safetensors").stat().st_mtime_ns == before


def test_documents_of_one_row_do_not_see_each_other(home: Path) -> None:
    """The loss of a packed row is the sum of its documents' own."""
    from transformers import AutoModelForCausalLM

    from training.objective import NextToken
    from training.trainer import RecipeTrainer

    model = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(3, 90, (n,), generator=generator) for n in (9, 14, 5)]
    trainer = RecipeTrainer(objective=NextToken(), model=model, args=_cpu(home))

    def loss(documents: list[torch.Tensor]) -> float:
        tokens = torch.cat(documents)[None]
        labels = torch.cat([torch.cat([torch.tensor([-100]), d[1:]]) for d in documents])[None]
        positions = torch.cat([torch.arange(len(d)) for d in documents])[None]
        inputs = {"input_ids": tokens, "labels": labels, "position_ids": positions}
        return float(trainer.compute_loss(model, inputs, num_items_in_batch=torch.ones(1)).detach())

    assert loss(parts) == pytest.approx(sum(loss([part]) for part in parts), rel=1e-5)
    plain = model(input_ids=parts[0][None], labels=parts[0][None]).loss.item() * (len(parts[0]) - 1)
    assert loss(parts[:1]) == pytest.approx(plain, rel=1e-5)


def test_two_processes_come_to_the_losses_of_one_copied_or_sharded(home: Path, whole: Any) -> None:
    """Copied: a model in each. Sharded: FSDP2, whole weights saved, gone on with from the middle."""
    made, _, _ = whole
    script = home / "two.py"
    script.write_text(
        "import os, sys; from pathlib import Path; from tests.training.test_run import make_recipe, run\n"
        "from training.run import is_first_process, wait_for_all\n"
        "home = Path(sys.argv[1])\n"
        "run(make_recipe(), home, home / 'two')\n"
        "made, _ = run(make_recipe(shard=True, save_every=4), home, home / 'sharded')\n"
        "wait_for_all()\n"
        "if is_first_process():\n"
        "    made.last.rename(home / 'sharded-whole')\n"
        "wait_for_all()\n"
        "run(make_recipe(shard=True, save_every=4), home, home / 'sharded')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*launch, str(script), str(home)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two, sharded = (
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (made.folder, home / "two", home / "sharded")
    )
    assert two == pytest.approx(one, rel=1e-4)
    assert sharded == pytest.approx(one, rel=1e-4)
    assert seen_rows(home / "two") == seen_rows(made.folder) == seen_rows(home / "sharded")
    last = home / "sharded" / made.last.name
    expected, whole_weights = load_file(made.last / "model.safetensors"), load_file(last / "model.safetensors")
    assert {name: value.shape for name, value in whole_weights.items()} == {n: v.shape for n, v in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(whole_weights[name], value, rtol=1e-3, atol=1e-4)
    uninterrupted = load_file(home / "sharded-whole" / "model.safetensors")
    assert all(torch.equal(whole_weights[name], value) for name, value in uninterrupted.items())

    from transformers import AutoModelForCausalLM

    loaded, info = AutoModelForCausalLM.from_pretrained(last, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.get_input_embeddings().weight, whole_weights["model.embed_tokens.weight"])


def _cpu(home: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(output_dir=str(home / "unused"), use_cpu=True, report_to=[], bf16=False)


def test_another_recipe_in_the_same_folder_is_refused(home: Path, whole: Any) -> None:
    with pytest.raises(ConfigError, match="run of another recipe"):
        run(make_recipe(seed=1), home, whole[0].folder)


def test_a_source_too_small_for_its_share_is_refused(home: Path) -> None:
    mix = [{"name": "domain", "data": "domain.jsonl", "share": 1.0, "max_epochs": 1}]
    with pytest.raises(ConfigError, match="more than 1 passes over its rows"):
        run(make_recipe(mix=mix, tokens=60_000), home, home / "none")
