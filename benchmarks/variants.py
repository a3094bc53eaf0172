"""The same questions in other prompts: other templates, other markers, rotated options, or no question at all.

Variant 0 is the task as it is; each other one is a leaf task of its own, so it is paired and kept in the ledger like
any task. Only multiple choice of ours can be varied: letter and cloze, shipped or made by `workbench task new`; of
another task it is not known where its question and its options stand. Few-shot examples stay the same rows, put in the
variant's template, with their options as they are. Knows built tasks and templates; knows no model and no report.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks import entries, forms
from benchmarks.catalog import TaskCard, shipped_entries, split_name
from benchmarks.library import card_of
from workbench.errors import TaskError

if TYPE_CHECKING:
    from lm_eval.api.task import Task

PROMPTS = "@prompts"
"""Suffix of the result that pools a task's variants."""
CHOICES_ONLY = "@choices_only"
"""Suffix of the task without its questions."""
_VARIANT = "@v"
_CONTEXT = "{% if context %}{{context}}\n\n{% endif %}"
_FIXED = "it cannot be varied: "
_DIGITS = tuple(str(number) for number in range(1, 27))
_BOUND = re.compile(
    r"\b(above|below|preceding|(both|neither|options?|answers?) \(?[A-J]|\(?[A-J]\)? (and|or|&) \(?[A-J])\b|上記|以上"
)
"""An option that speaks of others by their place or letter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One way to ask. None: as the task itself does."""

    name: str
    text: str | None = None
    lead: str | None = None
    """What stands in front of everything, instead of the task's own description."""
    mark: str = "{}."
    """How the list of options marks one; `{}` is the letter or digit."""
    label: str = "{}"
    """What the model is to answer."""
    signs: Sequence[str] = string.ascii_uppercase


# The task's own way, then labels as in the public harnesses (MMLU, HELM, PromptSource), markers, and an instruction.
LETTER: tuple[Template, ...] = (
    Template(name="as it is"),
    Template(name="Question: before it", text="Question: {question}\n{options}Answer:"),
    Template(name="options (A) (B)", text="{question}\n{options}Answer:", mark="({})", label="({})"),
    Template(name="options 1. 2.", text="Question: {question}\n{options}Answer:", signs=_DIGITS),
    Template(name="options A) B)", text="{question}\nOptions:\n{options}Correct answer:", mark="{})"),
    Template(
        name="an instruction first",
        text="{question}\n{options}Answer:",
        lead="Choose the right answer to each question.\n\n",
    ),
)
CLOZE: tuple[Template, ...] = (
    Template(name="as it is"),
    Template(name="Q: and A:", text="Q: {question}\nA:"),
    Template(name="no Question:", text="{question}\nAnswer:"),
    Template(name="an instruction first", text="Question: {question}\nAnswer:", lead="Answer each question.\n\n"),
    Template(name="The answer is", text="{question}\nThe answer is"),
    Template(name="Correct answer:", text="Question: {question}\nCorrect answer:"),
)
MOST = len(LETTER)
"""Variants at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How a task asks, as far as its variants must know."""

    form: str
    text: str | None
    """Its own template where that is none of the usual ones: only markers and the order of options can be varied."""
    several: bool
    """More than one choice may be right."""
    context: bool
    """A passage stands before the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """One more result of a task: its variants pooled, or the task without its questions."""

    suffix: str
    leaves: Mapping[str, "Task"]
    """All leaf tasks of the result by name, the task's own among them where they count."""
    prompts: int | None
    """Variants that are pooled; None: without the questions."""
    notes: tuple[str, ...] = ()


