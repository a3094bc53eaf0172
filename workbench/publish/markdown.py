"""A comparison or a decision as Markdown for a pull request. Pure: records in, text out.

Names, reasons and everything that a model or a data set wrote are foreign text. Every character of it that Markdown or
HTML could take for markup is written as a character reference, which both read as text and never as structure; what
GitHub links after rendering (`@name`, `#12`, `www.`) is split by a word joiner in prose and stands in `<pre>`
otherwise, where nothing is linked.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, VERDICTS
from workbench.publish.text import cut_start, reveal, reveal_line
from workbench.records import Comparison, Decision, Flip, RuleResult, TaskComparison

MAX_COMMENT = 65_536
"""Characters that GitHub takes in one comment."""
_PROMPT, _ANSWER, _LINE = 700, 600, 400
_MARKUP = re.compile(r"""[&<>"'`|\\*_{}\[\]#!~$@]""")
_JOINER = "&#8288;"


def decision_markdown(
    decision: Decision,
    comparison: Comparison | None = None,
    *,
    flips: Sequence[Flip] = (),
    reproduce: Sequence[str] = (),
    per_task: int = 5,
    limit: int = MAX_COMMENT,
) -> str:
    """At most `limit` characters and `per_task` flips of each task; the text says how many are left out.

    `reproduce` holds commands, one a line; without it the command that compares the two reports.
    """
    parts = [_headline(wording.decision_headline(decision, comparison))]
    if comparison is not None:
        parts += [_pair_line(comparison), _task_table(comparison)]
    parts += [_overrides(decision.rules), _gaps(comparison), _rules(decision.rules, comparison)]
    evidence = {"decision": decision.id, **decision.evidence}
    tail = [_details("Evidence", _facts(evidence)), *_reproduce(comparison, reproduce)]
    return _assemble(parts, tail, limit, lambda room: _flips(flips, room, per_task))


def comparison_markdown(
    comparison: Comparison,
    *,
    flips: Sequence[Flip] = (),
    reproduce: Sequence[str] = (),
    per_task: int = 5,
    limit: int = MAX_COMMENT,
) -> str:
    """The same without rules: the outcome is that of the required tasks."""
    parts = [_headline(wording.comparison_headline(comparison)), _pair_line(comparison), _task_table(comparison)]
    parts.append(_gaps(comparison))
    evidence = {
        "comparison": comparison.id,
        "baseline report": comparison.baseline,
        "candidate report": comparison.candidate,
        "baseline weights": comparison.baseline_checkpoint.fingerprint,
        "candidate weights": comparison.candidate_checkpoint.fingerprint,
    }
    tail = [_details("Evidence", _facts(evidence)), *_reproduce(comparison, reproduce)]
    return _assemble(parts, tail, limit, lambda room: _flips(flips, room, per_task))


def escape_prose(text: str) -> str:
    """Foreign text within a sentence or a table cell: one line, shown as it is, nothing linked."""
    line = _escape_line(text).replace("&#35;", f"&#35;{_JOINER}")
    return re.sub(r"\b([0-9a-fA-F]{6})(?=[0-9a-fA-F]{1,34}\b)", rf"\1{_JOINER}", line)  # a digest may name a commit


def escape_block(text: str, limit: int) -> str:
    """Foreign text in a box: lines kept, at most `limit` characters of it, the end kept."""
    body = _MARKUP.sub(_reference, cut_start(reveal(text), limit))
    return f"<pre>{body.replace(chr(10), '&#10;')}</pre>"


def code(text: str) -> str:
    """Foreign text in one line of code: names and digests."""
    return f"<code>{_escape_line(text if len(text) <= _LINE else text[: _LINE - 1] + '…')}</code>"


def _escape_line(text: str) -> str:
    line = _MARKUP.sub(_reference, reveal_line(text))
    # Links, mail addresses, mentions and emoji are made from finished text: only a change of the text prevents them.
    line = line.replace("&#64;", f"&#64;{_JOINER}")
    line = re.sub(r":(?=\S)", f"&#58;{_JOINER}", line)
    line = re.sub(r"\b(www)\.", rf"\1{_JOINER}.", line, flags=re.IGNORECASE)
    line = re.sub(r"^[+=().,;:/%^?-]", _reference, line)  # a list, a quote or a heading starts with a character
    return re.sub(r"^(\d+)([.)])(?=\s|$)", lambda match: f"{match[1]}&#{ord(match[2])};", line)


