"""lm-eval's output (`--output_path X --log_samples`) -> an ImportedRun. Knows lm-eval's files; knows no model.

The rows of a samples file are turned back into what lm-eval held in memory, and then go the way of our own runs
(`benchmarks.items`, `benchmarks.results`): same item hashes, ties, clusters, strata and intervals.

What the log lost is found again and proved: how an item's values make the task's number (mean, perplexity, ...) is
whatever gives the number in the results file, and which choice was right is whatever gives the logged accuracy.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.catalog import TaskCard
from benchmarks.importing.lm_eval_rows import LoggedTask, Row, restore_rows
from benchmarks.importing.run import ImportedModel, ImportedRun, as_seconds, digest_of, known_card
from benchmarks.items import LeafItems, metric_name, read_items
from benchmarks.results import build_result
from benchmarks.runner import LM_EVAL_SHOT_SEED
from benchmarks.suite import card_of
from workbench.errors import LogError, did_you_mean
from workbench.records import TaskResult

_KEYS = ("results", "configs", "n-samples", "config")
_WEIGHTS = ("pretrained", "path", "model_path", "model")
_ALTERING = ("peft", "delta", "adapter", "lora_local_path", "load_in_4bit", "load_in_8bit", "quantization", "gguf_file")
_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT.+)$")


def is_lm_eval_results(data: Any) -> bool:
    """Is it the content of a results file?"""
    return isinstance(data, dict) and all(isinstance(data.get(key), dict) for key in _KEYS)


def results_beside(samples: Path) -> Path:
    """The results file of the run that wrote a samples file; raises LogError where it is not beside it."""
    date = _DATE.search(samples.stem)
    found = sorted(samples.parent.glob(f"*_{date[1]}.json")) if date else []
    if not found:
        raise LogError(
            f"{samples}: lm-eval's results_<date>.json is not beside it, and holds the model and the tasks' settings; "
            "copy the whole output folder"
        )
    return found[0]


def read_lm_eval_log(file: Path, data: Mapping[str, Any], *, cluster: str | None = None) -> ImportedRun:
    """The run whose results file is `file` with content `data`; its samples files are read from beside it.

    Raises LogError: samples that are missing, cut or damaged, or scores that are no numbers.
    """
    leaves: dict[str, LeafItems] = {}
    notes: dict[str, list[str]] = {}
    cards: dict[str, TaskCard] = {}
    columns: set[str] = set()
    content = [file.read_bytes()]
    for name in data["configs"]:
        samples = _samples_file(file, name)
        content.append(samples.read_bytes())
        leaf = _read_leaf(file, data, name, samples, cluster)
        leaves[name], notes[name], cards[name] = leaf.items, leaf.notes, leaf.card
        columns |= leaf.columns
    if not leaves:
        raise LogError(f"{file}: no task in it; was the run interrupted?")
    if cluster is not None and cluster not in columns:
        raise LogError(f"{file}: --cluster {cluster}: no such column; {did_you_mean(cluster, columns)}")
    entries = _entries(data)
    return ImportedRun(
        source=str(file),
        importer=f"lm-eval {data.get('lm_eval_version') or 'of unknown version'}",
        model=_model(data),
        digest=digest_of(content),
        results=tuple(_result(data, name, own, leaves, notes, cards) for name, own in entries.items()),
        items=tuple(score for leaf in leaves.values() for score in leaf.scores),
        settings=_settings(data, list(entries)),
        started_at=float(data.get("date") or file.stat().st_mtime),
        environment={
            name: str(data[key])
            for name, key in (("lm-eval", "lm_eval_version"), ("transformers", "transformers_version"))
            if data.get(key)
        },
        seconds=as_seconds(data.get("total_evaluation_time_seconds")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Leaf:
    items: LeafItems
    notes: list[str]
    card: TaskCard
    columns: set[str]
    """Of the documents."""


def _read_leaf(file: Path, data: Mapping[str, Any], name: str, samples: Path, cluster: str | None) -> _Leaf:
    rows = _read_rows(samples)
    config = data["configs"][name]
    _check_whole(samples, rows, data, name)
    rows = restore_rows(samples, rows, config, chat_template=bool(data.get("chat_template")))
    rows, aggregations, notes = _aggregations(file, data, name, rows)
    task = LoggedTask.of(name, config, aggregations, data.get("higher_is_better", {}).get(name) or {}, cluster)
    card = known_card(name, card_of(task))
    columns = {column for row in rows if isinstance(row["doc"], dict) for column in row["doc"]}
    return _Leaf(items=read_items(task, rows, {}), notes=notes, card=card, columns=columns)


def _check_whole(samples: Path, rows: Sequence[Row], data: Mapping[str, Any], name: str) -> None:
    """There must be a row for each item and filter; they stand filter by filter, so that a cut may lose one whole."""
    asked = (data["n-samples"].get(name) or {}).get("effective")
    known = {row["filter"]: set() for row in rows}
    for row in rows:
        known[row["filter"]].add(row["doc_id"])
    logged = {key.split(",", 1)[1] for key in data["results"].get(name) or {} if "," in key}
    items = asked if asked is not None else max((len(own) for own in known.values()), default=0)
    for filter_name in sorted(logged | set(known)):
        if (found := len(known.get(filter_name, ()))) != items or not items:
            of = f" of filter {filter_name}" if filter_name != "none" else ""
            raise LogError(f"{samples}: holds {found:,} of {items:,} items{of}; copy it again, or run it again")


def _samples_file(results: Path, task: str) -> Path:
    date = _DATE.search(results.stem)
    samples = results.parent / f"samples_{task}_{date[1] if date else ''}.jsonl"
    if not samples.is_file():
        raise LogError(
            f"{results}: {samples.name} is not beside it; run lm-eval with --log_samples, and copy the whole folder"
        )
    return samples


def _read_rows(samples: Path) -> list[Row]:
    rows: list[Row] = []
    try:
        # Not splitlines(): a line separator of Unicode inside a text is no end of a line.
        lines = samples.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LogError(f"{samples}: byte {error.start} is not UTF-8; the file is damaged, copy it again") from None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise LogError(f"{samples}: line {number}: cut off or damaged; copy it again") from None
        missing = [key for key in ("doc_id", "doc", "target", "arguments", "resps", "metrics") if key not in row]
        if missing:
            raise LogError(f"{samples}: line {number}: no {missing[0]!r}; this is no samples file of lm-eval 0.4")
        rows.append({"filter": "none"} | row)
    return rows


def _aggregations(
    file: Path, data: Mapping[str, Any], name: str, rows: Sequence[Row]
) -> tuple[list[Row], dict[str, Callable[[list[Any]], float]], list[str]]:
    """The rows without the metrics whose number cannot be had from them, an aggregation for each other, and notes."""
    found: dict[str, Callable[[list[Any]], float]] = {}
    lost: set[str] = set()
    notes: list[str] = []
    logged = data["results"].get(name) or {}
    for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
        for filter_name in dict.fromkeys(row["filter"] for row in rows):
            values = [row[metric] for row in rows if row["filter"] == filter_name and metric in row["metrics"]]
            number = logged.get(f"{metric},{filter_name}")
            if number is None or not values:
                continue
            own = metric_name(metric, filter_name)
            if isinstance(number, float) and not math.isfinite(number):
                raise LogError(f"{file}: {name}: {own} is {number}, no number; the run failed, run it again")
            aggregate = _aggregation(data["configs"][name], metric, values, number)
            if aggregate is None:
                lost.add(metric)
                notes.append(f"{own} is left out: its {number} is not to be had from the samples")
            else:
                found.setdefault(metric, aggregate)
    found = {metric: aggregate for metric, aggregate in found.items() if metric not in lost}
    kept = [{**row, "metrics": [metric for metric in row["metrics"] if metric in found]} for row in rows]
    if not found:
        raise LogError(f"{file}: {name}: no metric whose number can be had from its samples; nothing to import")
    return kept, found, notes


def _aggregation(
    config: Mapping[str, Any], metric: str, values: list[Any], number: Any
) -> Callable[[list[Any]], float] | None:
    """The first of the known ways that gives the logged number."""
    from lm_eval.api import metrics as _  # noqa: F401  (fills the registries)
    from lm_eval.api.metrics import mean, nanmean
    from lm_eval.api.registry import AGGREGATION_REGISTRY, get_metric_aggregation

    named = [m.get("aggregation") for m in config.get("metric_list") or [] if m.get("metric") == metric]
    ways: list[Any] = [
        AGGREGATION_REGISTRY[way] for way in named if isinstance(way, str) and way in AGGREGATION_REGISTRY
    ]
    ways += [mean, nanmean, _flat_mean]
    ways += [get_metric_aggregation(metric)] if _has_aggregation(metric) else []
    for way in ways:
        try:
            if math.isclose(float(way(list(values))), float(number), rel_tol=1e-6, abs_tol=1e-9):
                return way
        except Exception:  # noqa: S112  (it is not made for such values)
            continue
    return None


def _has_aggregation(metric: str) -> bool:
    from lm_eval.api.registry import METRIC_AGGREGATION_REGISTRY

    return metric in METRIC_AGGREGATION_REGISTRY


def _flat_mean(items: Sequence[Sequence[bool]]) -> float:
    """The mean over all parts of all items, as IFEval counts instructions."""
    parts = [float(part) for item in items for part in item]
    return sum(parts) / len(parts)


def _entries(data: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What becomes a result: each outermost group with its leaves, and each task outside of all groups."""
    groups: Mapping[str, Sequence[str]] = {
        name: own for name, own in (data.get("group_subtasks") or {}).items() if own and name not in data["configs"]
    }
    inner = {child for own in groups.values() for child in own}

    def leaves(name: str) -> list[str]:
        return [name] if name in data["configs"] else [leaf for child in groups.get(name, ()) for leaf in leaves(child)]

    entries = {name: tuple(dict.fromkeys(leaves(name))) for name in groups if name not in inner}
    entries = {name: own for name, own in entries.items() if own}
    grouped = {leaf for own in entries.values() for leaf in own}
    return entries | {name: (name,) for name in data["configs"] if name not in grouped}


