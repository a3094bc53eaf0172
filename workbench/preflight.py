"""All that is checked before a run: by its recipe, its data, its model, and the suites that will judge it.

Brings together what siblings know: `training.preflight` knows recipes and models, `benchmarks.overlap` knows questions.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.references import include_folders

if TYPE_CHECKING:
    from benchmarks.contamination import Hit
    from benchmarks.overlap import Asked
    from training.preflight import Finding, Measured
    from training.recipe import Recipe
    from training.sources import RowDocuments
    from workbench.runs import PreparedRun
    from workbench.store import Project

SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Preflight:
    """What was found, and what two real steps took where they were made."""

    findings: "tuple[Finding, ...]"
    measured: "Measured | None" = None


def check_evaluation(
    recipe: "Recipe", sources: "Mapping[str, RowDocuments]", project: "Project", *, goes_on: bool = False
) -> "list[Finding]":
    """Do the sources hold what the suites ask, or come from where they come from?

    `goes_on`: the run was checked when it began; rows that it left out are left out again.

    Where the recipe says `on_overlap: drop`, rows that hold questions are left out of the sources here. Raises
    TaskError: unknown suites or tasks, or rows that cannot be had.
    """
    from benchmarks.overlap import load_asked
    from training.preflight import Finding
    from training.sources import check_not_empty
    from workbench.config import data_folder

    suites, tasks = _asked_names(recipe)
    if (not suites and not tasks) or (goes_on and recipe.on_overlap != "drop"):
        return []
    data = data_folder(project.config, root=project.root)
    asked = load_asked(suites, tasks, include_path=include_folders(project), data=data)
    findings = _shared_sources(recipe, sources, asked, project)
    if recipe.on_overlap == "allow":
        text = "on_overlap: allow, so nobody looked for the suites' questions in the sources"
        return [*findings, Finding(check="overlap", level="warning", text=text)]
    required = [task for task in asked if task.required and task.items]
    hits = _overlap(sources, required)
    found = [_overlap_finding(recipe, sources[name], of, required) for name, of in hits.items() if of]
    if recipe.on_overlap == "drop":
        for name, of in hits.items():
            sources[name].leave_out({hit.row: "evaluation" for hit in of})
        check_not_empty(sources)
    questions = sum(len(task.items) for task in required)
    text = f"no source holds any of the {questions:,} questions of the {len(required)} required tasks"
    return [*findings, *(found or [Finding(check="overlap", level="ok", text=text)])]


def check_model(prepared: "PreparedRun", *, steps: bool) -> Preflight:
    """What only the model can show: that packed documents do not see each other, memory, and (steps) time.

    Raises ConfigError: a model that training here does not know.
    """
    from training.new_model import check_start_loss
    from training.options import NewModel
    from training.preflight import check_leak, check_memory, first_rows, free_memory, measure_steps
    from training.start import load_model
    from workbench.engines.convert import quiet_transformers

    recipe = prepared.recipe
    available = free_memory()
    with quiet_transformers():
        model = load_model(recipe, prepared.start_folder)
        has_rows = recipe.rl is None or bool(recipe.mix)
        rows = first_rows(recipe, prepared.sources, pad=prepared.tokenizer.eos_token_id) if has_rows else []
        weights = list(model.parameters())
        count = sum(one.numel() for one in weights)
        trained = sum(one.numel() for one in weights if one.requires_grad)
        findings = [check_memory(count, available, trained=trained)]
        if rows:
            findings.append(check_leak(model, rows))
        if rows and isinstance(recipe.start, NewModel):
            findings.append(check_start_loss(model, rows))
        if not steps or not rows or recipe.rl is not None or any(one.level == "refused" for one in findings):
            return Preflight(findings=tuple(findings))
        return Preflight(findings=tuple(findings), measured=measure_steps(recipe, prepared.plan, model, rows))


def _asked_names(recipe: "Recipe") -> tuple[list[str], list[str]]:
    """Suites and tasks of the end, and those that watch the run."""
    asked = [recipe.evaluation, *([recipe.control] if recipe.control else [])]
    suites = dict.fromkeys(name for one in asked for name in one.suites)
    return list(suites), list(dict.fromkeys(name for one in asked for name in one.tasks))


def _shared_sources(
    recipe: "Recipe", sources: "Mapping[str, RowDocuments]", asked: "Sequence[Asked]", project: "Project"
) -> "list[Finding]":
    """A retained task whose questions come from where the training data comes from gives a false all-clear."""
    from benchmarks.overlap import shares_source
    from training.preflight import Finding
    from workbench.config import data_folder

    data = data_folder(project.config, root=project.root)
    replay = {s.name for s in recipe.mix if s.role == "replay"}
    replay |= set(recipe.control.replay_sources) if recipe.control else set()
    findings: list[Finding] = []
    for task in (task for task in asked if task.role != "domain"):
        for name, documents in sources.items():
            written = str(documents.record(0).get("written_by") or "")
            why = shares_source(task, address=documents.path, data=data, written_by=written)
            if not why:
                continue
            cure = "take another source for the replay, or another retained suite"
            text = (
                f"retained task {task.task} and source {name!r} share their source ({why}): it would look kept "
                f"whatever else is forgotten; {cure}"
            )
            findings.append(Finding(check="replay", level="refused" if name in replay else "warning", text=text))
    return findings


def _overlap(sources: "Mapping[str, RowDocuments]", asked: "Sequence[Asked]") -> "dict[str, list[Hit]]":
    from benchmarks.overlap import find_overlap

    found: dict[str, list[Any]] = {}
    for name, documents in sources.items():
        rows = ((name, row, "\n".join(documents.texts(row))) for row in range(len(documents)))
        found[name] = find_overlap(asked, rows)
    return found


def _overlap_finding(
    recipe: "Recipe", documents: "RowDocuments", hits: "Sequence[Hit]", asked: "Sequence[Asked]"
) -> "Finding":
    """Questions that stand in the data can move a score by as much as their share: above the margin it says nothing."""
    from training.preflight import Finding

    found = Counter(item.partition(": ")[0] for item in {hit.item for hit in hits})
    spoilt, shares = False, []
    for task in (task for task in asked if found[task.task]):
        share = found[task.task] / len(task.items)
        spoilt |= share > task.margin
        shares.append(
            f"{found[task.task]:,} of {len(task.items):,} questions of {task.task} (margin {task.margin:.0%})"
        )
    rows = {hit.row: hit for hit in hits}
    shown = "; ".join(f"row {documents.number(row)}: {hit.item} ({hit.excerpt[:60]})" for row, hit in _first(rows))
    text = f"source {documents.name!r}: {len(rows):,} of {len(documents):,} rows hold {', '.join(shares)}: {shown}"
    if recipe.on_overlap == "drop":
        return Finding(check="overlap", level="warning", text=f"{text}; they are left out")
    cure = "set on_overlap: drop to leave these rows out, or evaluate on other questions"
    return Finding(check="overlap", level="refused" if spoilt else "warning", text=f"{text}; {cure}")


def _first(rows: "Mapping[int, Hit]") -> "list[tuple[int, Hit]]":
    return sorted(rows.items())[:SHOWN]
