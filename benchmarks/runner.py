"""Run tasks through lm-eval once, and turn its samples into item scores and task results. Knows no disk and no engine.

lm-eval makes the prompts, applies filters and per-item metrics; pairing, ties, clusters and intervals are ours.
`samples=` is only ever given ascending indices from 0: in any other order lm-eval attaches ids to the wrong documents.
"""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalog import TaskCard
from benchmarks.items import LeafItems, read_items
from benchmarks.library import expand_name
from benchmarks.lm import EngineLM
from benchmarks.results import build_result
from benchmarks.robustness import share_groups
from benchmarks.suite import SuiteTask, build_tasks, card_of, load_suite
from benchmarks.variants import MOST, Variation, vary
from workbench.errors import RunError, TaskError, WorkbenchError
from workbench.records import ItemScore, TaskResult

LM_EVAL_SHOT_SEED = 1234
"""lm-eval's own default, so that seed 0 draws the shots that lm-eval draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One result of a report to be: a task, or a group of tasks pooled over its leaves."""

    name: str
    card: TaskCard
    """With the suite's role, margin, required and metric where it has its own."""
    leaves: tuple[str, ...]
    is_group: bool
    prompts: int | None = None
    """Its leaves are the same questions in so many prompts."""
    is_probe: bool = False
    """Its leaves ask without the question."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run: entries, and each leaf task once with the most items that any entry asks for."""

    entries: tuple[Entry, ...]
    leaves: Mapping[str, Any]
    """Leaf name -> lm_eval Task."""
    limits: Mapping[str, int]
    """Leaf name -> items, where fewer than all."""
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What could not be planned as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run gives: results in the order of the entries, items in the order of the leaves."""

    results: tuple[TaskResult, ...]
    items: tuple[ItemScore, ...]


def build_plan(
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[str] = (),
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    seed: int = 0,
    variants: int | None = None,
    choices_only: bool = False,
    include_path: Iterable[str | Path] = (),
    data: Path | str | None = None,
) -> Plan:
    """Load suites and tasks. Options given here win over a suite's own. A task named twice is run once.

    `variants` and `choices_only` are asked of every task that can be varied; a note names the others.
    Raises TaskError: unknown names, nothing to run, one task asked with different numbers of shots, or variants of a
    task that has none where its suite asks for them (or of all tasks).
    """
    include_path = list(include_path)
    wanted: list[tuple[str, SuiteTask | None]] = [
        (task.task, task) for name in suites for task in load_suite(name, include_path).tasks
    ]
    single = [name for asked in tasks for name in expand_name(asked, include_path)]
    wanted += [(name, None) for name in single if name not in {known for known, _ in wanted}]
    if not wanted:
        raise TaskError("nothing to run: name a suite (--suite) or tasks (--tasks a,b)")
    # Some of lm-eval's tasks shuffle choices with the global generators while they load.
    random.seed(seed)  # noqa: TID251
    np.random.seed(seed)  # noqa: TID251, NPY002
    entries: list[Entry] = []
    leaves: dict[str, Any] = {}
    limits: dict[str, list[int | None]] = {}
    more = _Variations(variants, choices_only)
    for name, settings in dict.fromkeys(wanted):
        shots = settings.num_fewshot if settings and num_fewshot is None else num_fewshot
        most = settings.limit if settings and limit is None else limit
        built = build_tasks([name], num_fewshot=shots, include_path=include_path, data=data)[name]
        own = _leaves(built)
        if name not in {entry.name for entry in entries}:
            is_group = list(own.values()) != [built]
            entry = Entry(name=name, card=_card(built, name, settings), leaves=tuple(own), is_group=is_group)
            found = more.of(entry, own, settings)
            varied = [_varied(entry, one, settings) for one in found]
            if any(one.card.required for one in varied):
                # The mean over prompts must be kept; the first prompt alone would be a second hurdle.
                entry = replace(entry, card=replace(entry.card, required=False))
            entries += [entry, *varied]
            own = own | {leaf: task for one in found for leaf, task in one.leaves.items()}
        for leaf, task in own.items():
            _check_runnable(leaf, task)
            _check_same_shots(leaf, task, leaves.get(leaf))
            leaves.setdefault(leaf, task)
            limits.setdefault(leaf, []).append(_count(task, most))
    numbers = {leaf: max(n for n in asked if n) for leaf, asked in limits.items() if None not in asked}
    return Plan(entries=tuple(entries), leaves=leaves, limits=numbers, seed=seed, notes=more.notes())


def run_plan(
    lm: EngineLM,
    plan: Plan,
    *,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
) -> Outcome:
    """Evaluate every leaf in one call of lm-eval, then score.

    Raises RunError where the model or a task's own code fails; what was computed before is in the ledger.
    """
    import lm_eval

    evaluate: Any = lm_eval.evaluate
    # A range answers `in` at once, where lm-eval's list of indices would be searched for every document.
    samples: Any = {name: range(n) for name, n in plan.limits.items()} or None
    _reset_shots(plan)
    try:
        with quiet():
            evaluated = evaluate(
                lm,
                {"tasks": dict(plan.leaves)},
                samples=samples,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                system_instruction=system_instruction,
            )
    except (WorkbenchError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"lm-eval: {reason[:300]}; what was computed is kept") from error
    items = {name: read_items(task, evaluated["samples"][name], lm.facts) for name, task in plan.leaves.items()}
    items = share_groups(items)
    return Outcome(
        results=tuple(_result(entry, plan, items, lm) for entry in plan.entries),
        items=tuple(score for leaf in items.values() for score in leaf.scores),
    )


def build_requests(lm: EngineLM, plan: Plan, *, apply_chat_template: bool = False) -> dict[str, list[Any]]:
    """lm-eval Instances of every leaf, by request type, as `run_plan` would ask them; nothing is computed."""
    instances: dict[str, list[Any]] = {}
    _reset_shots(plan)
    with quiet():
        for name, task in plan.leaves.items():
            task.build_all_requests(
                samples=range(plan.limits[name]) if name in plan.limits else None,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                chat_template=lm.apply_chat_template if apply_chat_template else None,
                tokenizer_name=lm.tokenizer_name if apply_chat_template else "",
            )
            for instance in task.instances:
                instances.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    return instances


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and advice off stderr, which is for our own talk."""
    import lm_eval.api.task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda iterable, **_: iterable
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar


