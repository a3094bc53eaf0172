"""Why it forgot: topics that hold more of the lost items are found, others are not; other forms tell what was lost."""

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.compare import compare_reports
from benchmarks.side import Side
from benchmarks.why import find_reasons, first_lost, question_text
from tests.benchmarks.test_compare import item, side

BONES = "Which bone of the {0} carries the weight of the body at number {1}?"
MONEY = "Which bank of the {0} lends money at the interest of number {1}?"
PLACES = ("north", "south", "east", "west")


def asked(task: str, lost: dict[str, int], *, documents: bool = False) -> tuple[list[Any], list[Any]]:
    """200 questions about bones and 200 about money, all right; so many of each are lost."""
    before, after = [], []
    for i in range(400):
        text, kind = (BONES, "bones") if i < 200 else (MONEY, "money")
        extra = {"doc": f"doc {i}"} if documents else {}
        one = item(task, i, 1.0, prompt=text.format(PLACES[i % 4], i), extra=extra)
        before.append(one)
        is_lost = (i % 200) < lost[kind]
        after.append(replace(one, metrics={"acc": 0.0 if is_lost else 1.0}))
    return before, after


def sides(*tasks: tuple[str, tuple[list[Any], list[Any]]]) -> tuple[Side, Side]:
    values = {name: [i.metrics["acc"] for i in items[1]] for name, items in tasks}
    old = side({n: [1.0] * 400 for n in values}, name="a", items=[i for _, items in tasks for i in items[0]])
    new = side(values, name="b", items=[i for _, items in tasks for i in items[1]])
    return old, new


def test_a_topic_that_lost_more_than_its_share_stands_out_and_is_suggested_for_replay() -> None:
    old, new = sides(("t", asked("t", {"bones": 40, "money": 4})))
    reasons = find_reasons(compare_reports(old, new), old, new)
    out = [topic for topic in reasons.topics if topic.stands_out]
    assert out and all("bone" in topic.topic or "body" in topic.topic or "weight" in topic.topic for topic in out)
    assert sum(topic.lost for topic in reasons.topics) == 44
    assert sum(topic.items for topic in reasons.topics) == 400
    assert reasons.replay.startswith("replay data like: ") and out[0].topic in reasons.replay


def test_losses_spread_at_random_make_no_topic_stand_out_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    before, _ = asked("t", {"bones": 0, "money": 0})
    for _ in range(40):
        lost = set(rng.choice(400, size=40, replace=False).tolist())
        after = [replace(one, metrics={"acc": 0.0 if i in lost else 1.0}) for i, one in enumerate(before)]
        old, new = sides(("t", (before, after)))
        alarms += any(topic.stands_out for topic in find_reasons(compare_reports(old, new), old, new).topics)
    # at most 10% of such comparisons; 40 draws, 4 standard errors
    assert alarms / 40 <= 0.1 + 4 * (0.1 * 0.9 / 40) ** 0.5


def test_where_nothing_stands_out_that_is_said() -> None:
    old, new = sides(("t", asked("t", {"bones": 10, "money": 10})))
    reasons = find_reasons(compare_reports(old, new), old, new)
    assert not any(topic.stands_out for topic in reasons.topics)
    assert reasons.replay.startswith("no topic stands out")


def test_a_question_lost_in_letters_and_right_in_words_is_a_lost_form() -> None:
    letters = asked("t_letter", {"bones": 30, "money": 0}, documents=True)
    words = asked("t_cloze", {"bones": 5, "money": 0}, documents=True)
    old, new = sides(("t_letter", letters), ("t_cloze", words))
    forms = {(form.task, form.other): form for form in find_reasons(compare_reports(old, new), old, new).forms}
    found = forms["t_letter", "t_cloze"]
    assert (found.only_here, found.both, found.elsewhere) == (25, 5, 0)
    assert "25 are still right there" in found.told
    assert forms["t_cloze", "t_letter"].both == 5


def test_each_item_is_counted_at_the_checkpoint_that_lost_it_first() -> None:
    old, one = sides(("t", asked("t", {"bones": 10, "money": 0})))
    _, two = sides(("t", asked("t", {"bones": 25, "money": 3})))
    made = [compare_reports(old, candidate) for candidate in (one, two)]
    assert first_lost(made, old, [one, two]) == {"t": [10, 18]}


def test_the_question_is_what_stands_behind_the_examples() -> None:
    assert question_text("Q one\n\nQuestion: Where?\nAnswer:") == "Where?"
    assert question_text("Where?") == "Where?"