def _result(
    data: Mapping[str, Any],
    name: str,
    own: Sequence[str],
    leaves: Mapping[str, LeafItems],
    notes: Mapping[str, list[str]],
    cards: Mapping[str, TaskCard],
) -> TaskResult:
    is_group = tuple(own) != (name,)
    card = known_card(name, replace(cards[own[0]], name=name, chance=None)) if is_group else cards[name]
    result = build_result(
        card,
        {leaf: leaves[leaf] for leaf in own},
        num_fewshot=int((data.get("n-shot") or {}).get(own[0]) or 0),
        version=str((data.get("versions") or {}).get(own[0], "")),
        window=int(data.get("max_length") or 0),
        is_group=is_group,
        seed=_seed(data),
    )
    return replace(result, notes=(*result.notes, *dict.fromkeys(note for leaf in own for note in notes[leaf])))


def _seed(data: Mapping[str, Any]) -> int:
    """Our seed 0 draws the shots that lm-eval's own default draws."""
    seed = data["config"].get("fewshot_seed")
    return seed - LM_EVAL_SHOT_SEED if isinstance(seed, int) else 0


def _model(data: Mapping[str, Any]) -> ImportedModel:
    arguments = _arguments(data)
    path = next((str(arguments[key]) for key in _WEIGHTS if arguments.get(key)), None)
    altered = next((key for key in _ALTERING if arguments.get(key)), None)
    revision = data["config"].get("model_sha") or arguments.get("revision")
    label = str(data.get("model_name") or path or data["config"].get("model") or "model")
    return ImportedModel(label=label, path=path, revision=str(revision) if revision else None, altered=altered)


