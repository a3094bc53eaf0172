"""Charts are specifications made from records: what they say can be checked without a browser."""

from typing import Any

import pytest

from dashboards import charts, policy_charts, run_charts
from dashboards.items import word_diff
from dashboards.show import to_csv
from tests.workbench.publish import samples
from tests.workbench.store.samples import make_checkpoint
from workbench.publish.signs import OUTCOMES, VERDICTS
from workbench.records import Checkpoint, Estimate, Report, RuleResult, TaskResult
from workbench.store.browse import Summary


def values_of(chart: charts.Chart) -> list[dict[str, Any]]:
    return chart.spec["data"]["values"]


def test_changes_are_in_margins_with_the_largest_loss_first() -> None:
    comparison = samples.comparison()
    drawn = values_of(made := charts.change_plot(comparison))
    tested = [task for task in comparison.tasks if task.difference is not None and task.margin]
    expected = sorted(task.difference.value / task.margin for task in tested if task.difference)
    assert [one["value"] for one in drawn] == pytest.approx(expected)
    assert len(made.rows) == len(comparison.tasks)  # what was not tested is in the table all the same
    for one in drawn:
        assert one["low"] is None or one["low"] <= one["value"] <= one["high"]


def test_every_mark_of_an_outcome_has_a_colour_a_shape_and_a_word() -> None:
    for signs in (OUTCOMES.values(), VERDICTS.values()):
        signed = charts._signed(signs, "sign")
        assert len(signed["color"]["scale"]["range"]) == len(signed["shape"]["scale"]["range"]) == len(list(signs))
        for sign in signs:
            assert sign.word in " ".join(signed["color"]["scale"]["domain"])
    by_word = {sign.word: (charts.TONES[sign.tone], charts._SHAPES[sign.glyph]) for sign in OUTCOMES.values()}
    assert len(set(by_word.values())) == len(by_word) == 3


def test_a_chart_says_in_words_what_it_shows() -> None:
    made = charts.change_plot(samples.comparison())
    for task in samples.comparison().tasks[:2]:
        assert task.task in made.alt
    assert VERDICTS[samples.comparison().tasks[0].verdict].word in made.alt


def test_hidden_characters_of_names_are_visible_in_charts() -> None:
    made = charts.change_plot(samples.hostile_comparison())
    shown = " ".join(str(one["task"]) for one in values_of(made)) + made.alt
    assert "\u202e" not in shown


def test_a_limit_is_drawn_beside_what_was_measured_and_units_are_kept_apart() -> None:
    def rule(name: str, metric: str, value: float, limit: float) -> RuleResult:
        estimate = Estimate(metric=metric, value=value, low=value * 0.9, high=value * 1.1, n=40, method="wilson")
        return RuleResult(
            rule=name, outcome="fail", required=True, reason="", task=name, estimate=estimate, limit=limit
        )

    rules = [rule("a: at most 0.1", "violation_rate", 0.3, 0.1), rule("b", "perplexity", 12.0, 9.0)]
    made = charts.limit_plots(rules)
    assert [values_of(one)[0]["limit"] for one in made] == [10.0, 9.0]
    assert values_of(made[0])[0]["value"] == 30.0
    assert "limit 10%" in made[0].alt


def test_the_trade_off_has_a_point_for_each_comparison_that_has_both_numbers() -> None:
    def row(name: str, gain: float | None, loss: float | None, label: str) -> Summary:
        return Summary(
            id=name * 8, kind="comparison", name=name, fingerprint="f", run=None, baseline="base", label=label,
            baseline_fingerprint="b", words="", gain=gain, loss=loss, tasks=2, created_at="2026-01-01T00:00:00",
        )  # fmt: skip

    made = charts.trade_off([row("a", 1.0, -0.5, "pass"), row("b", None, 0.0, "hold"), row("c", 2.0, -3.0, "fail")])
    assert [(one["name"], one["outcome"]) for one in values_of(made)] == [("a", "● pass"), ("c", "■ fail")]
    assert [one["checkpoint"] for one in made.rows] == ["c", "a"]  # the largest gain first