def vary(leaves: Mapping[str, "Task"], *, variants: int, choices_only: bool) -> list[Variation]:
    """What is asked besides a task's own leaves; fewer variants where it has fewer. Raises TaskError: none at all."""
    found: list[Variation] = []
    if variants < 2 and not choices_only:
        return found
    first = next(iter(leaves.values()))
    shape = _shape_or_error(first)
    if variants > 1:
        count = min(variants, most_variants(shape))
        if count < 2:
            raise TaskError(f"task {first.task_name}: {_FIXED}its prompt is its own, and no options are listed in it")
        more = {name: task for leaf in leaves.values() for name, task in build_variants(leaf, count).items()}
        told = "; ".join(f"{k}: {words}" for k, words in enumerate(describe_variants(first, count)))
        notes = [f"{count} prompts, {told}"]
        notes += [f"{variants} variants were asked, and it has {count}"] if count < variants else []
        found.append(Variation(suffix=PROMPTS, leaves={**leaves, **more}, prompts=count, notes=tuple(notes)))
    if choices_only:
        blind = [build_choices_only(leaf) for leaf in leaves.values()]
        found.append(Variation(suffix=CHOICES_ONLY, leaves={task.task_name: task for task in blind}, prompts=None))
    return found


def variant_name(leaf: str, number: int) -> str:
    """Name of a variant's leaf task; number 0 is the task itself."""
    return f"{leaf}{_VARIANT}{number}" if number else leaf


def split_variant(leaf: str) -> tuple[str, int]:
    """The task that a leaf is a variant of, and its number.

    >>> split_variant("arc_easy@v3"), split_variant("arc_easy")
    (('arc_easy', 3), ('arc_easy', 0))
    """
    base, sign, number = leaf.rpartition(_VARIANT)
    return (base, int(number)) if sign and number.isdigit() else (leaf, 0)


def shape_of(task: Any) -> Shape | str:
    """How a built leaf task asks; a text says why it cannot be varied."""
    config, card = getattr(task, "config", None), card_of(task)
    if config is None or card.source == "lm_eval":
        return "it is lm-eval's own, and where its question and its options stand is not known"
    if card.form not in ("letter", "cloze") or callable(config.process_results):
        return f"only letter and cloze can be, and its form is {card.form}"
    if card.source == "workbench":
        return _shipped_shape(card)
    known = {f"{context}{text}": bool(context) for text in _authored(card.form) for context in ("", _CONTEXT)}
    if config.doc_to_text not in known:
        return "its prompt is no longer the one that workbench task new wrote"
    several = config.doc_to_target == "right"
    return Shape(form=card.form, text=None, several=several, context=known[config.doc_to_text])


def _shipped_shape(card: TaskCard) -> Shape:
    spec, form = shipped_entries()[(split_name(card.name) or ("", None))[0]]
    own = spec.text[form] if isinstance(spec.text, dict) else spec.text
    return Shape(form=form, text=own, several=False, context=False)


def _authored(form: str) -> tuple[str, ...]:
    if form == "letter":
        return ("{{question}}\n" + entries.OPTIONS + "Answer:",)
    return ("Question: {{question}}\nAnswer:",)


def most_variants(shape: Shape) -> int:
    """How many variants a task has, itself among them; 1: none but itself."""
    if shape.text is None:
        return MOST
    # Its own words and no instruction in ours: the markers are left, and a cloze has none.
    return len({(t.mark, t.label, t.signs) for t in LETTER}) if shape.form == "letter" else 1


def build_variants(task: "Task", count: int) -> dict[str, "Task"]:
    """Variants 1 to count − 1 of a leaf task, by name, as leaf tasks. Raises TaskError: it cannot be varied."""
    shape = _shape_or_error(task)
    if count > most_variants(shape):
        raise TaskError(f"task {task.task_name}: {count} variants asked, it has {most_variants(shape)}")
    return {
        variant_name(task.task_name, k): _build(task, shape, _templates(shape)[k], variant_name(task.task_name, k), k)
        for k in range(1, count)
    }