def _arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """lm-eval writes `model_args` as a mapping; as text up to 0.4.9."""
    arguments = data["config"].get("model_args")
    if isinstance(arguments, str):
        pairs = [part.partition("=") for part in arguments.split(",") if "=" in part]
        return {key.strip(): value.strip() for key, _, value in pairs}
    return dict(arguments or {})


def _settings(data: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
    """What shaped the numbers, under the names that our own reports use where they mean the same."""
    config = data["config"]
    limit = config.get("limit")
    settings = {
        "tasks": tasks,
        "importer": "lm-eval",
        "engine": f"lm-eval {config.get('model')}",
        "scorer": f"lm-eval {data.get('lm_eval_version')} {config.get('model')}",
        "window": data.get("max_length"),
        "num_fewshot": None,
        "limit": int(limit) if isinstance(limit, int | float) and limit >= 1 else limit,
        "seed": _seed(data),
        "apply_chat_template": bool(data.get("chat_template")),
        "chat_template_sha": data.get("chat_template_sha"),
        "fewshot_as_multiturn": bool(data.get("fewshot_as_multiturn")),
        "system_instruction": data.get("system_instruction"),
        "system_instruction_sha": data.get("system_instruction_sha"),
        "model_args": _arguments(data),
        "gen_kwargs": config.get("gen_kwargs") or {},
    }
    return json.loads(json.dumps(settings, default=str))
