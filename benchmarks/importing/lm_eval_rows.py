"""Rows of lm-eval's samples files as lm-eval held them in memory. Knows its JSON; knows no metric's interval.

lm-eval writes answers and targets as text and arguments as mappings. Turned back, a row has the same item hash as in
our own runs, wherever the document is plain JSON (all rows of hub data sets are) and the target is a number, a text or
a list: `multiple_choice`, `generate_until` and `loglikelihood` tasks of lm-eval's are.
"""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.items import choice_values, gold_indices, share_credit
from workbench.errors import LogError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedTask:
    """What `benchmarks.items` asks of an lm-eval task, answered from the log's copy of its configuration."""

    task_name: str
    config: Any
    aggregations: Mapping[str, Callable[[list[Any]], float]]
    directions: Mapping[str, bool]

    @classmethod
    def of(
        cls,
        name: str,
        config: Mapping[str, Any],
        aggregations: Mapping[str, Callable[[list[Any]], float]],
        directions: Mapping[str, bool],
        cluster: str | None,
    ) -> "LoggedTask":
        """From `configs[name]` of a results file; `cluster` is the documents' column that names their group."""
        metadata = dict(config.get("metadata") or {})
        own = dict(metadata.get("workbench") or {})
        if cluster is not None:
            own["cluster"] = cluster
        known = {**config, "metadata": {**metadata, "workbench": own}, "process_results": None}
        return cls(task_name=name, config=SimpleNamespace(**known), aggregations=aggregations, directions=directions)

    @property
    def OUTPUT_TYPE(self) -> str:
        """Kind of request; the name is lm-eval's."""
        return str(self.config.output_type)

    def aggregation(self) -> Mapping[str, Callable[[list[Any]], float]]:
        """Metric -> how its items make the task's number."""
        return self.aggregations

    def higher_is_better(self) -> Mapping[str, bool]:
        """Metric -> direction."""
        return self.directions


def restore_rows(samples: Path, rows: Sequence[Row], config: Mapping[str, Any], *, chat_template: bool) -> list[Row]:
    """Rows with arguments, answers and target as lm-eval held them, and with the choices that they offered.

    Raises LogError: an answer that is no number where one is needed (a model that gave NaN).
    """
    kind = str(config.get("output_type"))
    restored: list[Row] = []
    for number, row in enumerate(rows, 1):
        try:
            arguments = [list(own.values()) for own in row["arguments"].values()]
            answers = _answers(row["resps"], kind)
        except (AttributeError, ValueError, TypeError, IndexError):
            raise LogError(f"{samples}: line {number}: arguments or answers are not as lm-eval writes them") from None
        if any(math.isnan(value) for value in _numbers(answers, kind)):
            raise LogError(
                f"{samples}: line {number}: a log-probability is NaN; the model is broken, or its dtype too small"
            )
        target = _target(row, config, kind)
        full = {**row, "arguments": arguments, "resps": answers, "target": target}
        full["offered"] = _offered(full, config, kind, chat_template=chat_template)
        restored.append(full)
    return restored


def _answers(resps: Any, kind: str) -> list[list[Any]]:
    if kind in ("multiple_choice", "loglikelihood"):
        return [[(float(logprob), str(greedy) == "True") for logprob, greedy in own] for own in resps]
    if kind == "loglikelihood_rolling":
        return [[float(logprob[0] if isinstance(logprob, list) else logprob) for logprob in own] for own in resps]
    if not resps or not resps[0]:
        raise ValueError("no answer")
    return [list(own) for own in resps]


def _numbers(answers: Sequence[Sequence[Any]], kind: str) -> list[float]:
    if kind in ("multiple_choice", "loglikelihood"):
        return [own[0][0] for own in answers]
    return [own[0] for own in answers] if kind == "loglikelihood_rolling" else []


def _target(row: Row, config: Mapping[str, Any], kind: str) -> Any:
    """The target before lm-eval made text of it; text where nothing else is known."""
    text, how, doc = row["target"], config.get("doc_to_target"), row["doc"]
    if not isinstance(text, str):
        return text
    known = [how] if isinstance(how, list | int) else []
    if isinstance(how, str) and isinstance(doc, dict) and how in doc:
        known.append(doc[how])
    for value in known:
        if str(value) == text:
            return value
    if kind == "multiple_choice" and text.removeprefix("-").isdecimal():
        return int(text)
    if text[:1] == "[" and text[-1:] == "]":
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text


def _offered(
    row: Row, config: Mapping[str, Any], kind: str, *, chat_template: bool
) -> tuple[list[str], set[int]] | None:
    """Texts of the choices and indices of the right ones, if they give the logged scores; None where they do not."""
    if kind != "multiple_choice" or config.get("process_results"):
        return None
    arguments = row["arguments"]
    if "acc_mutual_info" in row["metrics"]:
        arguments = arguments[: len(arguments) // 2]
    contexts, endings = [str(own[0]) for own in arguments], [str(own[1]) for own in arguments]
    logprobs = [own[0][0] for own in row["resps"]]
    if len(set(endings)) == 1 and len(set(contexts)) > 1:
        texts, target = contexts, _target_of_contexts(row, logprobs)
    else:
        # With a chat template lm-eval leaves the delimiter out, unless a prefix of the answer precedes it.
        delimiter = str(config.get("target_delimiter", " ")) if not chat_template or config.get("gen_prefix") else ""
        texts, target = [ending.removeprefix(delimiter) for ending in endings], row["target"]
    if target is None or not texts or not all(texts):
        return None
    try:
        gold = gold_indices(target, texts)
    except (TypeError, ValueError):
        return None
    return (texts, gold) if _explains(row, logprobs, texts, gold) else None


def _target_of_contexts(row: Row, logprobs: Sequence[float]) -> int | None:
    """Where the choices stand in the contexts, the log does not say which is right; of two, the score does."""
    if "acc" not in row["metrics"]:
        return None
    best = max(range(len(logprobs)), key=lambda i: logprobs[i])
    if row["acc"] == 1:
        return best
    return 1 - best if len(logprobs) == 2 else None


def _explains(row: Row, logprobs: Sequence[float], texts: Sequence[str], gold: set[int]) -> bool:
    """Do these choices give the logged value of each metric? Ties aside, whose credit we share and lm-eval does not."""
    if len(logprobs) not in (len(texts), 2 * len(texts)):
        return False
    for metric, values in choice_values(logprobs, texts).items():
        if metric in row["metrics"]:
            credit = share_credit(values.tolist(), gold)
            if credit in (0.0, 1.0) and credit != row[metric]:
                return False
    return True
