"""The lm-eval YAML of an authored task: one entry for each way to ask. Knows lm-eval's keys; knows no question.

Templates are lm-eval's own Jinja, so that people can read and change them, and so that plain `lm_eval` runs them. What
Jinja cannot score is a function of `benchmarks.scoring`, which plain `lm_eval` finds where the workbench is installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.questions import Kind

ALPHABET = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
OPTIONS = "{% for choice in choices %}{{ " + ALPHABET + "[loop.index0] }}. {{ choice }}\n{% endfor %}"
LETTERS = "{{ " + ALPHABET + "[:choices|length] | list }}"


class Function(str):
    """A name that YAML writes behind `!function`."""


class _Dumper(yaml.SafeDumper):
    """Writes functions as tags, and line ends as `\\n`."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)
_Dumper.add_representer(Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One way to ask questions of one kind."""

    name: str
    kind: Kind
    card: dict[str, Any]
    """What a report must know: fields of a TaskCard."""
    config: dict[str, Any]
    """lm-eval keys that all subjects share."""
    description: str = ""
    """Before the examples; `{subject}` stands for the subject."""


def _entry(name: str, form: str, config: dict[str, Any], metrics: Sequence[str], **common: Any) -> Entry:
    kind, context = common["kind"], common["context"]
    question = "Question: {{question}}\n" if form != "letter" else "{{question}}\n"
    before = "{% if context %}{{context}}\n\n{% endif %}" if context else ""
    options = OPTIONS if form in ("letter", "select") else ""
    text = common.get("text") or before + question + options + common.get("ask", "Answer:")
    whole = f"{name}_{form}"
    return Entry(
        name=whole,
        kind=kind,
        card={
            "name": whole,
            "title": f"{common['title']} ({form})",
            "role": "domain",
            "margin": common["margin"],
            "required": form != "letter",
            "metric": common.get("metric") or metrics[0],
            "direction": "higher",
            "chance": common.get("chance"),
            "form": form,
            "num_fewshot": 0,
            "cluster": common["cluster"],
            "dataset": name,
            "licence": common["licence"],
            "language": common["language"],
            "source": "include",
        },
        config={
            **config,
            "doc_to_text": text,
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
        },
        description=common.get("description", ""),
    )


def cloze(name: str, *, several: bool, **common: Any) -> Entry:
    """The choices themselves are scored, after the question alone."""
    target = "right" if several else "answer"
    config = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": target}
    description = "The following are questions (with answers){about}.\n\n"
    return _entry(name, "cloze", config, ["acc_norm", "acc"], description=description, **common)


def letter(name: str, *, several: bool, **common: Any) -> Entry:
    """The choices are listed with letters, and the letters are scored: the form of MMLU."""
    target = "right" if several else "answer"
    config = {"output_type": "multiple_choice", "doc_to_choice": LETTERS, "doc_to_target": target}
    description = "The following are multiple choice questions (with answers){about}.\n\n"
    return _entry(name, "letter", config, ["acc"], description=description, **common)


def _written(scorer: str, tokens: int) -> dict[str, Any]:
    return {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {"until": ["\n\n", "Question:"], "do_sample": False, "max_gen_toks": tokens},
        "process_results": Function(f"benchmarks.scoring.{scorer}"),
    }


def select(name: str, **common: Any) -> Entry:
    """All right letters are to be written: the whole set counts, and its overlap."""
    config = _written("select", 32) | {
        "doc_to_target": "{% for i in right %}{{ " + ALPHABET + "[i] }}{{ ', ' if not loop.last }}{% endfor %}"
    }
    return _entry(name, "select", config, ["exact_match", "jaccard"], ask="All right letters:", **common)


def ranking(name: str, *, listed: bool, **common: Any) -> Entry:
    """Candidates in the file are ranked by likelihood; candidates inside the question are ranked in writing."""
    metrics = ["ndcg", "hit_at_1", "hit_at_3"]
    if not listed:
        return _entry(name, "ranking", _written("rank_written", 64), metrics, **common)
    config = {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": 0,
        "process_results": Function("benchmarks.scoring.rank"),
    }
    return _entry(name, "ranking", config, metrics, **common)


def retrieval(name: str, **common: Any) -> Entry:
    """Ids are to be written, best first."""
    return _entry(name, "retrieval", _written("retrieve", 32), ["recall_at_3", "hit_at_3"], **common)


def extraction(name: str, **common: Any) -> Entry:
    """Spans are to be written, in one line."""
    return _entry(name, "extraction", _written("extract", 64), ["span_f1", "exact_match"], **common)


def short(name: str, **common: Any) -> Entry:
    """A number or a few words are to be written."""
    return _entry(name, "short", _written("short_answer", 32), ["exact_match", "token_f1"], **common)


def text(name: str, *, judge: str, **common: Any) -> Entry:
    """A text is to be written."""
    metrics = ["rouge_l", "token_f1", *(["judge"] if judge else [])]
    return _entry(name, "text", _written("free_text", 256), metrics, metric="judge" if judge else None, **common)


def limit(entry: Entry, tokens: int | None) -> Entry:
    """The entry with another limit of a written answer, in tokens; itself where none is given or nothing is written."""
    if tokens is None or "generation_kwargs" not in entry.config:
        return entry
    generation = {**entry.config["generation_kwargs"], "max_gen_toks": tokens}
    return replace(entry, config={**entry.config, "generation_kwargs": generation})


def write_entry(folder: Path, entry: Entry, *, subjects: Sequence[str], shots: int) -> None:
    """Write an entry: one task, or a group with one task for each subject (strata of one result)."""
    metadata = {"version": 1, "workbench": entry.card | {"num_fewshot": shots}}
    shared = {
        "custom_dataset": Function("rows.load"),
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": shots,
        **entry.config,
    }
    if len(subjects) < 2:
        about = {"description": entry.description.format(about="")} if entry.description and shots else {}
        task = {"task": entry.name, "dataset_kwargs": {"kind": entry.kind}, **shared, **about, "metadata": metadata}
        return _dump(folder / f"{entry.name}.yaml", task)
    leaves = []
    for subject in subjects:
        about = f" about {subject.replace('_', ' ')}" if subject else ""
        leaf: dict[str, Any] = {"task": subject or "other", "dataset_kwargs": {"kind": entry.kind, "subject": subject}}
        if entry.description:
            leaf["description"] = _literal(entry.description.format(about=about))
        leaves.append({**leaf, "metadata": metadata})
    pooled = [{"metric": entry.card["metric"], "aggregation": "mean", "weight_by_size": True}]
    group = {"group": entry.name, "task": leaves, "aggregate_metric_list": pooled, **shared, "metadata": metadata}
    return _dump(folder / f"{entry.name}.yaml", group)


def _literal(text: str) -> str:
    """lm-eval renders descriptions as Jinja: braces of a subject's name must come out as they are."""
    return "{% raw %}" + text + "{% endraw %}" if "{" in text else text


def write_group(folder: Path, name: str, title: str, names: Sequence[str]) -> None:
    """Write the group of all entries, and the suite of the same name."""
    card = {"entries": list(names)}
    _dump(folder / f"{name}.yaml", {"group": name, "task": list(names), "metadata": {"version": 1, "workbench": card}})
    _dump(folder / "suite.yaml", {"suite": name, "title": title, "tasks": list(names)})


def _dump(path: Path, data: dict[str, Any]) -> None:
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    path.write_text("# Written by `workbench task new`.\n" + text, encoding="utf-8")
