"""The gate inside training: what counts as a loss, what is done about it, and how often it alarms at nothing."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from training.control import Control, Measured, Memory, Verdict, Watched, decide, raised_shares, watch

CONTROL = Control(suites=("general",), on_forgetting="roll_back", replay=("text", "chat"))


def task(name: str = "a", *, change: float = 0.0, hit: bool = False, big: bool = False) -> Watched:
    return Watched(task=name, change=change, low=None, high=None, margin=0.05, p_loss=1.0, n=100, hit=hit, big=big)


def measured(values: np.ndarray, margin: float = 0.05) -> Measured:
    return Measured(values=values, margin=margin, binary=True)


def verdicts(control: Control, *evaluations: list[Watched]) -> list[Verdict]:
    memory, found = Memory(), []
    for step, tasks in enumerate(evaluations, 1):
        judged, memory = decide(step, tasks, memory, control)
        found.append(judged.verdict)
    return found


def test_one_hit_is_watched_and_two_in_a_row_are_acted_upon() -> None:
    ok, hit = [task(), task("b")], [task(hit=True), task("b")]
    assert verdicts(CONTROL, ok, hit, ok, hit, hit) == ["ok", "watch", "ok", "watch", "remix"]
    other = [task(), task("b", hit=True)]
    assert verdicts(CONTROL, hit, other, hit) == ["watch", "watch", "watch"]  # in a row, of one task


def test_a_big_loss_is_acted_upon_at_once_and_a_change_is_given_time() -> None:
    big = [task(hit=True, big=True)]
    assert verdicts(CONTROL, big, big, big, big) == ["roll_back", "watch", "watch", "roll_back"]
    assert verdicts(CONTROL.model_copy(update={"on_forgetting": "remix"}), big) == ["remix"]
    assert verdicts(CONTROL.model_copy(update={"on_forgetting": "stop"}), big) == ["stop"]
    assert verdicts(CONTROL.model_copy(update={"on_forgetting": "warn"}), big, big) == ["warn", "warn"]


def test_after_so_many_changes_the_run_is_stopped() -> None:
    control = CONTROL.model_copy(update={"max_changes": 1, "hits": 1})
    hit = [task(hit=True)]
    assert verdicts(control, hit, hit, hit) == ["remix", "watch", "stop"]


def test_a_loss_counts_if_it_is_certain_over_all_tasks_and_uses_half_the_budget() -> None:
    start = np.ones(200)
    lost = {n: np.where(np.arange(200) < n, 0.0, 1.0) for n in (0, 3, 8, 40)}
    before = {"a": measured(start), "b": measured(start)}

    def of(n: int) -> Watched:
        return watch(before, {"a": measured(lost[n]), "b": measured(start)}, CONTROL, seed=0)[0]

    for n in lost:
        # the exact McNemar p of n items lost and none gained, doubled by Holm
        expected = min(1.0, 2 * stats.binomtest(0, n, alternative="less").pvalue) if n else 1.0
        assert of(n).p_loss == pytest.approx(expected)
    assert [of(n).hit for n in lost] == [False, False, True, True]  # 3 of 200: too little; 8: 4 points, certain
    assert [of(n).big for n in lost] == [False, False, False, True]  # 40 of 200: wholly beyond 5 points


def test_a_loss_where_lower_is_better_is_negative_too() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(3, 0.5, 60)
    worse = start + rng.normal(0.4, 0.1, 60)
    make = lambda values: Measured(values=values, margin=0.2, binary=False, direction="lower")  # noqa: E731
    (found,) = watch({"text": make(start)}, {"text": make(worse)}, CONTROL, seed=0)
    assert found.change == pytest.approx(-(worse - start).mean())
    assert found.low is not None and found.high is not None and found.low < found.change < found.high < -0.2
    assert found.hit and found.big
    (better,) = watch({"text": make(worse)}, {"text": make(start)}, CONTROL, seed=0)
    assert better.change > 0 and not better.hit


def test_more_of_exactly_the_replay_that_belongs_to_what_slipped() -> None:
    control = CONTROL.model_copy(update={"replay": {"general": ("text",), "instruction": ("chat",)}})
    assert control.sources_for(["piqa", "general"]) == ("text",)
    assert control.sources_for(["ifeval", "instruction"]) == ("chat",)
    assert control.sources_for(["self-written text"]) == ("text", "chat")
    shares = {"new": 0.8, "text": 0.1, "chat": 0.1}
    raised = raised_shares(shares, ("chat",), control.replay_sources, 0.5)
    assert raised == {"new": 0.75, "text": 0.1, "chat": 0.15}
    for _ in range(20):
        raised = raised_shares(shares, ("chat",), control.replay_sources, 0.5)
        if raised is None:
            break
        shares = raised
        assert sum(shares.values()) == pytest.approx(1)
    assert shares["chat"] == pytest.approx(0.4) and shares["text"] == pytest.approx(0.1)
    assert raised_shares({"new": 0.0, "text": 1.0}, ("text",), ("text",), 0.5) is None


def test_a_model_that_did_not_change_alarms_hardly_ever() -> None:
    """Items flip without a loss: 12% of them anew at each evaluation, as between runs of one model with other seeds."""
    rng = np.random.default_rng(1)
    control = Control(suites=("general",), on_forgetting="stop")
    alarms, runs, looks = 0, 120, 8
    for _ in range(runs):
        starts = {name: (rng.random(150) < 0.6).astype(float) for name in "abcd"}
        before, memory = {name: measured(values) for name, values in starts.items()}, Memory()
        for step in range(looks):
            now = {}
            for name, values in starts.items():
                flips = rng.random(150) < np.where(values == 1, 0.06, 0.09)  # as many gained as lost
                now[name] = measured(np.where(flips, 1 - values, values))
            judged, memory = decide(step, watch(before, now, control, seed=0), memory, control)
            if judged.verdict == "stop":
                alarms += 1
                break
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)
    assert alarms / runs <= 0.05


def test_a_planted_loss_of_twice_the_budget_is_seen() -> None:
    rng = np.random.default_rng(2)
    control = Control(suites=("general",), on_forgetting="stop")
    seen = 0
    for _ in range(20):
        start, memory = (rng.random(150) < 0.6).astype(float), Memory()
        before = {"a": measured(start), "b": measured(start)}
        for step in range(6):
            fell = (start == 1) & (rng.random(150) < 0.20)
            rose = (start == 0) & (rng.random(150) < 0.05)
            now = {"a": measured(start), "b": measured(np.where(fell, 0.0, np.where(rose, 1.0, start)))}
            judged, memory = decide(step, watch(before, now, control, seed=0), memory, control)
            if judged.verdict == "stop":
                assert judged.slipped == ("b",)
                seen += 1
                break
    assert seen >= 18


def test_faults_of_the_recipe_are_named() -> None:
    with pytest.raises(ValueError, match="nothing is watched"):
        Control()
    with pytest.raises(ValueError, match="nothing measures it"):
        Control(suites=("general",), kl_limit=1.0)


def test_a_memory_is_plain_values() -> None:
    import json
    from dataclasses import asdict

    from training.control import memory_of

    memory = replace(Memory(), hits={"a": 1}, last_good=40, verdict="watch")
    assert memory_of(json.loads(json.dumps(asdict(memory)))) == memory
