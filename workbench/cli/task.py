"""`workbench task new` and `workbench task check`: a file of questions becomes a task, and a task is looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_facts, print_json, print_table, say

if TYPE_CHECKING:
    from benchmarks.author import Authored, Draft, Options
    from benchmarks.check import Check
    from benchmarks.contamination import Contamination
    from benchmarks.lint import Lint

SHOWN = 20
"""Warnings and examples that are printed; --json has all."""

Field = Annotated[list[str] | None, typer.Option("--field", help="OURS=COLUMN where a column has a name of its own.")]
Kind = Annotated[
    str | None, typer.Option("--type", help="choice, ranking, retrieval, extraction, short or text, for all rows.")
]
Answers = Annotated[
    str | None, typer.Option(help="How answers are written: letter, text, index0 or index1 (default: found out).")
]
Encoding = Annotated[str, typer.Option(help="Encoding of the file.")]


def new(
    name: Annotated[str, typer.Argument(help="Name of the task: small letters, digits, _.", show_default=False)],
    source: Annotated[
        Path, typer.Option("--from", help="CSV, TSV, JSONL, JSON or Parquet of questions.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: tasks/NAME).")] = None,
    field: Field = None,
    kind: Kind = None,
    answers: Answers = None,
    encoding: Encoding = "utf-8-sig",
    shots: Annotated[
        int | None, typer.Option(min=0, help="Few-shot examples (default: 5 if there are enough).")
    ] = None,
    title: Annotated[str, typer.Option(help="Title in reports.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the questions.")] = "",
    language: Annotated[str, typer.Option(help="Language code, such as en or ja.")] = "",
    margin: Annotated[float, typer.Option(min=0.001, max=1.0, help="Loss that still counts as kept.")] = 0.03,
    judge: Annotated[str, typer.Option(help="Registered judge that also scores generated texts.")] = "",
    drop_faulty: Annotated[bool, typer.Option("--drop-faulty", help="Leave faulty rows out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn a file of questions into a task: cleaned rows, lm-eval task files and a suite.

    Columns are found by their usual names (question, choices or A B C D, answer, subject, split, ...). Every fault of
    the file is told at once, with its row. Multiple choice is asked in two forms, cloze and letter.

    Examples:
        workbench task new shopping --from questions.csv
        workbench task new claims --from claims.jsonl --field question=stem --field cluster=policy_id
        workbench task new exam --from exam.csv --answers index1 --shots 3 --out tasks/exam
    """
    from benchmarks.author import read_questions, write_task
    from workbench.errors import TaskError

    options = _options(
        field, kind, answers, encoding,
        shots=shots, title=title, licence=licence, language=language, margin=margin, judge=judge,
        drop_faulty=drop_faulty,
    )  # fmt: skip
    draft = read_questions(source, options)
    if draft.errors and not drop_faulty:
        if as_json:
            print_json({"task": name, "made": False, **_draft_json(draft)})
        lines = [f"{source}: {fault}" for fault in draft.errors]
        lines.append(f"{source}: {len(draft.errors)} faults; mend them, or leave the rows out with --drop-faulty")
        raise TaskError("\n".join(lines))
    folder = out or Path("tasks") / name
    made = write_task(name, draft, folder, options)
    if as_json:
        print_json({"task": name, "made": True, **_authored_json(made), **_draft_json(draft)})
        return
    _print_authored(made)
    say(f"next: workbench eval MODEL --tasks {name} --include-path {folder}")