def test_a_trajectory_is_in_the_order_of_the_steps() -> None:
    made = charts.trajectory([(20, samples.comparison()), (10, samples.comparison())])
    steps = [one["step"] for one in values_of(made)]
    assert steps == sorted(steps) and set(steps) == {10, 20}


def test_phases_of_the_learning_rate_are_those_of_the_schedule() -> None:
    recipe = {"schedule": {"kind": "wsd", "warmup": 0.1, "anneal": 0.3}}
    phases = run_charts.phases_of(recipe, 100)
    assert [(one["phase"], one["from"], one["to"]) for one in phases] == [
        ("warm-up", 0, 10), ("stable", 10, 70), ("anneal", 70, 100),
    ]  # fmt: skip
    cosine = run_charts.phases_of({"schedule": {"kind": "cosine", "warmup": 0.1, "anneal": 0.2}}, 100)
    assert [one["phase"] for one in cosine] == ["warm-up", "anneal"]
    assert [one["phase"] for one in run_charts.phases_of({"schedule": {"kind": "constant"}}, 10)] == ["stable"]


def test_asked_and_given_shares_of_a_mix_add_up_to_one() -> None:
    recipe = {"mix": [{"name": "own", "share": 3, "anneal_share": 0.5}, {"name": "general", "share": 1}]}
    rows = run_charts.source_rows(recipe, {"own": 60, "general": 40})
    assert [row["asked"] for row in rows] == [0.75, 0.25]
    assert [row["given"] for row in rows] == [0.6, 0.4]
    assert sum(row["asked while annealing"] for row in rows) == pytest.approx(1.0)
    assert run_charts.source_rows(recipe, {})[0]["given"] is None  # nothing known is not zero


def assessment() -> Report:
    def result(task: str, metric: str, wrong: int, n: int) -> TaskResult:
        estimate = Estimate(metric=metric, value=wrong / n, low=0.0, high=1.0, n=n, method="wilson", direction="lower")
        return TaskResult(
            task=task, role="safety", margin=0.02, required=False, metric=metric, estimates=(estimate,), n=n,
            num_fewshot=0,
        )  # fmt: skip

    made: Checkpoint = make_checkpoint("served")
    results = (
        result(policy_charts.HARMFUL, "violation_rate", 3, 8),
        result(policy_charts.HARMLESS, "over_refusal_rate", 1, 4),
        result("policy/safety/hate/xstest", "violation_rate", 3, 4),
        result("policy/safety/violent_crime/xstest", "violation_rate", 0, 4),
    )
    return Report(
        id="r" * 64, checkpoint=made, suites=(), results=results, settings={"policy": "default@1"},
        created_at="2026-01-01T00:00:00+00:00", environment={},
    )  # fmt: skip


def test_the_heat_map_prints_the_count_in_each_cell_and_the_worst_category_first() -> None:
    cells = values_of(policy_charts.heat_map(assessment()))
    assert [(one["category"], one["told"]) for one in cells] == [("hate", "3/4"), ("violent crime", "0/4")]


def test_harm_and_over_refusal_of_an_assessment_are_one_point() -> None:
    made = policy_charts.harm_trade_off([assessment()])
    (point,) = values_of(made)
    assert (point["harm"], point["refused"]) == (37.5, 25.0)
    assert made.rows[0]["n harmful"] == 8


def test_words_that_went_and_came_are_marked_by_signs() -> None:
    assert word_diff("the left lung", "the right lung").splitlines() == ["  the", "- left", "+ right", "  lung"]
    assert word_diff("", "new").splitlines() == ["+ new"]


def test_a_download_holds_no_formula() -> None:
    text = to_csv([{"a": "=HYPERLINK(1)", "b": -1}, {"a": "+1", "b": 2}, {"a": "plain", "b": None}])
    assert text.splitlines() == ["a,b", "'=HYPERLINK(1),-1", "'+1,2", "plain,"]
    assert to_csv([]) == ""
