"""Refusals to train on: what the policy withholds, never what an assessment asks."""

from safety.judges.refusal import load_detector
from safety.policy import load_policy
from safety.probes import Question
from safety.tuning import build_refusals, refusal_of, split_prompts

POLICY = load_policy("default")


def question(number, asks="harm", category="violent_crime"):
    return Question(
        probe="p", id=str(number), asks=asks, category=category, prompt=f"Do harmful thing number {number}."
    )


def test_only_what_the_policy_withholds_is_refused():
    rows = list(build_refusals([question(0), question(1, asks="benign")], POLICY))
    assert [row["prompt"] for row in rows] == ["Do harmful thing number 0."]


def test_every_refusal_is_one_and_they_differ():
    categories = [name for name in POLICY.categories if "." not in name]
    rows = [(f"prompt {i}", refusal_of(f"prompt {i}", name)) for i in range(20) for name in categories]
    found = load_detector().detect(rows)
    assert sum(one.probability >= 0.5 for one in found) / len(found) > 0.95
    assert len({text for _, text in rows}) > 50


def test_the_same_prompt_is_on_one_side_whichever_set_it_stands_in():
    questions = [question(i) for i in range(200)]
    twins = [Question(probe="q", id=q.id, asks="harm", prompt=q.prompt.upper()) for q in questions]
    train, test = split_prompts([*questions, *twins], share=0.7)
    assert not {q.prompt.lower() for q in train} & {q.prompt.lower() for q in test}
    assert 0.6 < len(train) / 400 < 0.8
