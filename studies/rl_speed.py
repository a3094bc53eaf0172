"""Reinforcement learning's speed: rollouts and training beside TRL's GRPOTrainer; what an orchestrator over HTTP costs.

    python -m studies.rl_speed [--part trl,http] [--render]      # writes the tables of docs/performance.md

Everything is in seconds of one core's processor time, which other work on the machine does not lengthen; the arms take
turns. HTTP's includes the orchestrator's own process, as one core would have to do that work too.
"""

# ruff: noqa: E501 (sentences of the page)

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TAKES = "5 minutes"
ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULT = ROOT / "docs" / "performance.md", ROOT / "studies" / "results" / "rl_speed.json"
BEGIN, END = "<!-- reinforcement: begin -->", "<!-- reinforcement: end -->"
PROMPTS, GROUP, ANSWER, STEPS, ROUNDS = 4, 8, 48, 4, 1
EPISODES, TURNS, SAID = 32, 3, 12
ROW = "Name one gas that plants take in, and say in a sentence what becomes of it. Question {}."


def build_small(folder: Path) -> Path:
    """A Llama of four layers with random weights and SmolLM2's tokenizer: never ends an answer by itself."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2(), local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def smollm2() -> str:
    """The embedded model's folder."""
    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint
    from workbench.store import Project

    home = Path(tempfile.mkdtemp())
    with Project.init(home) as project:
        return str(model_folder(resolve_checkpoint("smollm2", project)))


def run_ours(model: Path, home: Path) -> dict[str, Any]:
    """Steps of method grpo; the first, which compiles and loads, is not timed."""
    from workbench.pipeline import train

    rows = [{"prompt": ROW.format(i)} for i in range(40)]
    home.mkdir(parents=True)
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "recipe": "speed",
        "start": str(model),
        "method": "grpo",
        "dtype": "float32",
        "rl": {
            "prompts": "rows.jsonl", "steps": STEPS, "prompts_per_step": PROMPTS, "group_size": GROUP, "max_tokens": ANSWER,
            "kl": 0.0, "mask_truncated": False, "rewards": [{"kind": "regex", "options": {"pattern": "[ae]{2}"}}],
        },
        "micro_batch": PROMPTS * GROUP,
        "schedule": {"kind": "constant", "learning_rate": 1e-6, "warmup": 0},
        "log_every": 1,
    }  # fmt: skip
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    marks: list[float] = []
    made = train(home / "recipe.yaml", project=home, on_step=lambda _: marks.append(time.process_time()))
    lines = [json.loads(line) for line in (made.made.folder / "log.jsonl").read_text().splitlines()]
    tokens = sum(line["length"] for line in lines[1:]) * PROMPTS * GROUP
    return {"arm": "workbench", "tokens": tokens, "seconds": marks[-1] - marks[0], "steps": STEPS - 1}


def run_trl(model: Path, home: Path) -> dict[str, Any]:
    """The same by TRL's trainer, its defaults but for sizes, type and gradient checkpointing."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []
    lengths: list[int] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.append(sum(map(len, completion_ids)))
        return [float("ae" in one[0]["content"] or "ea" in one[0]["content"]) for one in completions]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

    config = GRPOConfig(
        output_dir=str(home), use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0, loss_type="dapo",
        per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_completion_length=ANSWER,
        learning_rate=1e-6, max_steps=STEPS, temperature=1.0, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True,
    )  # fmt: skip
    rows = [{"prompt": [{"role": "user", "content": ROW.format(i)}]} for i in range(40)]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Clock()],
    )
    trainer.train()
    return {"arm": "TRL", "tokens": sum(lengths[1:]), "seconds": marks[-1] - marks[0], "steps": STEPS - 1}


class Turns:
    """An environment that asks on, and ends."""

    def reset(self, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As in Environment."""
        self.turn = 0
        return messages

    def step(self, answer: str) -> Any:
        """As in Environment."""
        from training.rl.environments import Turn

        self.turn += 1
        done = self.turn == TURNS
        told = [] if done else [{"role": "user", "content": f"And then, {self.turn}?"}]
        return Turn(messages=told, done=done, rewards={"said": float(bool(answer))})

    def close(self) -> Mapping[str, float]:
        """As in Environment."""
        return {}


def drive(folder: str) -> None:
    """The same world as Turns, in the orchestrator's process."""
    from training.orchestrator_client import Episode, Run

    def act(episode: Episode) -> None:
        messages = list(episode.messages)
        for turn in range(1, TURNS + 1):
            answer = episode.chat(messages)
            messages += [answer, {"role": "user", "content": f"And then, {turn}?"}]
        episode.finish(reward=1.0)

    Run.of_folder(folder).drive(act, concurrency=EPISODES)


