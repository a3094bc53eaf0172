"""Inspect AI's logs -> an ImportedRun. Knows samples, scorers and epochs; knows no file format and no model.

A scorer is a metric; several make several, and a score of named parts makes one for each part. Letters count as Inspect
counts them: C 1, I 0, P one half, N 0. Epochs of a sample are averaged, so an item is a question, not an attempt.
A sample that ended in an error, or that a scorer left unscored, has no score: it is counted in a note, never as 0.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.catalog import TaskCard
from benchmarks.importing.inspect_files import InspectLog, read_inspect_file
from benchmarks.importing.run import ImportedModel, ImportedRun, digest_of, known_card
from benchmarks.items import LeafItems, Metric, digest
from benchmarks.results import build_result
from workbench.errors import LogError
from workbench.records import ItemScore, TaskResult

Sample = Mapping[str, Any]
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_ATTACHMENT = "attachment://"
_WEIGHTS = ("model_path", "path")


def is_inspect_log(data: Any) -> bool:
    """Is it the content of a `.json` log?"""
    return isinstance(data, dict) and "version" in data and "status" in data and isinstance(data.get("eval"), dict)


def read_inspect_log(file: Path, *, cluster: str | None = None) -> ImportedRun:
    """The run in one log; `cluster` names a key of the samples' metadata that says which belong together.

    Raises LogError: damaged, not finished, without samples, or with samples that are not scored.
    """
    log = read_inspect_file(file)
    header = log.header
    _check_complete(file, log)
    name = str(header["eval"].get("task") or "task")
    scores, notes = _items(file, log, name, cluster)
    packages = header["eval"].get("packages") or {}
    version = str(packages.get("inspect_ai") or "of unknown version")
    return ImportedRun(
        source=str(file),
        importer=f"inspect_ai {version}",
        model=_model(header["eval"]),
        digest=digest_of([file.read_bytes()]),
        results=(_result(file, header, name, scores, log.samples, notes),),
        items=tuple(scores),
        settings=_settings(header, name, version),
        started_at=_time(header["eval"].get("created")) or file.stat().st_mtime,
        environment={str(package): str(number) for package, number in packages.items()},
        seconds=_seconds(header.get("stats") or {}),
    )


def _check_complete(file: Path, log: InspectLog) -> None:
    status, error = log.header.get("status"), log.header.get("error") or {}
    if status != "success":
        message = " ".join(str(error.get("message", "")).split())[:120]
        raise LogError(
            f"{file}: the run ended with status {status!r}{f' ({message})' if message else ''}; finish it with inspect "
            "eval-retry, then import that log"
        )
    total = (log.header.get("results") or {}).get("total_samples")
    if not log.samples:
        raise LogError(f"{file}: holds no samples; run inspect eval with --log-samples")
    if total is not None and total != len(log.samples):
        raise LogError(f"{file}: holds {len(log.samples):,} of {total:,} samples; copy it again")


def _items(file: Path, log: InspectLog, task: str, cluster: str | None) -> tuple[list[ItemScore], list[str]]:
    """An ItemScore for each question, and notes on what has no score."""
    metadata = [dict(sample.get("metadata") or {}) for sample in log.samples]
    if cluster is not None and not any(cluster in own for own in metadata):
        known = sorted({key for own in metadata for key in own})
        raise LogError(f"{file}: --cluster {cluster}: no such metadata; the samples have {', '.join(known) or 'none'}")
    attempts: dict[str, list[Sample]] = {}
    for sample in log.samples:
        attempts.setdefault(json.dumps(sample.get("id")), []).append(sample)
    scores: list[ItemScore] = []
    seen: Counter[str] = Counter()
    unscored: Counter[str] = Counter()
    for place, own in enumerate(attempts.values()):
        score = _item(task, place, own, cluster, unscored)
        seen[score.item] += 1
        if seen[score.item] > 1:
            # A question that stands twice in a set is two items: hashes must be unique for pairing.
            unique = digest([score.item, seen[score.item]])
            group = unique if score.group == score.item else score.group
            fields = {name: getattr(score, name) for name in score.__slots__}
            score = ItemScore(**{**fields, "item": unique, "group": group})
        if score.metrics:
            scores.append(score)
    failed = sum(_is_error(sample) for sample in log.samples)
    notes = [f"{failed:,} of {len(log.samples):,} samples ended in an error and are not scored"] if failed else []
    notes += [f"{name}: {count:,} samples were left unscored" for name, count in unscored.items()]
    if not scores:
        raise LogError(
            f"{file}: no sample has a score that is a number; {'; '.join(notes) or 'was it run without a scorer?'}"
        )
    return scores, notes


def _item(task: str, place: int, attempts: Sequence[Sample], cluster: str | None, unscored: Counter[str]) -> ItemScore:
    first = attempts[0]
    prompt = _prompt(first)
    document = [first.get("input"), first.get("choices"), first.get("target")]
    item = digest([*document, prompt])
    values: dict[str, list[float]] = {}
    for sample in attempts:
        if not _is_error(sample):
            for name, value in _metrics(sample).items():
                if value is None:
                    unscored[name] += 1
                else:
                    values.setdefault(name, []).append(value)
    answers = [_answer(sample) for sample in attempts]
    group = (first.get("metadata") or {}).get(cluster) if cluster is not None else None
    target = first.get("target")
    return ItemScore(
        task=task,
        item=item,
        doc_id=place,
        group=item if group is None else str(group),
        metrics={name: sum(own) / len(own) for name, own in values.items()},
        answer=answers[0],
        target=" | ".join(map(str, target)) if isinstance(target, list) else str(target),
        prompt=prompt,
        extra={"doc": digest(document), "id": first.get("id")} | ({"answers": answers} if len(answers) > 1 else {}),
    )


def _is_error(sample: Sample) -> bool:
    return sample.get("error") is not None and not sample.get("scores")


def _metrics(sample: Sample) -> dict[str, float | None]:
    """Metric -> value, None where the scorer gave none that is a number."""
    found: dict[str, float | None] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            found |= {f"{scorer}.{part}": _number(own) for part, own in value.items()}
        else:
            found[scorer] = _number(value)
    return found


def _number(value: Any) -> float | None:
    """As Inspect's own `value_to_float`, but None where that warns and gives 0. NaN is Inspect's mark of no score."""
    if isinstance(value, str):
        if value in _LETTERS:
            return _LETTERS[value]
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _prompt(sample: Sample) -> str:
    """What the model was first asked: the messages before its first answer."""
    attachments = sample.get("attachments") or {}
    asked: list[str] = []
    for message in sample.get("messages") or []:
        if message.get("role") == "assistant" and message.get("source") != "input":
            break
        asked.append(f"{message.get('role')}: {_text(message.get('content'), attachments)}")
    return "\n".join(asked) if asked else _text(sample.get("input"), attachments)


def _text(content: Any, attachments: Mapping[str, str]) -> str:
    if isinstance(content, str):
        own = content.removeprefix(_ATTACHMENT)
        return attachments.get(own, content) if own != content else content
    if isinstance(content, list):
        parts = [part.get("text") or part.get("content") if isinstance(part, dict) else part for part in content]
        return "\n".join(_text(part, attachments) for part in parts if part is not None)
    return "" if content is None else json.dumps(content, sort_keys=True)


def _answer(sample: Sample) -> str:
    return str((sample.get("output") or {}).get("completion") or "")


def _result(
    file: Path,
    header: Mapping[str, Any],
    name: str,
    scores: Sequence[ItemScore],
    samples: Sequence[Sample],
    notes: Sequence[str],
) -> TaskResult:
    from lm_eval.api.metrics import mean

    names = list(dict.fromkeys(metric for score in scores for metric in score.metrics))
    columns = {metric: {i: s.metrics[metric] for i, s in enumerate(scores) if metric in s.metrics} for metric in names}
    leaf = LeafItems(
        scores=list(scores),
        metrics={m: Metric(raw=own, aggregate=mean, is_mean=True, direction="higher") for m, own in columns.items()},
        ties=0,
        chance=None,
    )
    wanted = ((header.get("results") or {}).get("headline") or {}).get("score")
    headline = next((metric for metric in names if metric.split(".")[0] == wanted), names[0])
    dataset = header["eval"].get("dataset") or {}
    card = TaskCard(
        name=name,
        title=str(header["eval"].get("task_display_name") or name),
        role="general",
        margin=0.02,
        required=True,
        metric=headline,
        direction="higher",
        chance=_chance(samples),
        form="inspect",
        num_fewshot=0,
        cluster=None,
        dataset=str(dataset.get("name") or dataset.get("location") or ""),
        licence="",
        language="",
        source="include",
    )
    version = str(header["eval"].get("task_version", ""))
    leaves = {name: leaf}
    result = build_result(
        known_card(name, card), leaves, num_fewshot=0, version=version, window=0, is_group=False, seed=0
    )
    return _with_notes(result, [*notes, *_differences(header, columns)])


def _with_notes(result: TaskResult, notes: Sequence[str]) -> TaskResult:
    fields = {name: getattr(result, name) for name in result.__slots__}
    return TaskResult(**{**fields, "notes": (*result.notes, *notes)})


def _differences(header: Mapping[str, Any], columns: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Where the log's own mean of a score is another number (another reducer of epochs, other values of letters)."""
    notes: list[str] = []
    for score in (header.get("results") or {}).get("scores") or []:
        own = columns.get(str(score.get("name")))
        metrics = score.get("metrics") or {}
        logged = next((metrics[m].get("value") for m in ("accuracy", "mean") if m in metrics), None)
        if not own or not isinstance(logged, int | float):
            continue
        value = sum(own.values()) / len(own)
        if not math.isclose(value, logged, abs_tol=1e-6):
            notes.append(f"{score.get('name')}: the log says {logged:.4g} (reducer {score.get('reducer') or 'mean'})")
    return notes


