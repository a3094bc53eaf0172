from dataclasses import replace

import pytest

from tests.workbench.publish import samples
from workbench.cli.output import cell_width
from workbench.publish import wording
from workbench.publish.signs import CERTIFIED, DARK, LIGHT, OUTCOMES, UNDECIDED, VERDICTS


def test_every_verdict_and_outcome_has_a_shape_of_its_own_and_one_column_wide():
    for table in (OUTCOMES, VERDICTS):
        assert len({sign.shape for sign in table.values()}) == len({sign.word for sign in table.values()}) == len(table)
        assert all(cell_width(sign.shape) == len(sign.shape) == 1 for sign in table.values())
    assert {key: sign.word for key, sign in VERDICTS.items()} == {key: key for key in VERDICTS}
    assert CERTIFIED | UNDECIDED | {"forgot"} == set(VERDICTS)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, "#f6f8fa"), (DARK, "#171c23")])
def test_text_in_each_colour_can_be_read_on_the_darkest_and_lightest_ground(colours, ground):
    for colour in colours.values():
        high, low = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour  # WCAG 2, AA


def test_a_failed_comparison_names_what_was_forgotten_by_how_much_and_the_margin():
    made = samples.comparison(samples.KEPT, samples.FORGOT, samples.IMPROVED)
    assert wording.comparison_headline(made) == (
        "■ fail: smollm2-3bit forgot 1 of 3 required tasks: arc_easy −12.3 points [−15.0, −9.7], margin 2."
    )


def test_a_held_comparison_says_how_many_more_items_would_decide():
    assert wording.comparison_headline(samples.comparison(samples.INCONCLUSIVE, samples.KEPT)) == (
        "▲ hold: openbookqa cannot be certified with 500 items; about 1,240 more would decide."
    )


def test_where_no_number_of_items_would_decide_the_reason_is_told_instead():
    made = samples.comparison(replace(samples.HOPELESS, reason="the margin is below the noise floor of 0.03"))
    assert wording.comparison_reason(made) == (
        "lambada cannot be certified with 500 items: the margin is below the noise floor of 0.03."
    )


def test_a_pass_tells_small_losses_and_gains():
    text = wording.comparison_headline(samples.comparison(samples.KEPT, samples.SMALL_LOSS, samples.IMPROVED))
    assert text.startswith("● pass: smollm2-3bit kept all 3 required tasks")
    assert "excluded at 95% for each" in text
    assert "small real loss on hellaswag −0.8 points [−1.5, −0.1]" in text
    assert "improved on anatomy_terms +6.1 points [+3.8, +8.4]" in text


def test_a_metric_that_is_better_lower_is_told_in_its_own_unit_and_as_worse_or_better():
    worse = replace(samples.FORGOT_BITS, difference=samples.difference(-0.031, -0.042, -0.025, 64, "bits_per_byte"))
    assert wording.tell_change(worse) == "worse by 0.031 bits per byte [0.025, 0.042], margin 0.02"
    assert wording.format_change(worse) == "+0.031 [+0.025, +0.042]"
    better = replace(worse, difference=samples.difference(0.031, -0.002, 0.064, 64, "bits_per_byte"))
    assert wording.tell_change(better) == "better by 0.031 bits per byte [−0.002, 0.064], margin 0.02"
    assert wording.format_change(better) == "−0.031 [−0.064, +0.002]"


@pytest.mark.parametrize(
    ("metric", "values", "unit"),
    [
        ("acc_norm", (0.4, 0.5), "points"),
        ("refusal_rate", (None, None), "points"),
        ("bits_per_byte", (0.8, 0.9), "bits per byte"),
        ("reward_sum", (12.5, 11.0), "reward sum"),
    ],
)
def test_only_shares_are_told_in_points(metric, values, unit):
    assert wording.unit_of(metric, *values) == unit


