"""GRPO's losses, advantages and gradients are those of TRL, over episodes of several turns as over plain answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from training.objective import StartModel
from training.rl.advantages import advantages, has_signal
from training.rl.episodes import Episode, Strand
from training.rl.loss import PolicyLoss, batch_of, split
from training.rl.options import Reinforce, RewardPart

PROMPT = 5
LENGTHS = [9, 4, 7, 12, 3, 6]


def options(**more: Any) -> Reinforce:
    fields: dict[str, Any] = {
        "prompts": "p.jsonl",
        "steps": 2,
        "group_size": 3,
        "max_tokens": 12,
        "rewards": [RewardPart(kind="regex")],
    }
    return Reinforce.model_validate(fields | more, strict=False)


def random_episodes(*, told: bool = False) -> list[Episode]:
    """Answers with log-probabilities of another policy; `told`: in the middle stands what an environment said."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for sample, length in enumerate(LENGTHS):
        ids = torch.randint(3, 500, (PROMPT + length,), generator=generator).tolist()
        old = (-6 + torch.randn(length, generator=generator) * 0.3).tolist()
        strand = Strand()
        strand.tell(ids[:PROMPT])
        if told and length > 4:
            strand.draw(ids[PROMPT : PROMPT + 2], old[:2])
            strand.tell(ids[PROMPT + 2 : PROMPT + 4])
            strand.draw(ids[PROMPT + 4 :], old[4:])
        else:
            strand.draw(ids[PROMPT:], old)
        advantage = float(torch.randn(1, generator=generator))
        found.append(Episode(row=0, epoch=0, sample=sample, sequences=[strand], advantage=advantage, parts={"a": 1.0}))
    return found


def ours(episodes: list[Episode], asked: Reinforce, *, passes: int = 2) -> tuple[float, dict[str, Any]]:
    model = tiny_model(seed=3)
    objective = PolicyLoss(asked, StartModel(tiny_model(seed=0)) if asked.kl else None)
    strands = [(one, strand) for one in episodes for strand in one.sequences]
    batches = [batch_of(part, mask_truncated=asked.mask_truncated, pad=1) for part in split(strands, passes)]
    counts = objective.counts(batches)
    total = 0.0
    for batch in batches:
        part = objective.loss(model, model.get_output_embeddings(), batch, counts)
        part.backward()
        total += part.item()
    return total, {name: one.grad for name, one in model.named_parameters()}