def run_http(rounds: int) -> list[dict[str, Any]]:
    """The same episodes of SmolLM2-135M in this process and by an orchestrator, in turns."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.rl.collect import Task
    from training.rl.drivers import EnvironmentDriver
    from training.rl.gateway import OrchestratedDriver
    from training.rl.options import Reinforce
    from training.rl.sampling import Policy

    folder = smollm2()
    model = AutoModelForCausalLM.from_pretrained(folder).float()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = Reinforce.model_validate(
        {"prompts": "p", "steps": 2, "max_tokens": SAID, "orchestrator": {"port": 0, "deadline_s": 3000}}, strict=False
    )
    tasks = [
        Task(
            id=str(at), row=at, epoch=0, sample=0, record={}, seed=at,
            messages=[{"role": "user", "content": ROW.format(at)}],
        )
        for at in range(EPISODES)
    ]  # fmt: skip
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        for arm in ("in process", "HTTP"):
            policy = Policy(model, tokenizer, temperature=1.0)
            home = Path(tempfile.mkdtemp())
            children, own, wall = _children(), time.process_time(), time.perf_counter()
            if arm == "HTTP":
                driver: Any = OrchestratedDriver(policy, options, run="speed", folder=home)
                client = subprocess.Popen([sys.executable, "-m", "studies.rl_speed", "--drive", str(home)], cwd=ROOT)
            else:
                driver, client = EnvironmentDriver(policy, options, Turns), None
            episodes = driver.drive(tasks)
            seconds = time.process_time() - own
            driver.close()
            if client is not None:
                client.wait(60)
            found.append(
                {
                    "arm": arm,
                    "tokens": sum(one.drawn for one in episodes),
                    "seconds": seconds + _children() - children,
                    "orchestrator_s": _children() - children,
                    "wall_s": time.perf_counter() - wall,
                    "episodes": len(episodes),
                }
            )
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(parts: list[str]) -> dict[str, Any]:
    """Both tables' numbers."""
    warnings.simplefilter("ignore")
    kept: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if "trl" in parts:
        with tempfile.TemporaryDirectory() as folder:
            model = build_small(Path(folder) / "small")
            kept["trl"] = []
            for number in range(ROUNDS):
                kept["trl"].append(run_ours(model, Path(folder) / f"ours{number}"))
                kept["trl"].append(run_trl(model, Path(folder) / f"trl{number}"))
                print(kept["trl"][-2:], file=sys.stderr, flush=True)
    if "http" in parts:
        kept["http"] = run_http(ROUNDS)
    return kept


def render(kept: dict[str, Any]) -> str:
    """The part of the page."""
    lines: list[str] = []
    if "trl" in kept:
        lines += [
            f"Rollout and training: {PROMPTS} prompts × {GROUP} answers of {ANSWER} tokens a step, a Llama of 4 layers and width 256 with",
            f"SmolLM2's vocabulary, all weights, float32, `loss: dapo`, no divergence term; {STEPS - 1} steps a round after a first one.",
            "TRL 1.16 with its defaults but for these sizes, float32 and gradient checkpointing, which is off in both.",
            "",
            "| round | trainer | rollout tokens | processor s | rollout tokens/s |",
            "|---:|---|---:|---:|---:|",
        ]
        for at, one in enumerate(kept["trl"]):
            rate = one["tokens"] / one["seconds"]
            lines.append(f"| {at // 2 + 1} | {one['arm']} | {one['tokens']:,.0f} | {one['seconds']:.1f} | {rate:.1f} |")
        rates = {arm: _rate([one for one in kept["trl"] if one["arm"] == arm]) for arm in ("workbench", "TRL")}
        lines += [
            "",
            f"Ours makes {rates['workbench'] / rates['TRL']:.2f} times TRL's rollout tokens a second (at least 1 is the goal).",
            "",
        ]
    if "http" in kept:
        lines += [
            f"An orchestrator over HTTP: {EPISODES} episodes at the same time, {TURNS} turns of up to {SAID} tokens each, SmolLM2-135M, float32.",
            "The orchestrator is a process of its own; its time is part of HTTP's.",
            "",
            "| round | episodes driven | tokens | processor s | of which the orchestrator | tokens/s |",
            "|---:|---|---:|---:|---:|---:|",
        ]
        for at, one in enumerate(kept["http"]):
            rate = one["tokens"] / one["seconds"]
            lines.append(
                f"| {at // 2 + 1} | {one['arm']} | {one['tokens']:,} | {one['seconds']:.1f} | {one['orchestrator_s']:.1f} | {rate:.1f} |"
            )
        rates = {arm: _rate([one for one in kept["http"] if one["arm"] == arm]) for arm in ("in process", "HTTP")}
        over = rates["in process"] / rates["HTTP"] - 1
        lines += ["", f"HTTP costs {over:+.1%} for each token (at most 10% is the goal)."]
    return "\n".join(lines)


def _rate(found: list[dict[str, Any]]) -> float:
    return sum(one["tokens"] for one in found) / sum(one["seconds"] for one in found)


def main() -> None:
    """Measure and write the tables; --render writes them again from the kept numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", default="trl,http")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--drive", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive)
        return
    if not options.render:
        RESULT.write_text(json.dumps(measure(options.part.split(",")), indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    kept = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{BEGIN}\n{render(kept)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
