"""Every shipped recipe is listed, explains itself, and comes to a plan on sample data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from training.plan import plan_run
from training.recipe import load_recipe, shipped_recipes
from training.sources import open_sources

STAGES = {
    "pretrain",
    "midtrain",
    "sft",
    "sft-lora",
    "sft-curriculum",
    "dpo",
    "dpo-lora",
    "sft-safety",
    "rl-grpo",
    "rl-grpo-lora",
    "rl-tools",
    "rl-policy",
}
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample data under every name that a shipped recipe uses."""
    home = tmp_path_factory.mktemp("recipes")
    save_tiny_checkpoint(home / "tiny")
    asked = [f"What does part {i} of the body do?" for i in range(40)]
    rows: dict[str, list[dict[str, Any]]] = {
        "questions": [{"question": q, "answer": str(i)} for i, q in enumerate(asked)],
        "boxes": [{"question": q, "boxes": {"red": i, "blue": 2}, "answer": i + 2} for i, q in enumerate(asked)],
        "policy-prompts": [{"prompt": q, "category": "violence" if i % 2 else ""} for i, q in enumerate(asked)],
        "pairs": [{"prompt": q, "completion": f"It does its work {q}"} for q in asked],
        "conversations": [
            {"messages": [{"role": "user", "content": f"And {q}"}, {"role": "assistant", "content": "Much."}]}
            for q in asked
        ],
        "refusals": [{"prompt": f"Do harm {i}.", "completion": f"No, not that {i}."} for i in range(40)],
        "harmless": [{"prompt": f"Kill the process {i}.", "completion": f"Use kill {i}."} for i in range(40)],
        "labels": [
            {"prompt": q, "completion": ("Yes", "No")[i % 2], "weight": 1 + i % 3, "difficulty": i % 4}
            for i, q in enumerate(asked)
        ],
        "preferences": [{"prompt": q, "chosen": f"It does its work {q}", "rejected": "No."} for q in asked],
        **{name: [{"text": f"{name} says: {q}"} for q in asked] for name in ("domain", "curated", "general")},
    }
    for name, found in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return home


def test_there_is_a_recipe_for_every_stage_and_method() -> None:
    assert set(shipped_recipes()) >= STAGES


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_dry_runs_on_sample_data(name: str, folder: Path) -> None:
    from transformers import AutoTokenizer

    small = ["tokens=4000", "sequence_length=256", "batch_tokens=512"]
    if name.startswith("family-"):  # larger micro batches, and saved more seldom, than so short a run has steps
        small += ["micro_batch=1", "save_every=2"]
    recipe = load_recipe(shipped_recipes()[name], small)
    recipe = recipe.model_copy(
        update={"mix": tuple(source.model_copy(update={"max_epochs": 999.0}) for source in recipe.mix)}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    tokenizer.chat_template = TEMPLATE
    plan = plan_run(recipe, open_sources(recipe, tokenizer=tokenizer, folder=folder), pad=1)
    assert plan.steps >= 2 and plan.tokens >= recipe.tokens
    assert all(source.tokens > 0 for source in plan.sources)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_says_in_its_first_line_what_it_is_for_and_where_its_rate_is_from(name: str) -> None:
    text = shipped_recipes()[name].read_text()
    assert text.startswith("# ") and text.splitlines()[0].endswith(".")
    rates = [line for line in text.splitlines() if "learning_rate:" in line]
    assert (rates and all("#" in line for line in rates)) or re.search(r"arXiv|recipes", text)
