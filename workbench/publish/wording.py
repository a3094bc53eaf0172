"""Numbers and sentences of a comparison or a decision, in plain text. Knows records; knows no markup and no layout.

Metrics that are shares are told in points (0.123 = 12.3 points), all others in their own unit. Differences in the
records have losses negative whatever the metric's direction. What people read keeps the sign of the numbers beside it:
a metric that is better lower goes up when it gets worse, and sentences then say "worse by".
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from workbench.publish.signs import CERTIFIED, OUTCOMES, UNDECIDED, VERDICTS
from workbench.records import Comparison, Decision, Outcome, RuleResult, TaskComparison

ARROWS = {"higher": "↑", "lower": "↓"}
OWN_UNITS = {
    "bits_per_byte": "bits per byte",
    "byte_perplexity": "perplexity per byte",
    "word_perplexity": "perplexity per word",
    "perplexity": "perplexity",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "mean_length": "tokens",
}
"""Metrics that are no shares even where their values lie between 0 and 1, with the name of their unit."""
NAMED = 3
"""Tasks that a sentence names; of the rest it gives the number."""


def unit_of(metric: str, *values: float | None) -> str:
    """`points` for shares, else the name of the metric's own unit."""
    if metric in OWN_UNITS:
        return OWN_UNITS[metric]
    if all(value is None or abs(value) <= 1 for value in values):
        return "points"
    return metric.replace("_", " ")


def task_unit(task: TaskComparison) -> str:
    """The unit in which this task's differences are told."""
    return unit_of(task.metric, task.baseline, task.candidate, task.margin)


def format_value(value: float | None, unit: str) -> str:
    """`61.2%` for a share, `0.787` for others, `–` for no value."""
    if value is None:
        return "–"
    return minus(f"{100 * value:.1f}%" if unit == "points" else _plain(value))


def format_margin(margin: float, unit: str) -> str:
    """`2` for 0.02 in points; no zeros that say nothing."""
    return f"{100 * margin:.4g}" if unit == "points" else f"{margin:.4g}"


def change_numbers(task: TaskComparison) -> tuple[str, str, str] | None:
    """Value and both ends of a change with signs, as people read them; the ends are empty where no interval is known.

    More decimals are given where an end would be rounded onto the margin: 2.04 points lost is not 2.0.
    """
    if task.difference is None:
        return None
    unit, turn = task_unit(task), 1 if task.direction == "higher" else -1
    value, low, high = task.difference.value, task.difference.low, task.difference.high
    scale = 100 if unit == "points" else 1
    decimals = 1 if unit == "points" else 3 if abs(value) < 10 else 1
    while decimals < 5 and any(
        end is not None and end != -task.margin and round(scale * (end + task.margin), decimals) == 0
        for end in (low, high)
    ):
        decimals += 1
    ends = (low, high) if turn > 0 else (high, low)
    texts = ["" if v is None else signed(turn * scale * v, decimals) for v in (value, *ends)]
    return texts[0], texts[1], texts[2]


def format_change(task: TaskComparison, *, with_unit: bool = False) -> str:
    """`−12.3 [−15.0, −9.7]`, with the unit after the value if asked for; `–` where nothing was compared."""
    numbers = change_numbers(task)
    if numbers is None:
        return "–"
    value, low, high = numbers
    unit = f" {task_unit(task)}" if with_unit else ""
    return f"{value}{unit} [{low}, {high}]" if low and high else f"{value}{unit}"


def tell_change(task: TaskComparison) -> str:
    """A change in a sentence: `−12.3 points [−15.0, −9.7], margin 2`, `worse by 0.031 perplexity [0.02, 0.04], …`."""
    if task.difference is None:
        return "not tested"
    margin = f", margin {format_margin(task.margin, task_unit(task))}"
    if task.direction == "higher" or task.difference.value == 0:
        return format_change(task, with_unit=True) + margin
    better = task.difference.value > 0
    value, low, high = change_numbers(task) or ("", "", "")
    if better:  # fewer is a gain: told as a size, the nearer end first
        low, high = _negated(high), _negated(low)
        value = _negated(value)
    interval = f" [{low.removeprefix('+')}, {high.removeprefix('+')}]" if low and high else ""
    return f"{'better' if better else 'worse'} by {value.removeprefix('+')} {task_unit(task)}{interval}{margin}"


def format_limit(rule: RuleResult, task: TaskComparison | None = None) -> str:
    """A rule's limit (`5%`) or its margin (`2 points`); `–` where it has none. `task` is what a margin belongs to."""
    if rule.limit is None:
        return "–"
    named = rule.rule.partition("[")[0] if "[" in rule.rule else ""  # `violation_rate[hate]: at most 0.01`
    metric = rule.estimate.metric if rule.estimate else named
    unit = task_unit(task) if task else unit_of(metric, rule.limit) if metric else ""
    if rule.verdict is None:
        return f"{100 * rule.limit:.4g}%" if unit == "points" else f"{rule.limit:.4g}"
    margin = format_margin(rule.limit, unit)
    return f"{margin} {'point' if margin == '1' else 'points'}" if unit == "points" else margin


