"""Rules held against evidence: what passes, what fails, what holds, and that no data is never a pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ConfigError
from workbench.gate import Gate, Rule, decide, default_gate, draft_gate, expand_rules, load_gate
from workbench.records import Checkpoint, Comparison, Decision, Estimate, Report, TaskComparison, TaskResult, Verdict

CHECKPOINT = Checkpoint(name="new", source="/models/new", kind="folder", fingerprint="a" * 64, tokenizer="b" * 64)
VERDICTS: tuple[Verdict, ...] = ("improved", "kept", "forgot", "inconclusive", "uninformative", "incomparable")


def estimate(value: float, low: float | None, high: float | None, *, metric: str = "acc", n: int = 500) -> Estimate:
    return Estimate(metric=metric, value=value, low=low, high=high, n=n, method="wilson")


def result(task: str, *, required: bool = True, subtasks: tuple[str, ...] = (), **more: Any) -> TaskResult:
    own = more.pop("estimate", estimate(0.6, 0.55, 0.65))
    fields: dict[str, Any] = {"role": "general", "margin": 0.02, "num_fewshot": 0, "n": own.n} | more
    return TaskResult(task=task, required=required, metric=own.metric, estimates=(own,), subtasks=subtasks, **fields)


def report(*results: TaskResult) -> Report:
    return Report(
        id="c" * 64,
        checkpoint=CHECKPOINT,
        suites=(),
        results=results,
        settings={},
        created_at="",
        environment={},
    )


def compared(task: str, verdict: Verdict, **more: Any) -> TaskComparison:
    fields: dict[str, Any] = {
        "role": "general",
        "required": True,
        "metric": "acc",
        "direction": "higher",
        "margin": 0.02,
        "reason": "seen",
        "difference": estimate(-0.01, -0.03, 0.01),
        "n": 500,
    }
    return TaskComparison(task=task, verdict=verdict, **(fields | more))


def comparison(*tasks: TaskComparison) -> Comparison:
    return Comparison(
        id="d" * 64,
        baseline="e" * 64,
        candidate="c" * 64,
        baseline_checkpoint=replace(CHECKPOINT, name="old"),
        candidate_checkpoint=CHECKPOINT,
        tasks=tasks,
    )


def run(rules: list[Rule], own: Report, made: Comparison | None = None, **more: Any) -> Decision:
    checks = expand_rules(Gate(gate="g", rules=rules), own.results)
    return decide(checks, report=own, comparison=made, evidence={}, **more)


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("improved", "pass"),
        ("kept", "pass"),
        ("forgot", "fail"),
        ("inconclusive", "hold"),
        ("uninformative", "hold"),
        ("incomparable", "hold"),
    ],
)
def test_only_a_certificate_passes_a_rule_about_forgetting(verdict: Verdict, outcome: str) -> None:
    found = run([Rule(task="t")], report(result("t")), comparison(compared("t", verdict)))
    assert (found.outcome, found.rules[0].outcome, found.rules[0].verdict) == (outcome, outcome, verdict)


@given(verdicts=st.lists(st.tuples(st.sampled_from(VERDICTS), st.booleans()), min_size=1, max_size=8))
def test_one_required_rule_stops_a_checkpoint_and_advisory_ones_never_do(verdicts: list[tuple[Verdict, bool]]) -> None:
    tasks = [f"t{i}" for i in range(len(verdicts))]
    own = report(*(result(task, required=required) for task, (_, required) in zip(tasks, verdicts, strict=True)))
    made = comparison(*(compared(task, verdict) for task, (verdict, _) in zip(tasks, verdicts, strict=True)))
    found = run([Rule()], own, made)
    required = [verdict for verdict, needed in verdicts if needed]
    if "forgot" in required:
        assert found.outcome == "fail"
    elif required and all(verdict in ("kept", "improved") for verdict in required):
        assert found.outcome == "pass"
    else:
        assert found.outcome == "hold"


@pytest.mark.parametrize(
    ("rule", "interval", "outcome"),
    [
        (Rule(task="t", at_least=0.5), (0.5, 0.6), "pass"),
        (Rule(task="t", at_least=0.5), (0.49, 0.6), "hold"),
        (Rule(task="t", at_least=0.5), (0.4, 0.5), "hold"),
        (Rule(task="t", at_least=0.5), (0.4, 0.49), "fail"),
        (Rule(task="t", at_most=0.1), (0.02, 0.1), "pass"),
        (Rule(task="t", at_most=0.1), (0.02, 0.11), "hold"),
        (Rule(task="t", at_most=0.1), (0.11, 0.2), "fail"),
        (Rule(task="t", at_most=0.1), (None, None), "hold"),
    ],
)
def test_a_limit_is_held_against_the_bad_end_of_the_interval(rule: Rule, interval: Any, outcome: str) -> None:
    own = report(result("t", estimate=estimate(0.45, *interval)))
    assert run([rule], own).outcome == outcome


@pytest.mark.parametrize(
    ("verdict", "high", "outcome"),
    [("improved", 0.05, "pass"), ("kept", 0.01, "hold"), ("kept", -0.001, "fail"), ("forgot", -0.1, "fail")],
)
def test_a_gain_that_is_asked_for_must_be_certain(verdict: Verdict, high: float, outcome: str) -> None:
    made = comparison(compared("t", verdict, difference=estimate(high - 0.02, high - 0.04, high)))
    assert run([Rule(task="t", improved=True)], report(result("t")), made).outcome == outcome


def test_no_data_is_never_a_pass() -> None:
    own = report(result("t"))
    assert run([Rule(task="t")], own, None).outcome == "hold"  # no baseline
    assert run([Rule(task="t")], own, comparison()).outcome == "hold"  # not compared
    assert run([Rule(task="safety_*")], own, comparison(compared("t", "kept"))).outcome == "hold"  # no such task
    advisory = run([Rule(task="t", required=False)], own, comparison(compared("t", "kept")))
    assert (advisory.outcome, "nothing" in advisory.reason) == ("hold", True)


def test_fewer_items_than_a_rule_asks_for_hold() -> None:
    own, made = report(result("t")), comparison(compared("t", "kept"))
    assert run([Rule(task="t", min_items=500)], own, made).outcome == "pass"
    held = run([Rule(task="t", min_items=501)], own, made)
    assert (held.outcome, held.rules[0].reason) == ("hold", "500 items, and the rule asks for 501")


def test_patterns_mean_whole_tasks_and_a_subtask_is_named_by_itself() -> None:
    own = report(result("mmlu_cloze", subtasks=("mmlu_cloze_anatomy", "mmlu_cloze_law")), result("arc"))
    names = {
        pattern: [check.task for check in expand_rules(Gate(gate="g", rules=[Rule(task=pattern)]), own.results)]
        for pattern in ("*", "mmlu_*", "mmlu_cloze_law", "*_law")
    }
    assert names == {
        "*": ["mmlu_cloze", "arc"],
        "mmlu_*": ["mmlu_cloze"],
        "mmlu_cloze_law": ["mmlu_cloze_law"],
        "*_law": ["mmlu_cloze_law"],
    }


def test_a_rule_for_a_role_means_the_tasks_of_that_role() -> None:
    own = report(result("a", role="domain"), result("b"))
    assert [check.task for check in expand_rules(Gate(gate="g", rules=[Rule(role="domain")]), own.results)] == ["a"]


def test_a_misspelt_task_is_an_error_and_a_known_one_that_was_not_run_holds() -> None:
    own, wanted = report(result("arc_easy")), Gate(gate="g", rules=[Rule(task="arc_esy")])
    with pytest.raises(ConfigError, match=r'rules\[0\]\.task: .*did you mean "arc_easy"'):
        expand_rules(wanted, own.results)
    checks = expand_rules(wanted, own.results, known_tasks=["arc_esy"])
    assert decide(checks, report=own, comparison=None, evidence={}).outcome == "hold"


def test_an_unknown_metric_of_a_limit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no metric 'acc_nrom'"):
        run([Rule(task="t", metric="acc_nrom", at_least=0.1)], report(result("t")))


def test_an_override_lets_a_checkpoint_pass_and_stays_in_the_record() -> None:
    own, made = report(result("t"), result("u")), comparison(compared("t", "forgot"), compared("u", "kept"))
    stopped = run([Rule()], own, made)
    found = run([Rule()], own, made, overrides={"t: kept": "Ada: the set is mislabelled"})
    assert (stopped.outcome, found.outcome) == ("fail", "pass")
    assert (found.rules[0].outcome, found.rules[0].overridden) == ("fail", "Ada: the set is mislabelled")
    assert "override" in found.reason
    with pytest.raises(ConfigError, match="it passes"):
        run([Rule()], own, made, overrides={"u: kept": "Ada: why not"})
    with pytest.raises(ConfigError, match='did you mean "t: kept"'):
        run([Rule()], own, made, overrides={"t: kep": "Ada"})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gate: g\nrules:\n  - {task: t, margni: 0.1}\n", 'margni: unknown key; did you mean "margin"'),
        ("gate: g\nrules:\n  - {task: t, margin: -0.1}\n", "margin"),
        (
            "gate: g\nrules:\n  - {task: t, at_least: 0.1, at_most: 0.2}\n",
            "one condition a rule, got at_least and at_most",
        ),
        ("gate: g\nrules: []\n", "rules"),
        ("rules:\n  - {task: t}\n", "gate"),
        ("gate: g\nrules:\n  - {task: t, margin: two}\n", "margin"),
    ],
)
def test_a_faulty_gate_file_is_one_line_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_gate(path)
    assert fault in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_drafted_gate_loads_and_makes_guessed_tasks_advisory(tmp_path: Path) -> None:
    own = report(
        result("sure", chance=0.25),
        result("guessed", chance=0.25, estimate=estimate(0.26, 0.2, 0.3)),
        result('odd: "x"'),
    )
    path = tmp_path / "gate.yaml"
    path.write_text(draft_gate(own, name="release"))
    rules = {rule.task: rule for rule in load_gate(path).rules}
    assert {name: rule.required for name, rule in rules.items()} == {"sure": True, "guessed": False, 'odd: "x"': True}
    assert rules["sure"].margin == 0.02 and rules["sure"].min_items == 500


def test_the_suites_own_gate_asks_for_every_task_of_both_reports() -> None:
    """A candidate that leaves a required task out must not pass by that."""
    own, base = report(result("t")), report(result("t"), result("left_out"))
    checks = expand_rules(default_gate(own, base), [*own.results, base.results[1]])
    found = decide(checks, report=own, comparison=comparison(compared("t", "kept")), evidence={})
    assert found.outcome == "hold"
    assert [r.task for r in found.rules if r.outcome == "hold"] == ["left_out"]