def build_choices_only(task: "Task") -> "Task":
    """The task without its questions: what can be guessed from the options. Raises TaskError: it cannot be varied.

    As in Balepur, Ravichander & Rudinger 2024 (Artifacts or Abduction), examples are shown without their questions too.
    """
    shape = _shape_or_error(task)
    usual = "{options}Answer:" if shape.form == "letter" else "Answer:"
    text = usual if shape.text is None else shape.text.replace("{question}", "")
    blind = Shape(form=shape.form, text=None, several=shape.several, context=False)
    return _build(task, blind, Template(name="choices only", text=text), task.task_name + CHOICES_ONLY, 0)


def describe_variants(task: "Task", count: int) -> list[str]:
    """Each variant in a few words, in order."""
    shape = _shape_or_error(task)
    turned = "" if shape.form == "cloze" else ", options rotated by {}"
    return [t.name + (turned.format(k) if k else "") for k, t in enumerate(_templates(shape)[:count])]


def rotate(doc: Mapping[str, Any], by: int) -> dict[str, Any]:
    """The document with its choices moved on by some places, and the right one with them.

    Where an option speaks of others by their place ("all of the above", "both A and B") the order stays.

    >>> rotate({"choices": ["a", "b", "c"], "answer": 2}, 1)
    {'choices': ['c', 'a', 'b'], 'answer': 0}
    """
    choices = list(doc["choices"])
    n, shift = len(choices), 0 if any(_BOUND.search(choice) for choice in choices) else by % len(choices)
    turned = {**doc, "choices": choices[n - shift :] + choices[: n - shift], "answer": (doc["answer"] + shift) % n}
    if "right" in doc:
        turned["right"] = [(index + shift) % n for index in doc["right"]]
    return turned


def _shape_or_error(task: Any) -> Shape:
    shape = shape_of(task)
    if isinstance(shape, str):
        raise TaskError(f"task {task.task_name}: {_FIXED}{shape}")
    return shape


def _templates(shape: Shape) -> Sequence[Template]:
    if shape.form == "cloze":
        return CLOZE
    if shape.text is None:
        return LETTER
    first = LETTER[0]
    own = [first if (t.mark, t.signs) == (first.mark, first.signs) else t for t in LETTER]
    return [replace(t, text=shape.text, lead=None) for t in own]


def _build(task: "Task", shape: Shape, template: Template, name: str, rotation: int) -> "Task":
    from benchmarks.lm_task import WorkbenchTask

    config = task.config
    # Few-shot rows are only asked for where they are shown: lm-eval warns otherwise.
    shots = [dict(doc) for doc in task.fewshot_docs()] if config.num_fewshot else []
    turn = rotation if shape.form == "letter" else 0
    own = {
        "task": name,
        "output_type": "multiple_choice",
        "doc_to_text": _asker(shape, template),
        "doc_to_choice": forms.choices if shape.form == "cloze" else _labeller(template),
        "doc_to_target": (lambda doc: list(doc["right"])) if shape.several else forms.answer,
        "description": config.description if template.lead is None else template.lead,
        "target_delimiter": config.target_delimiter,
        "fewshot_delimiter": config.fewshot_delimiter,
        "metric_list": config.metric_list,
        "num_fewshot": config.num_fewshot or 0,
        "metadata": config.metadata,
    }
    rows: list[dict[str, Any]] = [dict(doc) for doc in task.eval_docs]
    docs = [rotate(row, turn) for row in rows] if turn else rows
    return WorkbenchTask(docs=docs, shots=shots, config=own)


def _asker(shape: Shape, template: Template) -> Callable[[Mapping[str, Any]], str]:
    text = template.text or ""

    def ask(doc: Mapping[str, Any]) -> str:
        listed = zip(template.signs, doc["choices"], strict=False)
        options = "".join(f"{template.mark.format(sign)} {choice}\n" for sign, choice in listed)
        passage = f"{doc['context']}\n\n" if shape.context and doc.get("context") else ""
        return passage + text.format_map({**doc, "options": options})

    return ask


def _labeller(template: Template) -> Callable[[Mapping[str, Any]], list[str]]:
    return lambda doc: [template.label.format(sign) for sign in template.signs[: len(doc["choices"])]]
