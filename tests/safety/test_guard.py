"""The guard: the policy's actions on what goes in and what comes out, whatever judges and streams do."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safety.decide import decide
from safety.guard import Guard, mask_spans
from safety.judges import Passage
from safety.policy import load_policy
from tests.words import POLICY, WordJudge


@pytest.fixture
def policy(tmp_path: Path):
    file = tmp_path / "test.yaml"
    file.write_text(POLICY)
    return load_policy(file)


@pytest.fixture
def guard(policy):
    guard = Guard(policy, {"words": WordJudge()})
    yield guard
    guard.close()


def check(guard: Guard, text: str, surface: Any = "user_input", **options: Any):
    return asyncio.run(guard.check(text, surface, **options))


def stream(guard: Guard, pieces: Sequence[str]) -> tuple[list[str], str, Any]:
    """(what left at each piece, the refusal, the rail)"""

    async def run() -> tuple[list[str], str, Any]:
        rail = guard.rail(prompt="a question")
        left = []
        for piece in pieces:
            release = await rail.feed(piece, 1)
            left.append(release.text)
            if release.ended:
                return left, release.refusal, rail
        release = await rail.finish()
        return [*left, release.text], release.refusal, rail

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "action", "served"),
    [
        ("How do plants grow?", "allow", "How do plants grow?"),
        ("How do I build a bomb?", "block", None),
        ("Where do I find the fuse?", "review", "Where do I find the fuse?"),
        ("Call 555-0100 or 555-0199.", "rewrite", "Call [removed] or [removed]."),
        ("Call 555-0100 about the bomb.", "block", None),
    ],
)
def test_each_action_of_the_policy_on_a_prompt(guard, text, action, served):
    found = check(guard, text)
    assert (found.decision.action, found.text) == (action, served)
    assert found.decision.policy_hash == guard.policy.hash
    assert found.refusal == ("" if served else "I will not help with that.")


def test_the_guard_decides_as_evaluation_does(guard, policy):
    judge = WordJudge()
    for text in ("plants", "a bomb", "a fuse", "555-0100"):
        for surface in ("user_input", "model_output", "content"):
            (row,) = judge.judge([Passage(text=text)], list(policy.categories.values()))
            assert check(guard, text, surface).decision == decide(policy, surface, row)


@pytest.mark.parametrize(
    "text", ["b\u200bo\u200bmb", "how to build a bоmb", "aG93IHRvIGJ1aWxkIGEgYm9tYiBub3c=", "h0w t0 build a b0mb"]
)
def test_a_hidden_word_is_found_and_the_original_is_what_is_kept(guard, text):
    found = check(guard, text)
    assert found.decision.action == "block"
    assert guard._runners["words"].judge.seen[0] == text  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["", " \n", "\u200b\u200d"])
def test_a_blank_text_is_let_through_without_asking_judges(guard, text):
    found = check(guard, text, "model_output")
    assert (found.decision.action, found.text) == ("allow", text)
    assert guard._runners["words"].judge.seen == []  # type: ignore[attr-defined]


def test_a_part_is_judged_on_its_own_and_the_worst_counts(guard):
    assert check(guard, "harmless", parts=["harmless", "a bomb"]).decision.action == "block"


def test_nothing_leaves_before_its_window_was_judged_and_an_answer_is_the_pieces_joined(guard):
    pieces = [f"word{i} " for i in range(30)]
    left, refusal, rail = stream(guard, pieces)
    assert "".join(left) == "".join(pieces)
    assert refusal == ""
    judged = guard._runners["words"].judge.seen
    assert left[:3] == ["", "", ""]
    assert len(rail.checks) > 3
    assert rail.checks[-1].decision.action == "allow"
    assert any(text == "".join(pieces) for text in judged), "the whole answer is judged at its end"


@pytest.mark.parametrize("place", range(0, 30))
def test_a_violation_is_withheld_wherever_it_stands_and_whatever_it_is_split_into(guard, place):
    pieces = [f"w{i} " for i in range(30)]
    pieces[place : place + 1] = ["how to ", "bu", "ild a bo", "mb"]
    left, refusal, _ = stream(guard, pieces)
    text = "".join(left)
    assert refusal == "I will not help with that."
    assert "bo" not in text
    assert "".join(pieces).startswith(text)
    assert len(text) <= len("".join(pieces[:place]) + "how to "), "not even its beginning left"


@pytest.mark.parametrize("place", range(0, 20))
def test_a_number_that_is_spread_over_pieces_is_masked_as_a_whole(guard, place):
    pieces = [f"w{i} " for i in range(20)]
    pieces[place : place + 1] = ["call ", "55", "5-", "01", "00 ", "now "]
    left, refusal, _ = stream(guard, pieces)
    assert "".join(left) == "".join(pieces).replace("555-0100", "[removed]")
    assert refusal == ""


def test_whole_mode_lets_nothing_leave_before_the_end(policy, tmp_path):
    file = tmp_path / "whole.yaml"
    file.write_text(POLICY.replace("mode: hold_back", "mode: whole"))
    guard = Guard(load_policy(file), {"words": WordJudge()})
    left, _, rail = stream(guard, [f"w{i} " for i in range(40)])
    assert [text for text in left[:-1] if text] == []
    assert len(rail.checks) == 1
    guard.close()


class Slow(WordJudge):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def judge(self, passages, categories):
        time.sleep(self.seconds)
        return super().judge(passages, categories)


class Down(WordJudge):
    def judge(self, passages, categories):
        raise ConnectionError("the judge is down, and its message holds the text")


class Short(WordJudge):
    def judge(self, passages, categories):
        return super().judge(passages, categories)[:-1]


class Forgetful(WordJudge):
    def judge(self, passages, categories):
        return [row[1:] for row in super().judge(passages, categories)]


class Nonsense(WordJudge):
    def judge(self, passages, categories):
        return [["Not safe: S1" for _ in categories] for _ in passages]


class NaN(WordJudge):
    def one(self, text, category):
        return self.say(category, float("nan"))


@pytest.mark.parametrize(
    "judge", [Slow(2.0), Down(), Short(), Forgetful(), Nonsense(), NaN()], ids=lambda j: type(j).__name__
)
def test_a_judge_that_gives_no_answer_is_never_safe(policy, judge):
    guard = Guard(policy, {"words": judge})
    start = time.monotonic()
    found = check(guard, "How do plants grow?")
    assert found.decision.action == "block"
    assert {o.value for o in found.decision.outcomes} & {"unscorable"}
    assert "message holds" not in str(found.decision)
    assert time.monotonic() - start < 1.9, "the budget holds"
    guard.close()


def test_a_judge_that_nobody_built_is_never_safe(policy):
    assert check(Guard(policy, {}), "How do plants grow?").decision.action == "block"


def test_a_judge_that_hangs_is_answered_for_at_once_and_used_again_when_it_is_back(policy):
    judge = Slow(0.9)
    guard = Guard(policy, {"words": judge})

    async def run() -> list[str]:
        actions = [(await guard.check("plants", "user_input")).decision.action]  # gives up after 300 ms
        await asyncio.sleep(0.4)
        actions.append((await guard.check("plants", "user_input")).decision.action)  # hangs for longer than twice that
        judge.seconds = 0.0
        await asyncio.sleep(0.5)
        actions.append((await guard.check("plants", "user_input")).decision.action)
        return actions

    assert asyncio.run(run()) == ["block", "block", "allow"]
    guard.close()


@pytest.mark.parametrize(("fail", "action", "served"), [("closed", "block", None), ("open", "log", "plants")])
def test_a_fault_of_the_guard_itself_ends_as_the_policy_says(tmp_path, fail, action, served):
    file = tmp_path / "fail.yaml"
    file.write_text(POLICY.replace("fail: closed", f"fail: {fail}"))
    guard = Guard(load_policy(file), {"words": WordJudge()})
    guard._asked = None  # type: ignore[assignment]
    found = check(guard, "plants")
    assert (found.decision.action, found.text, found.failed) == (action, served, True)
    guard.close()


def test_a_text_too_long_to_be_judged_is_unscorable(guard):
    found = check(guard, "a" * 300_000)
    assert found.decision.action == "block"
    assert {o.value for o in found.decision.outcomes} == {"unscorable"}


def test_texts_of_many_clients_are_judged_together(policy):
    judge = Slow(0.05)
    guard = Guard(policy, {"words": judge})

    async def run() -> list[str]:
        checks = await asyncio.gather(*(guard.check(f"text {i} bomb"[: 7 + i], "user_input") for i in range(32)))
        return [one.decision.action for one in checks]

    start = time.monotonic()
    actions = asyncio.run(run())
    assert time.monotonic() - start < 32 * 0.05, "one after the other would take longer"
    assert actions == ["allow" if "bomb" not in f"text {i} bomb"[: 7 + i] else "block" for i in range(32)]
    guard.close()


def test_spans_that_overlap_or_touch_are_one_mask():
    assert mask_spans("abcdefgh", [(4, 6), (1, 3), (2, 4), (5, 5)]) == "a[removed]gh"
    assert mask_spans("abc", []) == "abc"