def test_an_end_of_an_interval_is_never_rounded_onto_the_margin():
    near = replace(samples.FORGOT, difference=samples.difference(-0.04, -0.06, -0.0204, 900))
    assert wording.format_change(near) == "−4.00 [−6.00, −2.04]"
    on = replace(samples.FORGOT, difference=samples.difference(-0.04, -0.06, -0.02, 900))
    assert wording.format_change(on) == "−4.0 [−6.0, −2.0]"


def test_what_rounds_to_zero_has_no_sign():
    assert [wording.signed(value, 1) for value in (-0.04, 0.0, 0.04, -1234.5)] == ["0.0", "0.0", "0.0", "−1,234.5"]


def test_no_task_and_no_required_task_are_no_pass():
    assert wording.comparison_outcome(samples.comparison(replace(samples.KEPT, required=False))) == "hold"
    assert "no task is required" in wording.comparison_reason(samples.comparison(samples.UNINFORMATIVE))


def test_an_advisory_task_that_was_forgotten_does_not_fail():
    made = samples.comparison(replace(samples.FORGOT, required=False), samples.KEPT)
    assert wording.comparison_headline(made).startswith("● pass: smollm2-3bit kept the one required task")


def test_many_forgotten_tasks_are_named_up_to_three():
    many = [replace(samples.FORGOT, task=f"task_{n}") for n in range(9)]
    text = wording.comparison_reason(samples.comparison(*many))
    assert "forgot 9 of 9 required tasks" in text
    assert "task_2" in text and "task_3" not in text
    assert text.endswith("; and 6 more.")


def test_the_sentence_of_a_gate_follows_what_decided():
    rules = [samples.rule(samples.FORGOT), samples.rule(samples.INCONCLUSIVE), samples.LIMIT_RULE]
    made = samples.comparison()
    assert wording.decision_reason("m", rules, made) == (
        "m forgot 1 of 2 required tasks: arc_easy −12.3 points [−15.0, −9.7], margin 2; 1 more cannot be certified."
    )
    assert "openbookqa cannot be certified" in wording.decision_reason("m", rules[1:], made)
    assert wording.decision_reason("m", rules[2:], made) == "m passes the one required rule."
    broken = replace(samples.LIMIT_RULE, outcome="fail", reason="even the lower end 6.0% is above the limit")
    assert wording.decision_reason("m", [broken], None) == (
        "m breaks 1 of 1 required rule: refusals at most 5%: even the lower end 6.0% is above the limit."
    )
    assert "no rule is required" in wording.decision_reason("m", [], made)


def test_a_pass_by_override_names_who_and_why():
    rule = samples.rule(samples.FORGOT, overridden="Ann Example: the old exam is retired")
    text = wording.decision_reason("m", [rule, samples.LIMIT_RULE], samples.comparison())
    assert text == "m passes only because of 1 override: arc_easy kept (Ann Example: the old exam is retired)."


def test_a_hold_for_too_few_items_gives_the_rules_own_reason():
    rule = samples.rule(samples.KEPT, outcome="hold", reason="1,278 items, and the rule asks for 2,000")
    assert wording.decision_reason("m", [rule], samples.comparison()) == (
        "piqa kept holds: 1,278 items, and the rule asks for 2,000."
    )


def test_limits_and_measured_values_are_told_in_the_unit_of_their_task():
    bits = samples.rule(samples.FORGOT_BITS)
    assert wording.format_limit(bits, samples.FORGOT_BITS) == wording.format_limit(bits) == "0.02"
    assert wording.format_measured(bits) == "+0.031 [+0.020, +0.042]"
    assert wording.format_measured(bits, samples.FORGOT_BITS).startswith("+0.0310 [")
    assert wording.format_limit(samples.rule(samples.IMPROVED)) == "1 point"
    assert wording.format_limit(samples.LIMIT_RULE) == "5%"
    assert wording.format_measured(samples.LIMIT_RULE) == "2.1% [1.1%, 3.9%]"
    assert wording.format_measured(samples.rule(samples.INCOMPARABLE)) == "–"
