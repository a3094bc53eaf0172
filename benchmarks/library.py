"""Tasks of any origin, by name: shipped, in the folders of `include_path`, or lm-eval's own.

Shipped names go first, then the folders, and only then lm-eval's 14,000 names, which take seconds to list.
`lm_eval:NAME` goes straight to lm-eval. Knows no model and no suite.
"""

import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.build import build_shipped
from benchmarks.catalog import TaskCard, expand_forms, is_shipped, shipped_card, shipped_tasks
from workbench.errors import TaskError, did_you_mean

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

LM_EVAL = "lm_eval:"


def task_folders(include_path: Iterable[str | Path]) -> list[Path]:
    """Return the folders of `include_path` as paths; raises TaskError for one that is not there."""
    paths = [include_path] if isinstance(include_path, str | Path) else list(include_path)
    # A project's include_path also names Python files, which hold plug-ins and no tasks.
    folders = [Path(path).expanduser() for path in paths if Path(path).suffix != ".py"]
    for folder in folders:
        if not folder.is_dir():
            raise TaskError(f"--include-path {folder}: no such folder")
    return folders


def list_tasks(include_path: Iterable[str | Path] = ()) -> list[str]:
    """Return the names of shipped tasks and of those in the folders of `include_path`; not lm-eval's own."""
    folders = task_folders(include_path)
    return shipped_tasks() + (list(_manager(tuple(folders)).all_tasks) if folders else [])


@functools.lru_cache(maxsize=8)
def _manager(folders: tuple[Path, ...], *, defaults: bool = False) -> "TaskManager":
    from lm_eval.tasks import TaskManager

    import benchmarks.lm_task  # noqa: F401  (compiles each template once)

    return TaskManager(include_defaults=defaults, include_path=list(folders) or None)


def _locate(name: str, include_path: Iterable[str | Path]) -> tuple[str, str]:
    """Return (origin, bare name); raises TaskError with near names."""
    if name.startswith(LM_EVAL):
        bare = name.removeprefix(LM_EVAL)
        if bare in _manager((), defaults=True).task_index:
            return "lm_eval", bare
        raise TaskError(
            f"task {name!r}: lm-eval has no {bare!r}; {did_you_mean(bare, _manager((), defaults=True).all_tasks)}"
        )
    folders = tuple(task_folders(include_path))
    included = bool(folders) and name in _manager(folders).task_index
    if is_shipped(name):
        if included:
            raise _clash(name)
        return "workbench", name
    if included:
        return "include", name
    everything = _manager((), defaults=True)
    if name in everything.task_index:
        return "lm_eval", name
    known = [*list_tasks(include_path), *everything.all_tasks]
    raise TaskError(f"task {name!r}: unknown; {did_you_mean(name, known)}")


def expand_name(name: str, include_path: Iterable[str | Path] = ()) -> list[str]:
    """Return the entries that a name stands for.

    A question set in several forms (`mmlu`, or a group made by `workbench task new`) is one entry for each form: they
    have different metrics, and pooling them would say nothing.
    """
    forms = expand_forms(name)
    folders = tuple(task_folders(include_path))
    entry = _manager(folders).task_index.get(name) if folders else None
    if entry is None:
        return forms
    if forms != [name] or is_shipped(name):
        raise _clash(name)
    own = ((entry.cfg or {}).get("metadata") or {}).get("workbench") or {}
    return list(own.get("entries") or [name])


def _clash(name: str) -> TaskError:
    return TaskError(f"task {name!r}: it ships with the workbench and is also in --include-path; rename yours")


def build_tasks(
    names: Sequence[str],
    *,
    num_fewshot: int | None = None,
    include_path: Iterable[str | Path] = (),
    data: Path | str | None = None,
) -> dict[str, "Task | Group"]:
    """Build lm-eval tasks, ready for `lm_eval.evaluate`, by name.

    A name may stand for a Group with many leaf tasks (`mmlu_letter`). `num_fewshot` overrides every task's own number.
    Raises TaskError for an unknown name (with near ones), missing rows, or more shots than there are rows for them.
    """
    built: dict[str, Task | Group] = {}
    for name in dict.fromkeys(names):
        origin, bare = _locate(name, include_path)
        if origin == "workbench":
            built[name] = build_shipped(bare, num_fewshot=num_fewshot, data=data)
        else:
            folders = () if origin == "lm_eval" else tuple(task_folders(include_path))
            manager = _manager(folders, defaults=origin == "lm_eval")
            built[name] = _mark(_build_foreign(bare, manager, num_fewshot), origin)
    return built


