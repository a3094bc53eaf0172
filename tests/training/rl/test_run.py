"""Runs on episodes: the reward rises, a kill changes no bit, what was sampled is learned from, faults are told."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_tiny_checkpoint
from training.ledger import find_text, seen_rows
from training.plan import plan_run
from training.recipe import Recipe
from training.rewards.base import Services
from training.rl.episodes import path_of, read_episodes
from training.run import Step, Trained, train
from training.sources import open_sources
from workbench.errors import ConfigError, RunError

ROOT = Path(__file__).parents[3]
OWN = """
from training.rewards.base import Base, Failed, rewards
from workbench.config import StrictModel

class Nothing(StrictModel):
    fails: str = ""

@rewards.register("test-e", replace=True)
class LetterE(Base):
    '''Share of an answer's letters that are e.'''
    Options = Nothing
    def __init__(self, options, services):
        self.options = options
    def score(self, samples):
        if self.options.fails == "all":
            raise ValueError("the grader is ill")
        nan = float("nan") if self.options.fails == "nan" else 0.0
        found = [s.answer.count("e") / max(1, len(s.answer)) for s in samples]
        return [one + nan if self.options.fails == "nan" and i % 4 == 0 else one for i, one in enumerate(found)]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rl")
    save_tiny_checkpoint(folder / "tiny")
    config = json.loads((folder / "tiny" / "tokenizer_config.json").read_text())
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    for path in (folder / "tiny").glob("chat_template.jinja"):
        path.write_text(template)
    (folder / "tiny" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    (folder / "own.py").write_text(OWN)
    rows = [{"question": f"Which gas do plants take in, {i}?", "answer": str(i)} for i in range(10)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = [{"prompt": f"What about the {part}?", "completion": f"The {part} is fine."} for part in ("liver", "lung")]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    return folder


def make(rl: dict[str, Any] | None = None, **more: Any) -> Recipe:
    asked: dict[str, Any] = {
        "prompts": "asked.jsonl",
        "column": "question",
        "steps": 6,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_tokens": 12,
        "mask_truncated": False,
        "rewards": [{"kind": "test-e"}],
        "include": ["own.py"],
    }
    fields: dict[str, Any] = {
        "recipe": "test",
        "start": "tiny",
        "method": "grpo",
        "rl": asked | (rl or {}),
        "dtype": "float32",
        "micro_batch": 4,
        "sequence_length": 64,
        "log_every": 1,
        "schedule": {"kind": "constant", "learning_rate": 3e-3, "warmup": 0},
    }
    return Recipe.model_validate(fields | more, strict=False)


def run(recipe: Recipe, home: Path, folder: Path, steps: list[Step] | None = None) -> Trained:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home / "tiny")
    sources = open_sources(recipe, tokenizer=tokenizer, folder=home)
    plan = plan_run(recipe, sources, pad=tokenizer.eos_token_id)
    return train(
        recipe,
        sources,
        plan,
        start=home / "tiny",
        tokenizer=tokenizer,
        folder=folder,
        on_step=(lambda _: None) if steps is None else steps.append,
        services=Services(folder=home),
    )


def log_of(made: Trained) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]


def test_the_reward_rises_and_the_log_says_what_became_of_the_policy(home: Path) -> None:
    steps: list[Step] = []
    options = {"steps": 25, "prompts_per_step": 4, "group_size": 8, "kl": 0.001}
    made = run(
        make(options, schedule={"kind": "constant", "learning_rate": 1e-2, "warmup": 0}), home, home / "a", steps
    )
    first, last = ([one.reward or 0.0 for one in part] for part in (steps[:4], steps[-4:]))
    assert sum(last) / 4 > 2 * sum(first) / 4
    log = log_of(made)
    assert {"reward", "reward/test-e", "kl", "entropy", "length", "no_signal", "truncated", "dropped"} <= set(log[-1])
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6) and log[-1]["kl"] > 0.01
    assert all(line["sampling_gap"] < 1e-5 for line in log)  # the log-probabilities are those that were drawn by
    assert log[-1]["tokens"] == made.given["prompts"]