def _card(built: Any, name: str, settings: SuiteTask | None) -> TaskCard:
    """The task's own card, with what the suite says otherwise."""
    card = replace(card_of(built), name=name)
    if settings is None:
        return card
    own = {field: getattr(settings, field) for field in ("role", "margin", "required")}
    return replace(card, **own, metric=settings.metric or card.metric)


class _Variations:
    """What is asked of tasks besides themselves, and which tasks have no such thing."""

    def __init__(self, variants: int | None, choices_only: bool) -> None:
        if variants is not None and not 2 <= variants <= MOST:
            raise TaskError(f"--variants {variants}: 2 to {MOST} are possible, the task itself among them")
        self._asked = (variants, choices_only)
        self._varied = False
        self._fixed: dict[str, list[str]] = {}

    def of(self, entry: Entry, leaves: Mapping[str, Any], settings: SuiteTask | None) -> list[Variation]:
        """More results of one task. Raises TaskError where its suite asks and it has none."""
        own = (settings.variants, settings.choices_only) if settings else (None, False)
        variants, choices_only = self._asked[0] or own[0] or 1, self._asked[1] or own[1]
        found: list[Variation] = []
        for count, blind in ((variants, False), (1, choices_only)):
            try:
                found += vary(leaves, variants=count, choices_only=blind)
            except TaskError as error:
                if any(own):
                    raise
                fixed = self._fixed.setdefault(str(error).split(": ", 1)[1], [])
                fixed += [entry.name] if entry.name not in fixed else []
        self._varied = self._varied or bool(found)
        return found

    def notes(self) -> tuple[str, ...]:
        """A line for each reason why tasks are asked in their own way alone. Raises TaskError: all of them are."""
        lines = tuple(f"{', '.join(names)}: {why}" for why, names in self._fixed.items())
        if lines and not self._varied:
            raise TaskError("\n".join(lines))
        return lines


def _varied(entry: Entry, more: Variation, settings: SuiteTask | None) -> Entry:
    """The entry of a variation: required in place of the task where the suite itself asks for it, else advisory."""
    required = entry.card.required and more.prompts is not None and bool(settings and settings.variants)
    name = entry.name + more.suffix
    return Entry(
        name=name,
        card=replace(entry.card, name=name, required=required),
        leaves=tuple(more.leaves),
        is_group=entry.is_group or more.prompts is not None,
        prompts=more.prompts,
        is_probe=more.prompts is None,
        notes=more.notes,
    )


def _reset_shots(plan: Plan) -> None:
    """Samplers go on where the last run stopped: without this a second checkpoint would see other shots."""
    for task in plan.leaves.values():
        task.set_fewshot_seed(LM_EVAL_SHOT_SEED + plan.seed)


def _leaves(built: Any) -> dict[str, Any]:
    tasks = built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]
    return {task.task_name: task for task in tasks}


def _check_runnable(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"task {name}: it runs code that the model wrote, which the workbench does not do; leave it out"
        )
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task {name}: it asks about images or sound, and engines here read text; leave it out")


def _check_same_shots(name: str, task: Any, other: Any) -> None:
    if other is not None and other.config.num_fewshot != task.config.num_fewshot:
        raise TaskError(
            f"task {name}: asked with {other.config.num_fewshot} and with {task.config.num_fewshot} shots; "
            "give --num-fewshot, or run the suites one after the other"
        )


def _count(task: Any, limit: int | float | None) -> int | None:
    """Items to take; None for all. A limit below 1 is a share, as in lm-eval."""
    if limit is None:
        return None
    if limit <= 0:
        raise TaskError(f"--limit: must be above 0, got {limit}")
    rows = len(task.eval_docs)
    return min(rows, int(np.ceil(rows * limit)) if limit < 1 else int(limit))


def _result(entry: Entry, plan: Plan, items: Mapping[str, LeafItems], lm: EngineLM) -> TaskResult:
    task = plan.leaves[entry.leaves[0]]
    result = build_result(
        entry.card,
        {name: items[name] for name in entry.leaves},
        num_fewshot=int(task.config.num_fewshot or 0),
        version=str(task.VERSION if task.VERSION is not None else entry.card.version),
        window=lm.engine.max_length,
        is_group=entry.is_group,
        seed=plan.seed,
        prompts=entry.prompts,
        is_probe=entry.is_probe,
    )
    return replace(result, notes=(*result.notes, *entry.notes))
