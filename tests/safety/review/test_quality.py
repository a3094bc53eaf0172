"""The quality of a real queue's labels."""

import pytest

from safety.review.agreement import Rating, gwet_ac1
from safety.review.quality import quality
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, claimed, entry, plain_queue
from workbench.errors import ReviewError


def test_agreement_is_told_by_category_and_policy_and_gold_with_names_for_seniors_alone(queue, people):
    import numpy as np

    plain_queue(queue, need=2, hint_share=0.5)
    queue.add(OPERATOR, [entry(n) for n in range(12)])
    queue.add(OPERATOR, [entry(n, category="spam", policy_hash="q" * 64) for n in range(12, 16)])
    gold = {"decision": "violates", "categories": ["hate"]}
    queue.add(OPERATOR, [entry(n, stratum="gold", gold=gold, need=1, priority=9.0) for n in range(20, 24)])
    persons = {name: people(name) for name in ("ana", "ben")}
    given: list[Rating] = []
    for name, person in persons.items():
        for turn in range(16 + (4 if name == "ana" else 0)):
            got = claimed(queue, person, at(turn))
            number = int(got.view.text.split()[1])
            says = VIOLATES if number % 3 == 0 or (name == "ben" and number == 4) else ALLOWED
            queue.submit(person, got.token, says, at(turn))
            if got.view.category == "hate" and number < 12:
                given.append(Rating(item=got.view.text, member=name, value=says.decision))
    sam, viewer = people("sam", "senior"), people("vic", "viewer")
    found = quality(queue, sam)
    assert [(one.category, one.policy_hash[0], one.ac1.items) for one in found.categories] == [
        ("hate", "p", 12), ("spam", "q", 4),
    ]  # fmt: skip
    expected = gwet_ac1(given, rng=np.random.default_rng(0)).value
    assert expected is not None and expected < 1.0
    assert found.categories[0].ac1.value == pytest.approx(expected)
    assert (found.gold.value, found.gold.n, found.gold_by_member["ana"].n) == (0.25, 4, 4)
    assert quality(queue, viewer).gold_by_member == {}
    with pytest.raises(ReviewError):
        quality(queue, "m-nobody")


def test_bias_counts_only_labels_for_which_chance_decided_what_was_shown(queue, people):
    plain_queue(queue, hint_share=0.5)
    queue.add(OPERATOR, [entry(n, probability=0.9) for n in range(40)])
    ana = people("ana")
    hints = 0
    for turn in range(40):
        got = claimed(queue, ana, at(turn))
        hints += got.view.hint is not None
        queue.submit(ana, got.token, VIOLATES if got.view.hint or turn % 2 else ALLOWED, at(turn))
    back = queue.undo(ana, now=at(41))
    queue.submit(ana, back.token, VIOLATES, at(42))
    bias = quality(queue, ana).bias
    assert bias.with_hint.n + bias.without.n == 39
    assert abs(bias.with_hint.n - hints) <= 1
    assert bias.with_hint.value == 1.0 and bias.difference > 0.2
