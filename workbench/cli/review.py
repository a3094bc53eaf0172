"""`workbench review`: put texts before people, see how it goes, and check that nothing was tampered with."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, Progress, print_facts, print_json, print_table, say
from workbench.cli.policies import AsJson, Folders, open_library
from workbench.errors import ReviewError

if TYPE_CHECKING:
    from safety.review.queue import Operator, ReviewQueue
    from workbench.store import Project

ProjectFolder = Annotated[Path | None, typer.Option("--project", help="Project folder (default: the nearest).")]
QueueName = Annotated[str, typer.Option("--queue", help="Queue, as NAME (of the tenant `default`) or TENANT/NAME.")]


def open_queue(project: "Project") -> "tuple[ReviewQueue, Operator]":
    """The project's queue, and who works at this command line."""
    from safety.review.queue import Operator, ReviewQueue

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        name = "unknown"
    return ReviewQueue.open(project), Operator(name=name)


def add(
    source: Annotated[str, typer.Argument(help="JSONL, CSV, TSV or Parquet of posts; `-` reads JSONL from a pipe.")],
    policy: Annotated[str, typer.Option(help="Policy whose rules people read: a name or a file.")] = "default",
    queue: QueueName = "default",
    category: Annotated[
        str, typer.Option(help="Category in question, for rows that name none (default: any of the policy's).")
    ] = "",
    text_column: Annotated[str | None, typer.Option(help="Column of the text, if it has another name.")] = None,
    folder: Folders = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put texts into the review queue, with the rules that reviewers read beside them.

    A row has a text and may have title, parent, community, author, category, severity, probability, priority, pi,
    stratum, cluster, gold and more (docs/reviewing.md). The same text under the same policy is one item.

    Examples:
        workbench review add posts.jsonl --policy default
        workbench review add posts.csv --queue acme/history --category hate --text-column body
    """
    from safety.review.queue import queue_id
    from workbench.cli.projects import find_project
    from workbench.reviewing import add_file

    library = open_library(folder, None)
    resolved = library.load(policy)
    with find_project(project, create=True) as home:
        work, operator = open_queue(home)
        place = queue_id(queue)
        tenant, _, name = place.partition("/")
        with Progress("adding", 0, unit="texts") as progress:

            def show(read: int) -> None:
                progress.total = read
                progress.advance(read - progress.done)

            read, added = add_file(
                work,
                operator,
                source,
                resolved,
                tenant=tenant,
                name=name,
                category=category,
                text_column=text_column,
                on_progress=show,
            )
    if as_json:
        print_json(
            {"queue": place, "rows": read, "added": added, "policy": resolved.name, "policy_hash": resolved.hash}
        )
        return
    say(f"{place}: {added:,} new of {read:,} texts, under {resolved.name}")
    say("next: workbench review status")


def status(
    queue: Annotated[str | None, typer.Argument(help="One queue (default: all).")] = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show how many items wait, are in work and are decided, and since when the oldest waits.

    Examples:
        workbench review status
        workbench review status acme/history --json
    """
    from safety.review.queue import queue_id
    from workbench.cli.projects import find_project

    with find_project(project) as home:
        work, operator = open_queue(home)
        names = work.queues(operator) if queue is None else [queue_id(queue)]
        found = [work.stats(operator, name) for name in names]
    if as_json:
        print_json({"queues": found})
        return
    if not found:
        say("no queue yet; begin with: workbench review add posts.jsonl")
        return
    columns = [
        Column("queue"),
        Column("open", right=True),
        Column("in work", right=True, drop=2),
        Column("for seniors", right=True, drop=1),
        Column("waiting behind a twin", right=True, drop=4),
        Column("decided", right=True),
        Column("labels in 24 h", right=True, drop=3),
        Column("oldest", drop=5),
    ]
    rows: list[list[Any]] = []
    for one in found:
        slots = one.slots
        rows.append(
            [
                one.queue,
                f"{slots.get('opinion open', 0):,}",
                f"{slots.get('opinion leased', 0) + slots.get('adjudication leased', 0):,}",
                f"{slots.get('adjudication open', 0):,}",
                f"{slots.get('opinion waiting', 0):,}",
                f"{one.items.get('decided', 0):,}",
                f"{one.labels_last_day:,}",
                (one.oldest_open or "")[:16].replace("T", " "),
            ]
        )
    print_table(columns, rows)


def ls(
    queue: QueueName = "default",
    state: Annotated[
        str | None, typer.Option(help="open, conflict, escalated or decided (default: all but decided).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most rows.")] = 50,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """List items of a queue with state and priority; texts are for those who hold a lease, and for auditors.

    Examples:
        workbench review ls
        workbench review ls --queue acme/history --state conflict --json
    """
    from workbench.cli.projects import find_project

    if state not in (None, "open", "conflict", "escalated", "decided"):
        raise ReviewError(f"--state {state}: open, conflict, escalated or decided is expected")
    with find_project(project) as home:
        work, operator = open_queue(home)
        found = work.listed(operator, queue, state=state, limit=limit)
    if as_json:
        print_json({"items": found})
        return
    columns = [
        Column("item"),
        Column("state"),
        Column("priority", right=True),
        Column("severity", drop=1),
        Column("category", drop=2),
        Column("labels", right=True, drop=3),
        Column("stratum", drop=4),
        Column("since", drop=5),
    ]
    rows: list[list[Any]] = [
        [
            one.id[:12],
            one.state,
            f"{one.priority:.3g}",
            one.severity,
            one.category,
            f"{one.labels}/{one.need}",
            one.stratum,
            one.created_at[:16],
        ]
        for one in found
    ]
    print_table(columns, rows)


def verify(project: ProjectFolder = None, as_json: AsJson = False) -> None:
    """Check the audit's chain, its anchors outside the database, and every law of the queue's tables.

    The exit code is 1 where anything was found. Keep a copy of the anchors where those who can write the database
    cannot write: they are what tells a chain that was written anew.

    Examples:
        workbench review verify
        workbench review verify --json
    """
    from safety.review.verify import verify as run_verify
    from workbench.cli.projects import find_project

    with find_project(project) as home:
        work, _ = open_queue(home)
        found = run_verify(work.database, work.anchors)
    if as_json:
        print_json(found)
    else:
        for fault in found.faults:
            say(f"fault: {fault}")
        for note in found.notes:
            say(f"note: {note}")
        facts = [(name, f"{getattr(found, name):,}") for name in ("audit_rows", "anchors", "items", "slots", "labels")]
        print_facts("checked", [(name.replace("_", " "), value) for name, value in facts])
        say("nothing was tampered with" if not found.faults else f"{len(found.faults)} faults")
    if found.faults:
        raise typer.Exit(1)


def agreement(
    queue: QueueName = "default",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show how far reviewers agree, by category and policy, on known answers, and what hints do to labels.

    Examples:
        workbench review agreement
        workbench review agreement --queue acme/history --json
    """
    from safety.review.quality import quality
    from workbench.cli.projects import find_project

    with find_project(project) as home:
        work, operator = open_queue(home)
        found = quality(work, operator, queue, seed=seed)
    if as_json:
        print_json(found)
        return
    columns = [
        Column("category"),
        Column("Krippendorff's alpha", right=True),
        Column("Gwet's AC1", right=True),
        Column("items", right=True),
        Column("people", right=True, drop=1),
        Column("policy", drop=2),
    ]
    print_table(
        columns,
        [
            [one.category or "any", _interval(one.alpha), _interval(one.ac1), one.ac1.items, one.ac1.members,
             one.policy_hash[:12]]
            for one in found.categories
        ],
    )  # fmt: skip
    say(f"known answers given right: {_interval(found.gold)} (n={found.gold.n})")
    bias = found.bias
    counts = f"n={bias.with_hint.n} with, {bias.without.n} without"
    say(f"agrees with the model, its view shown less not shown: {_interval(bias, 'difference')} ({counts})")


def _interval(found: Any, name: str = "value") -> str:
    value = getattr(found, name)
    if value is None:
        return "not known"
    return f"{value:.2f}" if found.low is None else f"{value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def members_add(
    name: Annotated[str, typer.Argument(help="Name of the person or service.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="reviewer, senior, viewer, policy_editor, policy_approver, ml, admin or auditor; may be repeated."
        ),
    ] = None,
    queue: Annotated[str, typer.Option(help="Where: TENANT/NAME; `*` stands for all.")] = "*/*",
    identity: Annotated[
        str | None, typer.Option(help="What the identity provider calls the person (for sign-in by OIDC).")
    ] = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Add a member or give one more roles, and print its token once; an older token stops working.

    Examples:
        workbench review members add ana --role reviewer
        workbench review members add sam --role reviewer --role senior --queue acme/history
    """
    from safety.review.queue import Grant
    from workbench.cli.projects import find_project

    tenant, _, place = (queue if "/" in queue else f"default/{queue}").partition("/")
    grants = [Grant(role=one, tenant=tenant, queue=place) for one in role or ["reviewer"]]  # type: ignore[arg-type]
    with find_project(project, create=True) as home:
        work, operator = open_queue(home)
        joined = work.add_member(operator, name, grants, identity=identity)
    if as_json:
        print_json({"member": joined.member, "token": joined.token})
        return
    from workbench.cli.output import print_line

    print_line(joined.token)
    held = ", ".join(f"{grant.role} in {grant.tenant}/{grant.queue}" for grant in joined.member.grants)
    say(f"{name}: {held}. The token above is shown this once.")


def members_ls(project: ProjectFolder = None, as_json: AsJson = False) -> None:
    """List members with their roles; tokens are not kept, so none is shown.

    Examples:
        workbench review members ls
        workbench review members ls --json
    """
    from workbench.cli.projects import find_project

    with find_project(project) as home:
        work, operator = open_queue(home)
        found = work.members(operator)
    if as_json:
        print_json({"members": found})
        return
    if not found:
        say("no members yet; add one: workbench review members add NAME --role reviewer")
        return
    rows = [
        [
            one.name,
            "removed" if one.removed_at else ", ".join(f"{g.role}@{g.tenant}/{g.queue}" for g in one.grants),
            one.identity,
            one.created_at[:10],
        ]
        for one in found
    ]
    print_table([Column("name"), Column("roles"), Column("identity", drop=1), Column("since", drop=2)], rows)


def members_remove(
    name: Annotated[str, typer.Argument(help="Name of the member.")],
    role: Annotated[
        list[str] | None, typer.Option(help="Take only this role; may be repeated (default: all, and the token).")
    ] = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take roles from a member; without --role all of them and the token, at once.

    Examples:
        workbench review members remove ana
        workbench review members remove sam --role senior
    """
    from safety.review.people import ROLES
    from workbench.cli.projects import find_project

    for one in role or ():
        if one not in ROLES:
            raise ReviewError(f"--role {one}: one of {', '.join(ROLES)} is expected")
    with find_project(project) as home:
        work, operator = open_queue(home)
        work.remove_member(operator, name, roles=role or ())  # type: ignore[arg-type]
    if as_json:
        print_json({"name": name, "revoked": role or "all"})
    else:
        say(f"{name}: {'removed; what was held is open again' if not role else 'no longer ' + ', '.join(role)}")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8001,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Largest request, kB.")] = 4000,
    project: ProjectFolder = None,
) -> None:
    """Serve the queue's HTTP API; every route but /healthz needs a member's token.

    Behind anything but this machine, put it behind a proxy that speaks TLS: tokens travel in headers.

    Examples:
        workbench review serve
        workbench review serve --host 0.0.0.0 --port 9001 --project trust
    """
    from workbench.cli.output import print_line
    from workbench.cli.projects import find_project
    from workbench.serve.review import create_review_app
    from workbench.serve.server import run_app

    with find_project(project) as home:
        work, _ = open_queue(home)
        app = create_review_app(work, max_bytes=max_body_kb * 1000)

        def on_ready(url: str) -> None:
            say("routes: /openapi.json; Ctrl-C stops")
            print_line(f"{url}/review")

        run_app(app, host=host, port=port, grace_s=10.0, on_ready=on_ready)
