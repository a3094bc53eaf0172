"""The adviser chooses, on planted problems, what wins when all candidates are run for longer."""

from typing import Any

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from training.advise import Arm, _rows, _split, advise, decide, divergence, losses_of, probe
from training.recipe import Method
from training.sources import RowDocuments
from workbench.errors import ConfigError

ORGANS = ["heart", "lung", "liver", "kidney", "skin", "bone"]
OPTIONS: dict[str, Any] = {"length": 128, "steps": 16, "rows_per_step": 2, "learning_rate": 3e-3}


def read(rows: list[dict[str, Any]]) -> dict[Method, RowDocuments]:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    methods: tuple[Method, ...] = ("sft", "pretrain")
    return {m: RowDocuments(name="own", rows=rows, tokenizer=tokenizer, method=m) for m in methods}


def pairs(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Case {i}: a long story of words that teach nothing, and then the organ is {ORGANS[i % 6]}?",
            "completion": f"The {ORGANS[i % 6]}.",
        }
        for i in range(count)
    ]


def test_pairs_that_must_be_learnt_are_for_sft_which_wins_when_all_are_run_for_longer() -> None:
    sources, model = read(pairs()), tiny_model(scale=0.05)
    found = advise(sources, model, **OPTIONS)
    assert found.advice == "sft" and found.kind == "pairs"
    held, seen = _split(60, 0)
    wanted = [sources["sft"].document(int(row)) for row in held]
    losses = {}
    for method in ("sft", "pretrain"):
        longer = tiny_model(scale=0.05)
        rows = _rows(sources[method], seen, 80, 128, 0)
        assert probe(longer, rows, 2, 3e-3, steps=40, seconds=1e9) == 40
        losses[method] = losses_of(longer, wanted).mean()
    losses["prompt"] = next(arm.loss for arm in found.arms if arm.name == "prompt")
    assert min(losses, key=lambda name: losses[name]) == "sft"


def test_what_the_start_knows_already_needs_no_training() -> None:
    sources, model = read(pairs()), tiny_model(scale=0.05)
    _, seen = _split(60, 0)
    probe(model, _rows(sources["sft"], seen, 400, 128, 0), 2, 3e-3, steps=200, seconds=1e9)
    found = advise(sources, model, **(OPTIONS | {"learning_rate": 1e-4}))
    assert found.arms[0].loss < 0.1
    assert found.advice == "prompt" and "may forget" in found.why


def test_plain_text_is_for_mid_training_unless_it_is_vast() -> None:
    rows = [{"text": f"Sentence {i} says that the {ORGANS[i % 6]} lies in the body and works. " * 2} for i in range(40)]
    found = advise(read(rows), tiny_model(scale=0.05), **OPTIONS)
    assert found.advice == "midtrain" and [arm.name for arm in found.arms] == ["start", "pretrain"]
    assert decide(found.arms, tokens=2 * 10**9, is_preference=False)[0] == "pretrain"


def test_preferences_are_for_dpo_with_what_the_start_prefers() -> None:
    rows = [{"prompt": f"Case {i}?", "chosen": f"The {ORGANS[i % 6]}.", "rejected": "No idea."} for i in range(24)]
    found = advise(read(rows), tiny_model(scale=0.05), **(OPTIONS | {"steps": 2}))
    assert found.advice == "dpo" and found.preferred is not None and 0 <= found.preferred <= 1


def test_training_must_beat_the_prompt_by_twice_its_error() -> None:
    def arm(name: Any, gain: float, steps: int) -> Arm:
        return Arm(name=name, loss=1.0, gain=gain, error=0.1, kl=0.0, steps=steps, seconds=0.0)

    prompt = arm("prompt", 0.5, 0)
    assert decide([prompt, arm("sft", 0.69, 9)], tokens=1, is_preference=False)[0] == "prompt"
    assert decide([prompt, arm("sft", 0.71, 9)], tokens=1, is_preference=False)[0] == "sft"


def test_the_divergence_is_that_of_the_distributions_and_the_start_is_left_as_it_was() -> None:
    import torch

    model, other = tiny_model(), tiny_model(seed=1)
    document = read(pairs())["sft"].document(0)
    ids, carries = torch.from_numpy(document.tokens)[None], torch.from_numpy(document.loss[1:])
    with torch.no_grad():
        p, q = (one(input_ids=ids).logits[0, :-1].log_softmax(-1)[carries] for one in (model, other))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean").item()
    assert divergence(model, other, [document]) == pytest.approx(expected, rel=1e-4)
    assert divergence(model, model, [document]) == 0.0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    advise(read(pairs(15)), model, **(OPTIONS | {"steps": 2}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_too_few_rows_to_measure_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few to hold some out"):
        advise(read(pairs(5)), tiny_model(), **OPTIONS)
