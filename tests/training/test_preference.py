"""DPO over packed rows has TRL's loss, rewards and gradients; rows of other sources are blended in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from tests.training.test_run import make_recipe, open_all, write_data
from training.ledger import seen_rows
from training.mixing import IGNORED, Document, Mixer
from training.options import Preference
from training.plan import build_mixer
from training.preference import PreferenceLoss, reference_logps
from training.run import train
from training.stream import collate, tensors

END = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
)
PARTS = ["heart", "lung", "liver", "kidney", "bone", "nerve", "skin", "spleen"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import save_tiny_checkpoint

    folder = tmp_path_factory.mktemp("preference")
    save_tiny_checkpoint(folder / "tiny")
    config = json.loads((folder / "tiny" / "tokenizer_config.json").read_text())
    template = END + "{% if add_generation_prompt %}[assistant]{% endif %}"
    if (folder / "tiny" / "chat_template.jinja").exists():
        (folder / "tiny" / "chat_template.jinja").write_text(template)
    else:
        (folder / "tiny" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    write_data(folder)
    pairs = [
        {
            "prompt": f"What is the {part}, case {i}?",
            "chosen": f"The {part} is an organ.",
            "rejected": "I do not know" * (1 + i % 3),
        }
        for i in range(6)
        for part in PARTS
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


def dpo_recipe(**more: Any) -> Any:
    mix = [
        {"name": "pairs", "data": "pairs.jsonl", "share": 0.7, "max_epochs": 50},
        {"name": "chat", "data": "chat.jsonl", "share": 0.3, "max_epochs": 50},
    ]
    fields = {"method": "dpo", "mix": mix, "sequence_length": 192, "batch_tokens": 768, "tokens": 4000, "log_every": 1}
    return make_recipe(**fields | more)


class Pairs:
    """Random preferences."""

    splits = False

    def __init__(self, lengths: list[tuple[int, int, int]]) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(n: int) -> list[int]:
            return torch.randint(3, 500, (n,), generator=generator).tolist()

        self.rows = [(draw(a), draw(b), draw(c)) for a, b, c in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def document(self, row: int) -> Document:
        import numpy as np

        prompt, chosen, rejected = self.rows[row]
        tokens = np.array([*prompt, *chosen, *prompt, *rejected], np.int64)
        loss = np.array([0] * len(prompt) + [1] * len(chosen) + [0] * len(prompt) + [1] * len(rejected), bool)
        return Document(tokens, loss, second=len(prompt) + len(chosen))


LENGTHS = [(5, 9, 4), (8, 3, 11), (3, 6, 6), (7, 2, 9)]


def packed(pairs: Pairs) -> dict[str, Any]:
    mixer = Mixer(sources={"pairs": pairs}, length=96, seed=0, orders={"pairs": "given"}, pad=1)
    return collate([tensors(mixer.next_row({"pairs": 1}), ["pairs"])])


@pytest.mark.parametrize(
    ("options", "trl_options"),
    [
        ({}, {}),
        ({"beta": 0.5, "label_smoothing": 0.1}, {"beta": 0.5, "label_smoothing": 0.1}),
        ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
    ids=["sigmoid", "smoothed", "ipo", "with-sft"],
)
def test_loss_rewards_and_gradients_are_those_of_trl(
    options: dict[str, Any], trl_options: dict[str, Any], tmp_path: Path
) -> None:
    pairs = Pairs(LENGTHS)
    batch = packed(pairs)
    assert len(batch["pairs"]) == len(LENGTHS)
    start, model = tiny_model(seed=0), tiny_model(seed=3)
    objective = PreferenceLoss(Preference(**options), dict(reference_logps(start, [batch], ["pairs"])), ["pairs"])
    counts = objective.counts([batch])
    loss = objective.loss(model, model.get_output_embeddings(), batch, counts)
    loss.backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    theirs, rewards, gradients = trl_step(pairs, tiny_model(seed=0), tiny_model(seed=3), trl_options, tmp_path)
    assert loss.item() == pytest.approx(theirs, rel=1e-4)
    if options.get("label_smoothing"):
        return
    found = objective.pop_rewards()
    assert found["reward_chosen"] == pytest.approx(rewards["rewards/chosen"], rel=1e-3)
    assert found["reward_rejected"] == pytest.approx(rewards["rewards/rejected"], rel=1e-3)
    assert found["reward_accuracy"] == pytest.approx(rewards["rewards/accuracies"])
    for name, gradient in gradients.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-5), name


def trl_step(pairs: Pairs, start: Any, model: Any, options: dict[str, Any], folder: Path) -> tuple[float, Any, Any]:
    """Loss, metrics and gradients of one batch in TRL's DPOTrainer."""
    import datasets
    from trl import DPOConfig, DPOTrainer

    from tests.tiny import tiny_tokenizer

    smoothing = options.get("label_smoothing", 0.0)
    options = {k: v for k, v in options.items() if k != "label_smoothing"}
    arguments = DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    trainer = DPOTrainer(
        model=model,
        ref_model=start,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
    )
    features = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in pairs.rows]
    batch = trainer.data_collator(features)
    model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    value = loss.item()
    if smoothing:  # TRL's sigmoid takes none: Mitchell's formula on its own rewards margin, pair by pair
        margins = []
        for feature in features:
            one = trainer.data_collator([feature])
            trainer.compute_loss(model, one)
            margins.append(trainer._metrics["train"]["rewards/margins"][-1])
        m = torch.tensor(margins)
        log = torch.nn.functional.logsigmoid
        value = float((-(1 - smoothing) * log(m) - smoothing * log(-m)).mean())
    return value, metrics, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_a_run_prefers_what_was_chosen_and_blends_other_rows_in(home: Path) -> None:
    recipe = dpo_recipe(schedule={"learning_rate": 1e-3, "anneal": 0.3})
    tokenizer, opened, plan = open_all(recipe, home)
    made = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=home / "dpo")
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert log[0]["reward_chosen"] == pytest.approx(0, abs=1e-3)  # at the start nothing has moved
    last = log[-1]
    assert last["reward_accuracy"] > 0.9 and last["reward_chosen"] > last["reward_rejected"]
    sources = {seen.source for seen in seen_rows(made.folder)}
    assert sources == {"pairs", "chat"}