def format_measured(rule: RuleResult, task: TaskComparison | None = None) -> str:
    """What a rule was held against: `61.2% [58.9%, 63.4%]`, or the change of the `task` that it is about."""
    estimate = rule.estimate
    if estimate is None:
        return "–"
    if rule.verdict is not None and task is not None:
        return format_change(replace(task, difference=estimate))
    unit = unit_of(estimate.metric, estimate.value)
    low, high = estimate.low, estimate.high
    if rule.verdict is None:
        show = [format_value(value, unit) for value in (estimate.value, low, high)]
    else:  # a difference, with losses negative
        turn, scale, decimals = (
            (1 if estimate.direction == "higher" else -1),
            *((100, 1) if unit == "points" else (1, 3)),
        )
        low, high = (low, high) if turn > 0 else (high, low)
        show = ["" if v is None else signed(turn * scale * v, decimals) for v in (estimate.value, low, high)]
    return show[0] if low is None or high is None else f"{show[0]} [{show[1]}, {show[2]}]"


def interval_level(comparison: Comparison) -> str:
    """`90%`: the two-sided level whose bad end is a one-sided bound at alpha."""
    return f"{100 * (1 - 2 * comparison.alpha):.3g}%"


def more_items(task: TaskComparison) -> int | None:
    """Items that are missing for a decision, rounded up to two or three digits; None where no number would do."""
    return None if task.items_needed is None else _round_up(max(1, task.items_needed - task.n))


def lack(task: TaskComparison) -> str:
    """Why a task could not be certified, as the end of a sentence about it."""
    match task.verdict:
        case "inconclusive":
            more = more_items(task)
            if more is None:
                why = sentence_end(task.reason) or "no number of items would decide"
                return f"cannot be certified with {task.n:,} items: {why}"
            return f"cannot be certified with {task.n:,} items; about {more:,} more would decide"
        case "uninformative":
            chance = "" if task.chance is None else f" (chance is {format_value(task.chance, task_unit(task))})"
            return f"says nothing: both models guess{chance}"
        case "incomparable":
            return f"was not compared: {sentence_end(task.reason) or 'the two were not asked the same'}"
        case _:
            return sentence_end(task.reason)


def comparison_outcome(comparison: Comparison) -> Outcome:
    """What the required tasks say together: one forgot fails, one uncertified holds; no required task is no pass."""
    required = [task.verdict for task in comparison.tasks if task.required]
    if "forgot" in required:
        return "fail"
    return "pass" if required and set(required) <= CERTIFIED else "hold"


def comparison_reason(comparison: Comparison) -> str:
    """One sentence: what the comparison found."""
    name = comparison.candidate_checkpoint.name
    required = [task for task in comparison.tasks if task.required]
    if not required:
        return "no task is required, so nothing was to be certified."
    forgot = [task for task in required if task.verdict == "forgot"]
    if forgot:
        told = named([f"{task.task} {tell_change(task)}" for task in forgot], "; ")
        also = _also(sum(task.verdict in UNDECIDED for task in required))
        return f"{name} forgot {_of(len(forgot), len(required), 'required task')}: {told}{also}."
    open_tasks = [task for task in required if task.verdict not in CERTIFIED]
    if len(open_tasks) == 1:
        return f"{open_tasks[0].task} {lack(open_tasks[0])}."
    if open_tasks:
        told = named([f"{task.task} ({short_lack(task)})" for task in open_tasks], ", ")
        return f"{_of(len(open_tasks), len(required), 'required task')} cannot be certified: {told}."
    return _kept_reason(name, required, comparison.alpha)


def decision_reason(checkpoint: str, rules: Sequence[RuleResult], comparison: Comparison | None) -> str:
    """One sentence for a gate: what decided. `checkpoint` is the candidate's name."""
    required = [rule for rule in rules if rule.required]
    open_rules = [rule for rule in required if rule.outcome != "pass" and not rule.overridden]
    failed = [rule for rule in open_rules if rule.outcome == "fail"]
    if not required:
        return "no rule is required, so nothing was to be certified."
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    also = _also(len(open_rules) - len(failed))
    forgot = [tasks[rule.task] for rule in failed if rule.verdict == "forgot" and rule.task in tasks]
    if forgot and len(forgot) == len(failed):
        told = named([f"{task.task} {tell_change(task)}" for task in forgot], "; ")
        count = sum(rule.verdict is not None for rule in required)
        return f"{checkpoint} forgot {_of(len(forgot), count, 'required task')}: {told}{also}."
    if failed:
        told = named([f"{rule.rule}: {sentence_end(rule.reason)}" for rule in failed], "; ")
        return f"{checkpoint} breaks {_of(len(failed), len(required), 'required rule')}: {told}{also}."
    if len(open_rules) == 1:
        rule = open_rules[0]
        if rule.task in tasks and rule.verdict in UNDECIDED:
            return f"{rule.task} {lack(tasks[rule.task])}."
        return f"{rule.rule} holds: {sentence_end(rule.reason)}."
    if open_rules:
        told = named([_short_rule(rule, tasks.get(rule.task)) for rule in open_rules], ", ")
        return f"{_of(len(open_rules), len(required), 'required rule')} cannot be decided: {told}."
    overridden = [f"{rule.rule} ({sentence_end(rule.overridden)})" for rule in required if rule.overridden]
    if overridden:
        return f"{checkpoint} passes only because of {_count(len(overridden), 'override')}: {named(overridden, ', ')}."
    kept = [tasks[rule.task] for rule in required if rule.verdict in CERTIFIED and rule.task in tasks]
    if comparison and len(kept) == len(required):
        return _kept_reason(checkpoint, kept, comparison.alpha)
    all_of = "the one required rule" if len(required) == 1 else f"all {len(required)} required rules"
    return f"{checkpoint} passes {all_of}."