def _chance(samples: Sequence[Sample]) -> float | None:
    """Share of right choices, where every sample offers choices and has one right letter."""
    shares = [
        1 / len(sample["choices"])
        for sample in samples
        if sample.get("choices") and isinstance(sample.get("target"), str) and len(sample["target"]) == 1
    ]
    return sum(shares) / len(shares) if len(shares) == len(samples) else None


def _model(evaluation: Mapping[str, Any]) -> ImportedModel:
    """Inspect's `hf/...` and `vllm/...` name a hub id, or a folder in their arguments; services name no weights."""
    label, arguments = str(evaluation.get("model") or "model"), evaluation.get("model_args") or {}
    provider, _, name = label.partition("/")
    path = next((str(arguments[key]) for key in _WEIGHTS if arguments.get(key)), None)
    local = provider in ("hf", "vllm", "sglang", "llama-cpp-python")
    return ImportedModel(label=label, path=path or (name if local and name != "local" else None))


def _settings(header: Mapping[str, Any], name: str, version: str) -> dict[str, Any]:
    evaluation, plan = header["eval"], header.get("plan") or {}
    config = evaluation.get("config") or {}
    steps = [{"solver": step.get("solver"), "params": step.get("params")} for step in plan.get("steps") or []]
    settings = {
        "tasks": [name],
        "importer": "inspect_ai",
        "engine": f"inspect_ai {str(evaluation.get('model')).partition('/')[0]}",
        "scorer": f"inspect_ai {version}",
        "num_fewshot": None,
        "limit": config.get("limit"),
        "seed": 0,
        "epochs": config.get("epochs"),
        "task_args": evaluation.get("task_args") or {},
        "generate_config": (plan.get("config") or {}) | (evaluation.get("model_generate_config") or {}),
        "solver": steps,
    }
    return json.loads(json.dumps(settings, default=str))


def _time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _seconds(stats: Mapping[str, Any]) -> float | None:
    begin, end = _time(stats.get("started_at")), _time(stats.get("completed_at"))
    return end - begin if begin is not None and end is not None else None
