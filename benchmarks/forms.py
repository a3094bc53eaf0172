"""How a row becomes a prompt, its continuations and its score: the forms a question can be asked in.

Templates are Python format strings over the row's columns; `{options}` is the lettered list of choices, made here.
lm-eval's own Jinja templates are compiled for each document, about 1.3 ms: 10,000 five-shot questions would wait two
minutes for them. Knows no dataset and no model.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import scoring
from workbench.records import Direction

Doc = Mapping[str, Any]
FormName = Literal["letter", "cloze", "label", "rank", "partial", "word", "answer", "text", "generate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One way to ask. `config` is the part of lm-eval's task configuration that follows from it."""

    name: FormName
    metric: str
    direction: Direction
    required: bool
    text: str
    description: str
    config: Mapping[str, Any]
    whole: bool = False
    """Asked without few-shot examples: no rows are set apart for them."""


def metric_entry(
    name: str, *, direction: Direction = "higher", aggregation: str = "mean", **more: Any
) -> dict[str, Any]:
    """Return one entry of lm-eval's `metric_list`."""
    return {"metric": name, "aggregation": aggregation, "higher_is_better": direction == "higher", **more}


ACC, ACC_NORM = metric_entry("acc"), metric_entry("acc_norm")
PERPLEXITY = metric_entry("perplexity", direction="lower", aggregation="perplexity")
ROLLING = [
    metric_entry("word_perplexity", direction="lower", aggregation="weighted_perplexity"),
    metric_entry("byte_perplexity", direction="lower", aggregation="weighted_perplexity"),
    metric_entry("bits_per_byte", direction="lower", aggregation="bits_per_byte"),
]


def options(choices: list[str]) -> str:
    r"""Return the lettered list of choices.

    >>> options(["red", "blue"])
    'A. red\nB. blue\n'
    """
    return "".join(f"{letter}. {choice}\n" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))


def letters(doc: Doc) -> list[str]:
    """Return as many letters as the row has choices."""
    return list(string.ascii_uppercase[: len(doc["choices"])])


def choices(doc: Doc) -> list[str]:
    """Return the row's choices."""
    return doc["choices"]


def answer(doc: Doc) -> int:
    """Return the index of the right choice."""
    return doc["answer"]


def target(doc: Doc) -> str:
    """Return the text that should follow."""
    return doc["target"]


def template(text: str) -> Callable[[Doc], str]:
    """Return the function that fills `text` from a row."""
    if "{options}" in text:
        return lambda doc: text.format_map({**doc, "options": options(doc["choices"])})
    return text.format_map


QUESTION = "Question: {question}\nAnswer:"

FORMS: dict[FormName, Form] = {
    form.name: form
    for form in (
        Form(
            name="letter",
            metric="acc",
            direction="higher",
            # Below about a billion parameters the answer to a lettered question is chance, so it cannot gate.
            required=False,
            text="{question}\n{options}Answer:",
            description="The following are multiple choice questions (with answers) about {subject}.\n\n",
            config={
                "output_type": "multiple_choice",
                "doc_to_choice": letters,
                "doc_to_target": answer,
                "metric_list": [ACC],
            },
        ),
        Form(
            name="cloze",
            metric="acc_norm",
            direction="higher",
            required=True,
            text=QUESTION,
            description="The following are questions (with answers) about {subject}.\n\n",
            config={
                "output_type": "multiple_choice",
                "doc_to_choice": choices,
                "doc_to_target": answer,
                "metric_list": [ACC, ACC_NORM],
            },
        ),
        Form(
            name="label",
            metric="acc",
            direction="higher",
            required=True,
            text=QUESTION,
            description="",
            config={
                "output_type": "multiple_choice",
                "doc_to_choice": choices,
                "doc_to_target": answer,
                "metric_list": [ACC],
            },
        ),
        Form(
            name="rank",
            metric="ndcg",
            direction="higher",
            required=True,
            text=QUESTION,
            description="",
            config={
                "output_type": "multiple_choice",
                "doc_to_choice": choices,
                "doc_to_target": answer,
                "process_results": scoring.rank,
                "metric_list": [metric_entry(name) for name in ("ndcg", "hit_at_1", "hit_at_3")],
            },
        ),
        Form(
            name="partial",
            metric="acc",
            direction="higher",
            required=True,
            # lm-eval's partial evaluation: an index as text means that the choices are the contexts.
            text="",
            description="",
            config={
                "output_type": "multiple_choice",
                "doc_to_text": answer,
                "doc_to_choice": choices,
                "doc_to_target": target,
                "metric_list": [ACC],
            },
        ),
        Form(
            name="word",
            metric="acc",
            direction="higher",
            required=True,
            text="{context}",
            description="",
            config={
                "output_type": "loglikelihood",
                "doc_to_target": lambda doc: " " + doc["target"],
                "metric_list": [ACC, PERPLEXITY],
            },
            whole=True,
        ),
        Form(
            name="answer",
            metric="bits_per_byte",
            direction="lower",
            required=True,
            text=QUESTION,
            description="",
            config={
                "output_type": "loglikelihood",
                "doc_to_target": lambda doc: " " + doc["target"],
                "process_results": scoring.answer_bits,
                "metric_list": [metric_entry("bits_per_byte", direction="lower", aggregation="bits_per_byte")],
            },
        ),
        Form(
            name="text",
            metric="bits_per_byte",
            direction="lower",
            required=True,
            text="",
            description="",
            config={"output_type": "loglikelihood_rolling", "doc_to_target": target, "metric_list": ROLLING},
            whole=True,
        ),
        Form(
            name="generate",
            metric="exact_match",
            direction="higher",
            required=True,
            text=QUESTION,
            description="",
            config={"output_type": "generate_until", "doc_to_target": target},
        ),
    )
}