def test_what_is_recorded_is_what_the_model_gives_its_tokens(home: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = run(make({"temperature": 0.7}), home, home / "recorded")
    recorded = read_episodes(made.folder, 0)
    assert recorded is not None
    model = AutoModelForCausalLM.from_pretrained(home / "tiny")
    for episode in recorded[1]:
        (strand,) = episode.sequences
        with torch.no_grad():
            logits = model(torch.tensor([strand.tokens])).logits[0].float() / 0.7
        found = logits.log_softmax(-1)
        for at, logprob in enumerate(strand.logprobs):
            if logprob is not None:
                assert logprob == pytest.approx(float(found[at - 1, strand.tokens[at]]), abs=1e-5)
        assert strand.drawn <= 12


def test_the_same_recipe_gives_the_same_bits(home: Path) -> None:
    one, other = (run(make(), home, home / name) for name in ("one", "other"))
    a, b = (load_file(made.last / "model.safetensors") for made in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


PROCESS = """
import os, signal, sys
from pathlib import Path
from tests.training.rl import test_run
import training.rl.trainer as trainer
home, folder, die = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
made = trainer.PolicyTrainer._fill
def fill(self, taken, device):
    made(self, taken, device)
    if self.state.global_step + 1 == die:  # its episodes are recorded, nothing is learned from them yet
        os.kill(os.getpid(), signal.SIGKILL)
trainer.PolicyTrainer._fill = fill
test_run.run(test_run.resumable(), home, folder)
"""


def resumable() -> Recipe:
    mix = [{"name": "chat", "data": "chat.jsonl", "share": 1.0, "role": "replay", "max_epochs": 99}]
    return make({"steps": 8, "replay_rows": 1, "updates": 2}, save_every=3, mix=mix, lora={"rank": 4, "alpha": 8.0})


def test_a_run_that_was_killed_within_a_step_ends_with_the_same_bits(home: Path) -> None:
    """With adapters, replay, and two updates for each set of episodes; the checkpoint lies between the two."""
    whole = run(resumable(), home, home / "whole")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(home), str(home / "killed"), "6"],
        env=environment, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    recorded = path_of(home / "killed", 2).read_bytes()
    killed = run(resumable(), home, home / "killed")
    assert path_of(home / "killed", 2).read_bytes() == recorded  # nothing is sampled twice
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        a, b = load_file(whole.last / file), load_file(killed.last / file)
        assert all(torch.equal(a[name], b[name]) for name in a)
    timed = ("tokens_per_second", "sampling_s", "scoring_s")
    logs = [[{k: v for k, v in line.items() if k not in timed} for line in log_of(made)] for made in (whole, killed)]
    assert logs[0] == logs[1]
    assert whole.given == killed.given


def test_every_step_says_which_prompts_it_was_about(home: Path) -> None:
    made = run(make(), home, home / "ledger")
    seen = [row for row in seen_rows(made.folder) if row.source == "prompts"]
    assert sorted({row.step for row in seen}) == list(range(1, 7))
    (found,) = find_text(made.folder, f"Which gas do plants take in, {seen[0].row - 1}?")
    assert seen[0].step in found.steps


def test_an_episode_whose_reward_failed_is_dropped_and_counts_as_nothing(home: Path) -> None:
    made = run(make({"rewards": [{"kind": "test-e", "options": {"fails": "nan"}}]}), home, home / "nan")
    recorded = read_episodes(made.folder, 0)
    assert recorded is not None
    dropped = [one for one in recorded[1] if one.dropped]
    assert len(dropped) == 2 and all(one.reward is None and one.advantage == 0 for one in dropped)
    assert "no number" in dropped[0].dropped
    assert log_of(made)[0]["dropped"] == 0.25


@pytest.mark.parametrize(("options", "bound"), [({"on_failure": "stop"}, "stop"), ({}, "max_dropped")])
def test_a_run_stops_where_rewards_fail_and_goes_on_from_there(options: Any, bound: str, home: Path) -> None:
    recipe = make({"rewards": [{"kind": "test-e", "options": {"fails": "all"}}], **options})
    folder = home / f"stops-{bound}"
    with pytest.raises(RunError, match=rf"have no reward \(.*{bound}.*the grader is ill"):
        run(recipe, home, folder)
    assert not path_of(folder, 0).exists()  # nothing of it is learned from later


@pytest.mark.parametrize(
    ("rl", "more", "said"),
    [
        ({"rewards": []}, {}, "nothing says what is good"),
        (
            {},
            {"method": "sft", "tokens": 5, "mix": [{"name": "a", "data": "a", "share": 1}]},
            "no effect with method sft",
        ),
        ({"replay_rows": 1}, {}, "names no replay"),
        ({"environment": "counting-house"}, {"shard": True}, "shard: is not there"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_what_to_change(rl: Any, more: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(rl, **more)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "hello"}], "no column 'question'"),
        ([{"question": ""}], "row 1: column 'question' is empty"),
        ([{"question": [{"role": "assistant", "content": "hi"}]}], "does not end with a user's message"),
    ],
)
def test_prompts_that_cannot_be_asked_are_named_by_their_row(rows: Any, said: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=said):
        open_sources(make({"prompts": str(tmp_path / "p.jsonl")}), tokenizer=None, folder=home)