def theirs(episodes: list[Episode], asked: Reinforce, folder: Path) -> tuple[float, dict[str, Any]]:
    """TRL's own loss over the same tokens, in one pass."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from tests.tiny import tiny_tokenizer

    model, start = tiny_model(seed=3), tiny_model(seed=0)
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        beta=0.0,  # set below: it would look for the start under a name
        loss_type=asked.loss,
        epsilon=asked.clip_low,
        epsilon_high=asked.clip_high,
        temperature=asked.temperature,
        max_completion_length=asked.max_tokens,
        num_generations=3,
        per_device_train_batch_size=6,
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda **_: [0.0],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        processing_class=tiny_tokenizer(),
    )
    trainer.beta = asked.kl
    longest = max(LENGTHS)
    shape = (len(episodes), longest)
    completion, mask, tool = torch.ones(shape, dtype=torch.int64), torch.zeros(shape), torch.ones(shape)
    old = torch.zeros(shape)
    for at, episode in enumerate(episodes):
        (strand,) = episode.sequences
        end = len(strand.tokens) - PROMPT
        completion[at, :end] = torch.tensor(strand.tokens[PROMPT:])
        mask[at, :end] = 0.0 if episode.truncated and asked.mask_truncated else 1.0
        tool[at, :end] = torch.tensor([one is not None for one in strand.logprobs[PROMPT:]]).float()
        old[at, :end] = torch.tensor([one or 0.0 for one in strand.logprobs[PROMPT:]])
    prompts = torch.tensor([one.sequences[0].tokens[:PROMPT] for one in episodes])
    inputs: dict[str, Any] = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completion,
        "completion_mask": mask,
        "tool_mask": tool,
        "advantages": torch.tensor([one.advantage for one in episodes]),
        "old_per_token_logps": old,
        "num_items_in_batch": (mask * tool).sum(),
    }
    trainer.current_gradient_accumulation_steps = 1
    if asked.kl:
        ids = torch.cat([prompts, completion], 1)
        with torch.no_grad():
            logits = start(ids, use_cache=False).logits[:, PROMPT - 1 : -1] / asked.temperature
        inputs["ref_per_token_logps"] = logits.log_softmax(-1).gather(2, completion[..., None])[..., 0]
    model.train()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("told", [False, True], ids=["one-turn", "two-turns"])
@pytest.mark.parametrize(
    "asked",
    [
        {"kl": 0.0},
        {"kl": 0.1, "clip_high": 0.28},
        {"kl": 0.1, "loss": "grpo"},
        {"kl": 0.04, "loss": "dr_grpo"},
        {"kl": 0.04, "temperature": 0.7},
    ],
    ids=["dapo", "dapo-kl-clip-higher", "grpo", "dr_grpo", "cooler"],
)
def test_loss_and_gradients_are_those_of_trl(asked: dict[str, Any], told: bool, tmp_path: Path) -> None:
    episodes, chosen = random_episodes(told=told), options(**asked)
    loss, gradients = ours(episodes, chosen)
    expected, expected_gradients = theirs(episodes, chosen, tmp_path)
    assert loss == pytest.approx(expected, rel=2e-4, abs=1e-6)
    assert loss != 0
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=2e-3, atol=1e-5), name


def test_an_answer_that_was_cut_off_counts_among_answers_and_carries_no_loss_as_in_trl(tmp_path: Path) -> None:
    episodes, chosen = random_episodes(), options(kl=0.04, loss="grpo")
    episodes[2].truncated = True
    loss, _ = ours(episodes, chosen)
    expected, _ = theirs(episodes, chosen, tmp_path)
    assert loss == pytest.approx(expected, rel=2e-4)
    assert loss != pytest.approx(ours(episodes, options(kl=0.04, loss="grpo", mask_truncated=False))[0], rel=1e-3)


def test_a_dropped_episode_is_as_if_it_were_not_there() -> None:
    episodes = random_episodes()
    without = ours([one for one in episodes if one.sample != 1], options(), passes=2)[0]
    episodes[1].dropped = "its reward failed"
    assert ours(episodes, options(), passes=2)[0] == pytest.approx(without, rel=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_how_a_step_is_split_into_passes_makes_no_difference(loss: str) -> None:
    one, gradients = ours(random_episodes(), options(loss=loss), passes=1)
    for passes in (2, 4, 8):  # eight passes: some are empty
        other, others = ours(random_episodes(), options(loss=loss), passes=passes)
        assert other == pytest.approx(one, rel=1e-5)
        assert all(torch.allclose(gradients[name], others[name], atol=1e-6) for name in gradients)


@pytest.mark.parametrize("normalise", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(normalise: Any) -> None:
    """Its formulas (trl 1.16, grpo_trainer.py) over rewards with a group that does not differ."""
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.25, 0.25, 2.0, -1.0, 0.0], dtype=torch.float64)
    mean = rewards.view(-1, 3).mean(1).repeat_interleave(3)
    std = nanstd(rewards.view(-1, 3), dim=1).repeat_interleave(3) if normalise == "group" else nanstd(rewards)
    expected = (rewards - mean) / (1.0 if normalise == "none" else std + 1e-4)
    found = advantages(rewards.numpy(), group_size=3, normalise=normalise)
    assert found == pytest.approx(expected.numpy(), abs=1e-9)


def test_episodes_without_a_reward_shift_no_mean_and_a_group_of_one_says_nothing() -> None:
    rewards = np.array([1.0, np.nan, 0.0, np.nan, np.nan, 3.0])
    found = advantages(rewards, group_size=3, normalise="none")
    assert found.tolist() == [0.5, 0.0, -0.5, 0.0, 0.0, 0.0]
    assert has_signal(rewards, group_size=3).tolist() == [True, False]