def _build_foreign(name: str, manager: "TaskManager", num_fewshot: int | None) -> "Task | Group":
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)  # lm-eval advises on each task that brings its own rows
    try:
        loaded = manager.load([name])
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"task {name!r}: lm-eval cannot load it: {reason}") from error
    finally:
        logger.setLevel(level)
    for task in loaded["tasks"].values():
        if num_fewshot is not None or task.config.num_fewshot is None:
            task.set_config("num_fewshot", num_fewshot or 0)
        if num_fewshot and len(pool := list(task.fewshot_docs() or [])) < num_fewshot:
            raise TaskError(
                f"task {task.task_name!r}: {num_fewshot} shots asked, {len(pool)} few-shot rows there; "
                "lower --num-fewshot"
            )
        task.set_fewshot_seed(1234)
    if (group := loaded.get("groups", {}).get(name)) is not None:
        return group
    if (task := loaded["tasks"].get(name)) is not None:
        return task
    # A tag is a list of tasks; as one entry of a suite it is pooled like a group.
    group = Group(name=name)
    for task in loaded["tasks"].values():
        group.add(task)
    assert all(isinstance(task, Task) for task in group)
    return group


def _mark(built: "Task | Group", origin: str) -> "Task | Group":
    """Write into the metadata where a task comes from, for its card."""
    from lm_eval.api.group import Group

    leaves = built.get_all_tasks() if isinstance(built, Group) else [built]
    for holder in [*(leaf.config for leaf in leaves), *([built] if isinstance(built, Group) else [])]:
        metadata = holder.metadata or {}
        holder.metadata = metadata | {"workbench": {"source": origin} | (metadata.get("workbench") or {})}
    return built


def task_card(name: str, include_path: Iterable[str | Path] = ()) -> TaskCard:
    """Return the card of a task of any origin, without loading its rows; raises TaskError for an unknown name."""
    origin, bare = _locate(name, include_path)
    if origin == "workbench":
        return shipped_card(bare)
    manager = _manager(() if origin == "lm_eval" else tuple(task_folders(include_path)), defaults=origin == "lm_eval")
    entry = manager.task_index[bare]
    config = dict(entry.cfg or {})
    if entry.yaml_path is not None:
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(entry.yaml_path, resolve_func=False)
    return _card_from(name, config, origin)


def card_of(task: Any) -> TaskCard:
    """Return the card of a built Task or Group, with the chance level of its rows."""
    config = getattr(task, "config", None)
    metadata = (task.metadata if config is None else config.metadata) or {}
    origin = (metadata.get("workbench") or {}).get("source", "lm_eval")
    if config is not None:
        return _card_from(task.task_name, vars(config), origin)
    inner = card_of(task.get_all_tasks()[0])
    return _card_from(task.name, {"metadata": metadata, "metric_list": [{"metric": inner.metric}]}, origin)


def _card_from(name: str, config: dict[str, Any], origin: Any) -> TaskCard:
    """Infer a card from an lm-eval configuration; `metadata.workbench` overrides what is inferred."""
    metadata = config.get("metadata") or {}
    metrics = [m for m in config.get("metric_list") or [] if isinstance(m.get("metric"), str)]
    names = [m["metric"] for m in metrics]
    headline = next((n for n in ("acc_norm", "acc", "exact_match", "bits_per_byte") if n in names), None)
    headline = headline or (names[0] if names else "acc")
    filters = [f["name"] for f in config.get("filter_list") or []]
    higher = next((m.get("higher_is_better", True) for m in metrics if m["metric"] == headline), True)
    lower = higher is False or headline in ("bits_per_byte", "word_perplexity", "byte_perplexity", "perplexity")
    known: dict[str, Any] = {
        "name": name,
        "title": str(config.get("task_alias") or name),
        "role": "domain" if origin == "include" else "general",
        "margin": 0.02,
        "required": True,
        "metric": f"{headline},{filters[0]}" if filters else headline,
        "direction": "lower" if lower else "higher",
        "chance": None,
        "form": str(config.get("output_type") or "group"),
        "num_fewshot": int(config.get("num_fewshot") or 0),
        "cluster": None,
        "dataset": str(config.get("dataset_path") or ""),
        "licence": "",
        "language": "",
        "source": origin,
        "version": str(metadata.get("version", "")),
    }
    own = metadata.get("workbench") or {}
    return TaskCard(**(known | {key: value for key, value in own.items() if key in known and key != "name"}))


def group_of(task: Any, doc: Any) -> str | None:
    """Return the cluster of a document (its passage, article, product), or None where items are independent.

    `task` is a built Task or the name of a shipped one.
    """
    cluster = shipped_card(task).cluster if isinstance(task, str) else card_of(task).cluster
    value = doc.get(cluster) if cluster and isinstance(doc, dict) else None
    return None if value is None else str(value)