def _reference(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _prose(text: str, limit: int = _LINE) -> str:
    line = reveal_line(text)
    return escape_prose(line if len(line) <= limit else f"{line[: limit - 1]}…")


def _headline(text: str) -> str:
    answer, _, reason = text.partition(": ")
    return f"**{answer}**: {_prose(reason, 1_500)}"


def _pair_line(comparison: Comparison) -> str:
    part = "" if comparison.part == "all" else f", on the half of the items kept to {comparison.part}"
    return (
        f"{code(comparison.candidate_checkpoint.name)} against {code(comparison.baseline_checkpoint.name)}{part}. "
        f"Changes are in points where values are percentages; a margin is the loss that still counts as kept."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    if not rows:
        return ""
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _task_table(comparison: Comparison) -> str:
    heads = ["task", "baseline", "candidate", f"change [{wording.interval_level(comparison)} interval]", "margin"]
    rows = [_task_row(task) for task in comparison.tasks]
    return _table([*heads, "verdict", "n"], rows, right=(1, 2, 3, 4, 6))


def _task_row(task: TaskComparison) -> list[str]:
    unit = wording.task_unit(task)
    name = code(task.task) + ("" if task.required else " (advisory)")
    metric = "" if task.direction == "higher" else f"<br>{_prose(unit)} ↓"
    notes = [*(["small real loss"] if task.small_loss else []), *task.notes]
    verdict = VERDICTS[task.verdict].label + "".join(f"<br>{_prose(note)}" for note in notes)
    values = [wording.format_value(value, unit) for value in (task.baseline, task.candidate)]
    change = wording.format_change(task)
    return [name + metric, *values, change, wording.format_margin(task.margin, unit), verdict, f"{task.n:,}"]


def _rules(rules: Sequence[RuleResult], comparison: Comparison | None) -> str:
    """All rules; folded where a table of tasks stands above, which says most of it."""
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    rows = [
        [
            _prose(rule.rule) + ("" if rule.required else " (advisory)"),
            OUTCOMES[rule.outcome].label + (" (overridden)" if rule.overridden else ""),
            _prose(wording.format_limit(rule, tasks.get(rule.task))),
            _prose(rule.reason),
        ]
        for rule in rules
    ]
    table = _table(["rule", "outcome", "limit or margin", "why"], rows, right=(2,))
    counts = ", ".join(f"{n} {OUTCOMES[o].word}" for o in OUTCOMES if (n := sum(r.outcome == o for r in rules)))
    return _details(f"Rules: {counts}", table) if comparison else table


def _overrides(rules: Sequence[RuleResult]) -> str:
    lines = [f"- {_prose(rule.rule)}: {_prose(rule.overridden)}" for rule in rules if rule.overridden]
    return "**Overridden**\n\n" + "\n".join(lines) if lines else ""


def _gaps(comparison: Comparison | None) -> str:
    lines = [f"- {code(task.task)} {_prose(why)}" for task, why in wording.gaps(comparison.tasks if comparison else ())]
    return "**Could not be certified**\n\n" + "\n".join(lines) if lines else ""


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_prose(str(name))}: {code(str(value))}" for name, value in facts.items())


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def _reproduce(comparison: Comparison | None, commands: Sequence[str]) -> list[str]:
    own = [f"workbench compare {comparison.baseline} {comparison.candidate}"] if comparison else []
    lines = [reveal_line(command) for command in commands] or own
    return [f"To reproduce:\n\n{escape_block(chr(10).join(lines), 4_000)}"] if lines else []


def _flip(flip: Flip) -> str:
    sign = "■ lost" if flip.kind == "lost" else "★ gained"
    answers = f"target {code(flip.target)}, before {code(flip.baseline_answer)}, now {code(flip.candidate_answer)}"
    text = f"{sign} · {code(flip.task)} · {code(flip.item[:12])}: {answers}\n\n{escape_block(flip.prompt, _PROMPT)}"
    return "\n\n".join([text, *(_prose(note, _ANSWER) for note in flip.notes)])


def _first_of_each_task(flips: Sequence[Flip], per_task: int) -> list[Flip]:
    """The tasks that lost most come first, and of each task what was lost."""
    lost = Counter(flip.task for flip in flips if flip.kind == "lost")
    ordered = sorted(flips, key=lambda flip: (-lost[flip.task], flip.task, flip.kind != "lost"))
    return [flip for _, own in groupby(ordered, key=lambda flip: flip.task) for flip in islice(own, per_task)]


def _flips(flips: Sequence[Flip], room: int, per_task: int) -> str:
    """As many flips as fit into `room` characters, and how many are left out."""
    if not flips:
        return ""
    lost = sum(flip.kind == "lost" for flip in flips)
    title = f"Flipped items: {lost:,} lost, {len(flips) - lost:,} gained"
    ordered = _first_of_each_task(flips, per_task)
    shown: list[str] = []
    left = room - len(_details(title, _left_out(len(flips)))) - 4
    for flip in ordered:
        text = _flip(flip)
        if len(text) + 2 > left:
            break
        shown.append(text)
        left -= len(text) + 2
    if len(shown) < len(flips):
        shown.append(_left_out(len(flips) - len(shown)))
    text = _details(title, "\n\n".join(shown))
    return text if len(text) <= room else ""


def _left_out(number: int) -> str:
    return f"_{number:,} more are left out of this comment; the HTML page shows more._"


def _assemble(parts: Sequence[str], tail: Sequence[str], limit: int, fill: Callable[[int], str]) -> str:
    head = [part for part in parts if part]
    end = [part for part in tail if part]
    room = limit - sum(len(part) + 2 for part in (*head, *end)) - 2
    text = "\n\n".join([part for part in (*head, fill(room), *end) if part]) + "\n"
    if len(text) <= limit:
        return text
    # Hundreds of tasks: the answer, then as many whole lines as fit, so that no table row or tag is broken.
    notice = "\n\n_Cut here for a comment's size; the HTML page has all of it._\n"
    lines: list[str] = []
    used = len(notice)
    for line in "\n\n".join(head).split("\n"):
        used += len(line) + 1
        if used > limit:
            break
        lines.append(line)
    return "\n".join(lines) + notice