def test_a_run_on_preferences_is_watched_and_given_more_replay(home: Path) -> None:
    from tests.training.test_sentinel import Retained, control, events
    from training.sentinel import Sentinel
    from workbench.watching import task_rows

    asked = control(on_forgetting="remix", hits=1, max_changes=9, kl_every=2)
    recipe = dpo_recipe(schedule={"learning_rate": 3e-3, "anneal": 0.3}, tokens=2500, control=asked.model_dump())
    tokenizer, opened, plan = open_all(recipe, home)
    rows = task_rows(recipe, opened, tokenizer.eos_token_id)
    hooks = [Sentinel(asked, Retained(home / "tiny"), task_rows=rows)]
    folder = home / "watched"
    train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, hooks=hooks)
    told = events(folder)
    assert [event["nats"] for event in told if event["event"] == "kl"][-1] > 0
    (shares, *_) = [event for event in told if event["event"] == "shares"]
    assert shares["shares"]["chat"] > recipe.shares(annealing=False)["chat"]


def test_what_the_start_thought_is_computed_once(home: Path) -> None:
    recipe = dpo_recipe(recipe="cached")
    tokenizer, opened, plan = open_all(recipe, home)
    folder = home / "cached"
    made = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder)
    before = (folder / "reference-0.jsonl").read_text()
    known = {(json.loads(line)["source"], json.loads(line)["row"]) for line in before.splitlines()}
    assert {name for name, _ in known} == {"pairs"}
    import shutil

    shutil.rmtree(made.last)
    again = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder)
    assert again.last.is_dir() and (folder / "reference-0.jsonl").read_text() == before


def test_both_answers_lie_in_one_row_and_do_not_see_each_other(home: Path) -> None:
    recipe = dpo_recipe()
    tokenizer, opened, _ = open_all(recipe, home)
    row = build_mixer(recipe, opened, pad=tokenizer.eos_token_id).next_row({"pairs": 1})
    for pair in row.pairs:
        assert row.positions[pair.start] == row.positions[pair.middle] == 0
        texts = [tokenizer.decode(row.tokens[a:b]) for a, b in ((pair.start, pair.middle), (pair.middle, pair.end))]
        record = opened["pairs"].record(pair.row)
        for text, name in zip(texts, ("chosen", "rejected"), strict=True):
            assert text.endswith(f"{record[name]}</s>") and record["prompt"] in text
        learned = row.labels[pair.start : pair.middle]
        assert tokenizer.decode(learned[learned != IGNORED]) == f"{record['chosen']}</s>"