def check(
    target: Annotated[str, typer.Argument(help="A task, or a file of questions.", show_default=False)],
    against: Annotated[
        list[Path] | None, typer.Option(help="Training file to look for the questions in; may be repeated.")
    ] = None,
    ngram: Annotated[int, typer.Option(min=6, help="Words of a run that count as overlap.")] = 13,
    fail_above: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Exit 1 if a larger share of the questions is found.")
    ] = None,
    include_path: Annotated[list[Path] | None, typer.Option(help="Folder of task files.")] = None,
    field: Field = None,
    kind: Kind = None,
    answers: Answers = None,
    encoding: Encoding = "utf-8-sig",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at a task without a model: repeats, a lopsided key, and training text that holds its questions.

    A question counts as found if a run of 13 of its words stands in the training text; a shorter one must stand there
    whole, and one of fewer than 6 words with its answer right behind it.

    Examples:
        workbench task check shopping --include-path tasks/shopping --against train.jsonl
        workbench task check openstax_anatomy --against text.jsonl --fail-above 0.01
        workbench task check questions.csv
    """
    from benchmarks.check import check as run_check

    paths = [str(path) for path in include_path or []]
    options = _options(field, kind, answers, encoding)
    found = run_check(target, against=against or [], n=ngram, include_path=paths, data=_data(), options=options)
    if as_json:
        print_json(_check_json(found))
    else:
        _print_check(found)
    share = found.contamination.share() if found.contamination else None
    if fail_above is not None and share is not None and share > fail_above:
        say(f"{share:.1%} of the questions stand in the training text, more than {fail_above:.1%}")
        raise SystemExit(1)
    if any(fault.level == "error" for fault in found.faults):
        raise SystemExit(1)


def _data() -> Path | None:
    """The data folder of the project here, if there is one."""
    from workbench.config import PROJECT_FILE, data_folder, load_project_config

    here = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / PROJECT_FILE).is_file()), None)
    return data_folder(load_project_config(here), root=here) if here else data_folder()


def _options(field: list[str] | None, kind: str | None, answers: str | None, encoding: str, **more: Any) -> "Options":
    from typing import get_args

    from benchmarks.author import Options
    from benchmarks.questions import FIELDS, KINDS, Reading
    from workbench.errors import TaskError, did_you_mean

    fields: dict[str, str] = {}
    for part in field or []:
        ours, equals, column = part.partition("=")
        if not equals or ours not in FIELDS:
            raise TaskError(f"--field {part}: OURS=COLUMN is needed, {did_you_mean(ours, FIELDS)}")
        fields[ours] = column
    if kind is not None and kind not in KINDS:
        raise TaskError(f"--type {kind}: {did_you_mean(kind, set(KINDS.values()))}")
    if answers is not None and answers not in get_args(Reading):
        raise TaskError(f"--answers {answers}: {did_you_mean(answers, get_args(Reading))}")
    read: Any = {"kind": KINDS[kind] if kind else None, "answers": answers}
    return Options(fields=fields, encoding=encoding, **read, **more)


def _print_authored(made: "Authored") -> None:
    _print_faults(made.draft.faults, made.draft.path)
    rows = [(entry, items, made.shots) for entry, items in made.items.items()]
    print_table(["entry", Column("questions", right=True), Column("shots", right=True)], rows)
    subjects = f", {made.subjects} subjects" if made.subjects else ""
    say(f"wrote {made.folder}: {len(made.entries)} entries{subjects}, answers read as {_reading(made)}")


def _reading(made: "Authored") -> str:
    from benchmarks.questions import READINGS

    return READINGS[made.draft.reading] if made.draft.reading else "given"


def _print_faults(faults: Any, where: str) -> None:
    for fault in list(faults)[:SHOWN]:
        say(f"{fault.level}: {where}: {fault}")
    if len(faults) > SHOWN:
        say(f"and {len(faults) - SHOWN} more; --json has all")


def _print_check(found: "Check") -> None:
    _print_faults(found.faults, found.target)
    print_facts(found.target, _lint_facts(found.lint))
    if found.contamination is not None:
        print_facts("training text", _contamination_facts(found.contamination))
        rows = [
            (hit.item, f"{hit.file}:{hit.row}", f"{hit.coverage:.0%}", "yes" if hit.with_answer else "no", hit.excerpt)
            for hit in found.contamination.hits[:SHOWN]
        ]
        if rows:
            print_table(["item", "where", Column("covered", right=True), "answer", "words"], rows)
        if (more := len(found.contamination.hits) - SHOWN) > 0:
            say(f"and {more} more; --json has all")


def _lint_facts(judged: "Lint") -> list[tuple[str, str]]:
    facts = [("questions", f"{judged.n:,}, {judged.shots:,} few-shot rows")]
    if judged.subjects:
        facts.append(("subjects", f"{len(judged.subjects):,}"))
    for balance in judged.balances:
        shares = " ".join(f"{letter} {share:.0%}" for letter, share in balance.shares.items())
        facts.append((f"key of {balance.choices} choices", f"{shares} (p = {balance.p_value:.2g})"))
    if judged.longest:
        longest = judged.longest
        text = f"{longest.share:.0%} of {longest.n:,}, chance {longest.chance:.0%} (p = {longest.p_value:.2g})"
        facts.append(("longest is right", text))
    equal = sum(repeat.similarity == 1 for repeat in judged.repeats)
    facts.append(("repeats", f"{equal:,} equal, {len(judged.repeats) - equal:,} nearly"))
    return facts


def _contamination_facts(found: "Contamination") -> list[tuple[str, str]]:
    def share(kind: str) -> str:
        value = found.share(kind)
        return "not known: no question is long enough" if value is None else f"{value:.1%} of {found.checked:,}"

    return [
        ("read", f"{found.rows:,} rows, {found.words:,} words"),
        ("found", share("found")),
        ("whole", share("whole")),
        ("with the answer", share("with_answer")),
        ("too short to check", f"{len(found.unchecked):,}"),
    ]


def _fault_json(faults: Any) -> list[dict[str, Any]]:
    return [{"row": f.row, "column": f.column, "level": f.level, "message": f.message} for f in faults]


def _lint_json(judged: "Lint") -> dict[str, Any]:
    repeats = [
        {"first": repeat.first.row, "second": repeat.second.row, "similarity": repeat.similarity}
        for repeat in judged.repeats
    ]
    return {
        "questions": judged.n,
        "fewshot_rows": judged.shots,
        "subjects": judged.subjects,
        "key": judged.balances,
        "longest_is_right": judged.longest,
        "repeats": repeats,
    }


def _draft_json(draft: "Draft") -> dict[str, Any]:
    return {
        "file": draft.path,
        "answers": draft.reading,
        "faults": _fault_json(draft.faults),
        "lint": _lint_json(draft.lint),
    }


def _authored_json(made: "Authored") -> dict[str, Any]:
    return {"folder": made.folder, "entries": made.items, "shots": made.shots}


def _check_json(found: "Check") -> dict[str, Any]:
    body: dict[str, Any] = {"target": found.target, "faults": _fault_json(found.faults), "lint": _lint_json(found.lint)}
    contamination = found.contamination
    if contamination is not None:
        body["contamination"] = {
            "ngram": contamination.n,
            "rows": contamination.rows,
            "words": contamination.words,
            "items": contamination.items,
            "checked": contamination.checked,
            "unchecked": contamination.unchecked,
            "found": contamination.share(),
            "whole": contamination.share("whole"),
            "with_answer": contamination.share("with_answer"),
            "hits": contamination.hits,
        }
    return body