def headline(outcome: Outcome, reason: str) -> str:
    """`■ fail: a forgot 1 of 2 required tasks: …`."""
    return f"{OUTCOMES[outcome].label}: {reason}"


def decision_headline(decision: Decision, comparison: Comparison | None) -> str:
    """Outcome and reason of a decision; a reason of our own where the record has none."""
    own = decision_reason(decision.checkpoint.name, decision.rules, comparison)
    return headline(decision.outcome, decision.reason.strip() or own)


def comparison_headline(comparison: Comparison) -> str:
    """Outcome and reason of a comparison."""
    return headline(comparison_outcome(comparison), comparison_reason(comparison))


def short_lack(task: TaskComparison) -> str:
    """Why a task is open, in a bracket: `about 1,240 more items`."""
    match task.verdict:
        case "inconclusive":
            more = more_items(task)
            return "more items would not decide" if more is None else f"about {more:,} more items"
        case "uninformative":
            return "both models guess"
        case _:
            return VERDICTS[task.verdict].meaning


def gaps(tasks: Iterable[TaskComparison]) -> list[tuple[TaskComparison, str]]:
    """Tasks that could not be certified, with why; required ones first."""
    found = [task for task in tasks if task.verdict in UNDECIDED]
    return [(task, f"{lack(task)}.") for task in sorted(found, key=lambda task: not task.required)]


def named(parts: Sequence[str], separator: str) -> str:
    """The first few, and how many more there are."""
    if len(parts) <= NAMED + 1:  # "and 1 more" is no shorter than the one
        return separator.join(parts)
    return f"{separator.join(parts[:NAMED])}{separator}and {len(parts) - NAMED} more"


def signed(value: float, decimals: int) -> str:
    """`+1.2`, `−0.4`, `0.0` with a true minus sign; what rounds to zero has no sign."""
    text = f"{value:+,.{decimals}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else minus(text)


def minus(text: str) -> str:
    """With the minus sign that is as wide as a plus."""
    return text.replace("-", "−")


def sentence_end(text: str | None) -> str:
    """A sentence without its stop, to go on with."""
    return (text or "").strip().rstrip(".")


def _kept_reason(name: str, tasks: Sequence[TaskComparison], alpha: float) -> str:
    improved = [f"{task.task} {format_change(task, with_unit=True)}" for task in tasks if task.verdict == "improved"]
    losses = [f"{task.task} {format_change(task, with_unit=True)}" for task in tasks if task.small_loss]
    all_of = "the one required task" if len(tasks) == 1 else f"all {len(tasks)} required tasks"
    text = f"{name} kept {all_of}: a loss beyond the margin is excluded at {100 * (1 - alpha):.3g}% for each"
    text = text.removesuffix(" for each") if len(tasks) == 1 else text
    if losses:
        text += f"; with a small real loss on {named(losses, ', ')}"
    if improved:
        text += f"; improved on {named(improved, ', ')}"
    return f"{text}."


def _short_rule(rule: RuleResult, task: TaskComparison | None) -> str:
    if task is not None and rule.verdict in UNDECIDED:
        return f"{rule.task} ({short_lack(task)})"
    return f"{rule.rule} ({sentence_end(rule.reason)})"


def _also(held: int) -> str:
    return f"; {held} more cannot be certified" if held else ""


def _of(part: int, whole: int, what: str) -> str:
    return f"{part} of {_count(whole, what)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _negated(text: str) -> str:
    return text.replace("−", "+") if text.startswith("−") else text.replace("+", "−")


def _plain(value: float) -> str:
    size = abs(value)
    return f"{value:,.3f}" if size < 10 else f"{value:,.2f}" if size < 100 else f"{value:,.0f}"


def _round_up(number: int) -> int:
    """Two or three digits: a prediction of a number of items is no surer than that."""
    step = 1 if number < 100 else max(10, 10 ** (len(str(number)) - 3))
    return -(-number // step) * step
