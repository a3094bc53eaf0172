"""Two reports -> verdicts: what is refused before a test, what pairs, and what each verdict says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.compare import Question, compare_reports
from benchmarks.flips import list_flips
from benchmarks.side import Side, in_part
from workbench.errors import RunError, TaskError
from workbench.records import Checkpoint, Comparison, Estimate, ItemScore, Report, TaskComparison, TaskResult

TOKENIZER = "7" * 64


def item(
    task: str, place: int, value: float, *, metric: str = "acc", group: str | None = None, **more: Any
) -> ItemScore:
    name = f"{task}-{place}"
    fields: dict[str, Any] = {"metrics": {metric: value}, "answer": f"answer {value}", "target": "answer 1.0"} | more
    return ItemScore(task=task, item=name, doc_id=place, group=group or name, **fields)


def side(
    values: Mapping[str, Sequence[float]],
    *,
    name: str,
    metric: str = "acc",
    margin: float = 0.02,
    chance: float | None = 0.25,
    groups: Mapping[str, Sequence[str]] | None = None,
    items: Sequence[ItemScore] | None = None,
    shots: int = 0,
    direction: Any = "higher",
    settings: Mapping[str, Any] | None = None,
    tokenizer: str = TOKENIZER,
) -> Side:
    own = list(items) if items is not None else []
    if items is None:
        for task, column in values.items():
            labels = (groups or {}).get(task, [None] * len(column))
            own += [
                item(task, i, v, metric=metric, group=g) for i, (v, g) in enumerate(zip(column, labels, strict=True))
            ]
    results = [
        TaskResult(
            task=task,
            role="general",
            margin=margin,
            required=True,
            metric=metric,
            estimates=(
                Estimate(
                    metric=metric,
                    value=float(np.mean(column)),
                    low=0.0,
                    high=1.0,
                    n=len(column),
                    method="wilson",
                    direction=direction,
                ),
            ),
            n=len(column),
            num_fewshot=shots,
            chance=chance,
        )
        for task, column in values.items()
    ]
    checkpoint = Checkpoint(
        name=name, source=f"/models/{name}", kind="folder", fingerprint=name.ljust(64, "0"), tokenizer=tokenizer
    )
    report = Report(
        id=name.ljust(64, "f"),
        checkpoint=checkpoint,
        suites=("s",),
        results=tuple(results),
        settings={"scorer": "transformers/1", **(settings or {})},
        created_at="2026-01-01T00:00:00+00:00",
        environment={},
    )
    return Side.of(report, own)


def column(n: int, right: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def with_losses(values: Sequence[float], lost: int, gained: int = 0) -> list[float]:
    """The same items, of which the first right ones are lost and the last wrong ones gained."""
    out = list(values)
    for i in range(lost):
        out[i] = 0.0
    for i in range(gained):
        out[-1 - i] = 1.0
    return out


def compare_one(before: Sequence[float], after: Sequence[float], **more: Any) -> TaskComparison:
    return compare_reports(side({"t": before}, name="a", **more), side({"t": after}, name="b", **more)).tasks[0]


def test_a_task_with_no_flips_is_kept_only_from_the_number_of_items_that_excludes_a_loss() -> None:
    few = compare_one(column(60, 40), column(60, 40))
    assert few.verdict == "inconclusive" and few.items_needed is not None
    assert 130 <= few.items_needed <= 160  # Tango: 133; exact binomial: 149
    for n, verdict in ((few.items_needed - 1, "inconclusive"), (few.items_needed, "kept")):
        assert compare_one(column(n, 90), column(n, 90)).verdict == verdict


def test_a_loss_far_beyond_the_margin_is_forgot_and_alarms() -> None:
    before = column(400, 300)
    found = compare_one(before, with_losses(before, lost=60))
    assert (found.verdict, found.lost, found.gained) == ("forgot", 60, 0)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(-0.15)
    assert found.difference.high is not None and found.difference.high < -found.margin
    assert found.regressed


def test_a_small_certain_loss_inside_the_margin_is_kept_and_said() -> None:
    before = column(2000, 1500)
    found = compare_one(before, with_losses(before, lost=12))
    assert (found.verdict, found.small_loss) == ("kept", True)
    assert "smaller one is certain" in found.reason


def test_a_certain_gain_is_improved() -> None:
    before = column(500, 250)
    assert compare_one(before, with_losses(before, lost=2, gained=60)).verdict == "improved"


def test_a_loss_that_might_be_at_the_margin_is_inconclusive_never_kept() -> None:
    before = column(200, 150)
    found = compare_one(before, with_losses(before, lost=10, gained=6))
    assert found.verdict == "inconclusive"
    assert found.items_needed is not None and found.items_needed > 200


def test_two_guessing_models_say_nothing() -> None:
    found = compare_one(column(400, 100), column(400, 96))
    assert found.verdict == "uninformative"
    assert "guessing" in found.reason


def test_a_model_that_falls_to_chance_forgot_and_is_not_uninformative() -> None:
    before = column(400, 300)
    assert compare_one(before, with_losses(before, lost=200)).verdict == "forgot"


def text_item(number: int, nats: float, *, as_answer: bool) -> Any:
    """A text scored as a whole, or as the answer after a question: each keeps what its rate is pooled from."""
    extra = {"parts": {"bits_per_byte": [nats, 1000]}} if as_answer else {"loglikelihood": nats, "bytes": 1000}
    return item("t", number, 0.0, metric="bits_per_byte", extra=extra)


@pytest.mark.parametrize("as_answer", [False, True])
def test_perplexity_that_rises_is_a_loss_and_a_loss_is_negative(as_answer: bool) -> None:
    texts, worse = (
        [text_item(i, (-700.0 - i) * times, as_answer=as_answer) for i in range(40)] for times in (1.0, 1.2)
    )
    more: dict[str, Any] = {"metric": "bits_per_byte", "chance": None, "direction": "lower"}
    before, after = (side({"t": [1.0] * 40}, name=n, items=i, **more) for n, i in (("a", texts), ("b", worse)))
    found = compare_reports(before, after).tasks[0]
    assert found.verdict == "forgot"
    assert found.difference is not None and found.difference.value < 0
    assert found.baseline is not None and found.candidate is not None
    assert found.candidate == pytest.approx(1.2 * found.baseline)
    assert -found.difference.value == pytest.approx(found.candidate - found.baseline)
    better = compare_reports(after, before).tasks[0]
    assert better.verdict == "improved"


def test_clustered_items_need_more_than_independent_ones() -> None:
    """40 passages of 7 items, whole passages flip together: Tango alone would be too sure."""
    before = [1.0] * 280
    after = [0.0 if i // 7 in (3, 17) else 1.0 for i in range(280)]
    labels = [f"passage {i // 7}" for i in range(280)]
    alone = compare_one(before, after, margin=0.1, chance=None)
    together = compare_one(before, after, margin=0.1, chance=None, groups={"t": labels})
    assert alone.verdict == "kept"
    assert together.verdict == "inconclusive"
    assert together.clusters == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shots": 5}, "asked with 0 and 5 shots"),
        ({"tokenizer": "8" * 64}, "another tokenizer"),
        ({"settings": {"apply_chat_template": True}}, "other apply chat template"),
        ({"settings": {"system_instruction": "Be brief."}}, "other system instruction"),
        ({"metric": "acc_norm"}, "no metric acc_norm"),
    ],
)
def test_reports_that_were_asked_otherwise_are_refused_before_any_test(change: dict[str, Any], reason: str) -> None:
    before, after = side({"t": column(300, 200)}, name="a"), side({"t": column(300, 200)}, name="b", **change)
    found = compare_reports(before, after).tasks[0]
    assert found.verdict == "incomparable"
    assert reason in found.reason
    assert found.difference is None and found.p_loss is None


def test_other_prompts_for_the_same_documents_are_named_as_such() -> None:
    before = [item("t", i, 1.0, extra={"doc": f"doc {i}"}) for i in range(300)]
    after = [replace(one, item=f"{one.item} in other words") for one in before]
    sides = [side({"t": [1.0] * 300}, name=n, items=i) for n, i in (("a", before), ("b", after))]
    found = compare_reports(sides[0], sides[1]).tasks[0]
    assert found.verdict == "incomparable"
    assert found.reason.startswith("other prompts: 300 questions are the same")


def test_fewer_than_99_5_percent_of_the_items_paired_is_refused_and_more_is_not() -> None:
    full = column(1000, 800)
    lacking_five, lacking_six = (
        compare_reports(side({"t": full[:n]}, name="a"), side({"t": full}, name="b")).tasks[0] for n in (995, 994)
    )
    assert (lacking_five.verdict, lacking_five.missing) == ("kept", 5)
    assert (lacking_six.verdict, lacking_six.n) == ("incomparable", 994)
    assert "evaluate both with the same --limit" in lacking_six.reason


def test_a_task_that_only_one_side_was_asked_is_in_the_comparison_and_never_kept() -> None:
    made = compare_reports(side({"t": [1.0] * 300, "u": [1.0] * 300}, name="a"), side({"t": [1.0] * 300}, name="b"))
    assert {task.task: task.verdict for task in made.tasks} == {"t": "kept", "u": "incomparable"}
    assert made.tasks[1].reason == "the candidate was not asked it"


def test_reports_of_different_suites_are_one_error() -> None:
    with pytest.raises(TaskError, match="no task in common"):
        compare_reports(side({"t": [1.0]}, name="a"), side({"u": [1.0]}, name="b"))


def test_an_item_held_twice_is_refused() -> None:
    twice = [item("t", 1, 1.0), item("t", 1, 0.0)]
    with pytest.raises(RunError, match="holds an item twice"):
        compare_reports(side({"t": [1.0] * 2}, name="a", items=twice), side({"t": [1.0] * 2}, name="b"))


def test_a_margin_below_the_noise_floor_is_refused() -> None:
    values = column(2000, 1500)
    again = with_losses(values, lost=60, gained=60)  # other tiling flips 6% of the items, to and fro
    base, candidate = side({"t": values}, name="a"), side({"t": values}, name="b")
    noise = side({"t": again}, name="a", settings={"scorer": "transformers/1 other tiles"})
    loud = compare_reports(base, candidate, [Question(task="t", margin=0.008)], noise=noise).tasks[0]
    quiet = compare_reports(base, candidate, [Question(task="t", margin=0.02)], noise=noise).tasks[0]
    assert loud.noise == pytest.approx(1.645 * np.sqrt(120) / 2000, rel=1e-3)
    assert (loud.verdict, quiet.verdict) == ("inconclusive", "kept")
    assert "noise floor" in loud.reason


def test_the_alarm_is_corrected_over_the_tasks_of_the_comparison() -> None:
    before = column(300, 200)
    suite = {f"t{i}": before for i in range(15)}
    worse = suite | {"t3": with_losses(before, lost=9, gained=2)}
    made = compare_reports(side(suite, name="a"), side(worse, name="b"))
    (one,) = [task for task in made.tasks if task.task == "t3"]
    assert one.p_loss is not None and one.p_loss_holm is not None
    assert one.p_loss < 0.05 < one.p_loss_holm
    assert one.p_loss_holm == pytest.approx(15 * one.p_loss)
    assert not one.regressed


def test_halves_split_whole_clusters_and_cover_everything() -> None:
    groups = np.array([f"passage {i // 5}" for i in range(1000)], dtype=object)
    select, certify = in_part(groups, "select"), in_part(groups, "certify")
    assert (select ^ certify).all()
    assert 0.4 < select.mean() < 0.6
    for start in range(0, 1000, 5):
        assert len(set(select[start : start + 5])) == 1


def test_a_subtask_of_a_group_can_be_compared_alone() -> None:
    values = {"g": [1.0] * 400}
    items = [item("g_one" if i < 200 else "g_two", i, 1.0) for i in range(400)]
    made = []
    for name in "ab":
        whole = side(values, name=name, items=items)
        results = tuple(replace(result, subtasks=("g_one", "g_two")) for result in whole.report.results)
        made.append(replace(whole, report=replace(whole.report, results=results)))
    found = compare_reports(made[0], made[1], [Question(task="g_two", margin=0.03), Question(task="g")])
    assert [(task.task, task.n, task.verdict) for task in found.tasks] == [("g_two", 200, "kept"), ("g", 400, "kept")]


def test_order_of_items_changes_nothing() -> None:
    before = column(300, 200)
    after = with_losses(before, lost=7, gained=3)
    one = compare_reports(side({"t": before}, name="a"), side({"t": after}, name="b"))
    items = [item("t", i, v) for i, v in enumerate(after)]
    other = compare_reports(side({"t": before}, name="a"), side({"t": after}, name="b", items=items[::-1]))
    assert _numbers(one) == _numbers(other)


def test_flips_are_the_changed_items_lost_ones_first_with_both_answers() -> None:
    before = column(300, 200)
    sides = side({"t": before}, name="a"), side({"t": with_losses(before, lost=3, gained=2)}, name="b")
    made = compare_reports(sides[0], sides[1])
    flips = list_flips(made.tasks, sides[0], sides[1])
    assert [flip.kind for flip in flips] == ["lost"] * 3 + ["gained"] * 2
    assert {(flip.baseline_answer, flip.candidate_answer) for flip in flips[:3]} == {("answer 1.0", "answer 0.0")}
    assert len(flips) == (made.tasks[0].lost or 0) + (made.tasks[0].gained or 0)


def _numbers(made: Comparison) -> list[Any]:
    return [(t.verdict, t.difference, t.p_loss, t.items_needed) for t in made.tasks]
