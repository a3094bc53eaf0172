"""`workbench review export` and `import`: Argilla, Label Studio and ROOST's taxonomy."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from workbench.cli.output import print_json, say
from workbench.cli.policies import AsJson, Folders, open_library
from workbench.cli.review import ProjectFolder, QueueName, open_queue
from workbench.errors import ConfigError

Form = Literal["argilla", "label-studio", "roost"]


def export(
    out: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    form: Annotated[Form, typer.Option("--format", help="argilla, label-studio, or roost for a policy's categories.")],
    queue: QueueName = "default",
    policy: Annotated[str, typer.Option(help="Policy whose categories are written (roost).")] = "default",
    folder: Folders = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a queue's labels for Argilla or Label Studio, or a policy's categories as ROOST's taxonomy.

    People are pseudonyms and gold is left out; each export of labels is a row of the audit.

    Examples:
        workbench review export labels.json --format argilla
        workbench review export tasks.json --format label-studio --queue acme/history
        workbench review export harm_taxonomy.yaml --format roost --policy default
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name a new file")
    if form == "roost":
        import yaml

        from safety.review.exchange import roost_taxonomy

        taxonomy = roost_taxonomy(open_library(folder, None).load(policy))
        _write(out, yaml.safe_dump(taxonomy, sort_keys=False, allow_unicode=True))
        count, what = len(taxonomy["categories"]), "categories"
    else:
        from safety.review.exchange import export_labels
        from workbench.cli.projects import find_project

        with find_project(project) as home:
            work, operator = open_queue(home)
            documents = export_labels(work, operator, queue, form)
        _write(out, json.dumps(documents, indent=1))
        count, what = len(documents), "labelled items"
    if as_json:
        print_json({"file": out, "format": form, what.replace(" ", "_"): count})
    else:
        say(f"wrote {out}: {count:,} {what}")


def import_(
    source: Annotated[Path, typer.Argument(help="File that Argilla, Label Studio or ROOST's template is in.")],
    form: Annotated[Form, typer.Option("--format", help="argilla, label-studio, or roost for a draft of a policy.")],
    queue: QueueName = "default",
    policy: Annotated[str, typer.Option(help="Policy whose rules people read: a name or a file.")] = "default",
    gold: Annotated[
        bool, typer.Option("--gold", help="Items whose people all gave the same answer measure reviewers here.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Policy file to write (roost).")] = None,
    folder: Folders = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put texts of another tool into the queue, or draft a policy from ROOST's taxonomy.

    Answers that people gave there were given under other rules, so they become no labels here.

    Examples:
        workbench review import records.json --format argilla --policy default
        workbench review import tasks.json --format label-studio --gold
        workbench review import harm_taxonomy.yaml --format roost --out policies/ours.yaml
    """
    if form == "roost":
        _import_taxonomy(source, out, as_json)
        return
    from safety.review.exchange import rows_of
    from safety.review.queue import queue_id
    from workbench.cli.projects import find_project
    from workbench.reviewing import add_file

    rows = list(rows_of(_read_json(source), form, gold=gold))
    resolved = open_library(folder, None).load(policy)
    tenant, _, name = (place := queue_id(queue)).partition("/")
    with tempfile.TemporaryDirectory() as scratch, find_project(project, create=True) as home:
        work, operator = open_queue(home)
        file = Path(scratch) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read, added = add_file(work, operator, file, resolved, tenant=tenant, name=name)
    known = sum(row.get("stratum") == "gold" for row in rows)
    if as_json:
        print_json({"queue": place, "rows": read, "added": added, "gold": known})
    else:
        say(f"{place}: {added:,} new of {read:,} texts, {known:,} of them with a known answer")


def _import_taxonomy(source: Path, out: Path | None, as_json: bool) -> None:
    import yaml

    from safety.review.exchange import policy_from_roost
    from workbench.config import read_yaml

    if out is None:
        raise ConfigError("--out: name the policy file to write, such as policies/ours.yaml")
    if out.exists():
        raise ConfigError(f"{out}: exists already; name a new file")
    draft = policy_from_roost(read_yaml(source), name=out.stem.lower())
    _write(out, yaml.safe_dump(draft, sort_keys=False, allow_unicode=True))
    if as_json:
        print_json({"file": out, "categories": list(draft["categories"])})
        return
    say(f"wrote {out}: {len(draft['categories'])} categories, all for review")
    say(f"next: add judges and test rows; what is missing says workbench policy check {out}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
