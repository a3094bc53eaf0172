"""Lineage: where does this come from?"""

from collections.abc import Iterator
from typing import Any

import streamlit as st

from dashboards import data, show
from dashboards.show import Command
from workbench.errors import StoreError
from workbench.publish.text import reveal_line
from workbench.store import Lineage

QUESTION = "Where does this checkpoint come from?"
SHAPES = {
    "decision": ('{{"', '"}}'),
    "comparison": ('{"', '"}'),
    "report": ('["', '"]'),
    "checkpoint": ('(["', '"])'),
    "run": ('[["', '"]]'),
    "recipe": ('[/"', '"/]'),
    "data": ('[("', '")]'),
}
DRAWN = 60


def page() -> None:
    """Draw the page."""
    found = data.browse_checkpoints()
    if not found.total:
        show.question(QUESTION, "There is no checkpoint in this project yet.")
        show.empty(
            "Every number leads back to weights, and weights to the run and the data that made them.",
            Command(why="Train one from a recipe:", line="workbench train RECIPE.yaml"),
            Command(why="Or evaluate one that you have:", line="workbench eval CHECKPOINT --suite SUITE"),
        )
        return
    top = st.container()
    reference = _choose(found.total)
    if reference is None:
        return
    try:
        tree = data.lineage(reference)
    except StoreError as error:
        with top:
            show.question(QUESTION, str(error))
        return
    nodes, edges = _flatten(tree)
    with top:
        show.question(QUESTION, _answer(tree, nodes))
    if len(nodes) <= DRAWN:
        st.mermaid_chart(_mermaid(nodes, edges), alt=_answer(tree, nodes))
    else:
        st.text(f"{len(nodes)} steps are too many to draw; the table has them all.")
    rows = [
        {
            "kind": node["kind"],
            "what": node["label"],
            "made from": ", ".join(nodes[one]["label"] for one in edges.get(key, ())),
            "id": node["id"],
        }
        for key, node in nodes.items()
    ]
    show.table(rows, name="lineage", alt=f"{len(rows)} things that it was made from")


def _choose(total: int) -> str | None:
    linked = st.query_params.get("thing", "")
    search = ""
    if total > 10:
        search = st.text_input(f"Search {total:,} checkpoints", key="q", bind="query-params")
    page = data.browse_checkpoints(search=search)
    described = {
        row.fingerprint: reveal_line(f"{row.name} ({row.fingerprint[:12]}, {row.kind})") for row in reversed(page.rows)
    }
    described = dict(reversed(described.items()))
    named = next((one for one in described if linked and one.startswith(linked)), None)
    if linked and named is None:
        described = {linked: f"{linked} (as linked)", **described}
        named = linked
    if not described:
        st.text("No checkpoint has this name.")
        return None
    key = "choose-thing"
    trained = (row.fingerprint for row in page.rows if row.run)  # says more than where an outsider came from
    st.session_state[key] = named or next(trained, next(iter(described)))
    st.selectbox(
        "Checkpoint", list(described), format_func=described.__getitem__, key=key, on_change=_remember, args=(key,)
    )
    return str(st.session_state[key])


def _remember(key: str) -> None:
    st.query_params["thing"] = str(st.session_state[key])[:16]


def _answer(tree: Lineage, nodes: dict[str, dict[str, Any]]) -> str:
    counts = {kind: sum(node["kind"] == kind for node in nodes.values()) for kind in ("run", "checkpoint", "data")}
    name = reveal_line(tree.label or tree.id[:12])
    if len(nodes) == 1:
        return f"{name} came from outside: nothing that it was made from is in this project."
    above = counts["checkpoint"] - (tree.kind == "checkpoint")
    if above == 1 and tree.kind == "checkpoint":
        first = reveal_line(next(node["label"] for node in list(nodes.values())[1:] if node["kind"] == "checkpoint"))
        told = [first, _some(counts["data"], "source of data")]
        by = f"{name} was trained from" if counts["run"] else f"{name} is a changed copy of"
    else:
        told = [_some(above, "checkpoint"), _some(counts["run"], "run"), _some(counts["data"], "source of data")]
        by = f"{name} was made from"
    return f"{by} {' and '.join(one for one in told if not one.startswith('0 '))}."


def _some(count: int, noun: str) -> str:
    head, _, rest = noun.partition(" ")
    return f"{count} {head}{'' if count == 1 else 's'}{' ' if rest else ''}{rest}"


def _walk(node: Lineage) -> Iterator[Lineage]:
    yield node
    for parent in node.parents:
        yield from _walk(parent)


def _flatten(tree: Lineage) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Each thing once, by a short key, with the keys of what it was made from; runs with their recipe and data."""
    nodes: dict[str, dict[str, Any]] = {}
    keys: dict[tuple[str, str], str] = {}
    edges: dict[str, list[str]] = {}

    def key_of(kind: str, identity: str, label: str) -> str:
        if (kind, identity) not in keys:
            keys[kind, identity] = f"{kind[0].upper()}{len(keys) + 1}"
            nodes[keys[kind, identity]] = {"kind": kind, "id": identity[:16], "label": reveal_line(label)}
        return keys[kind, identity]

    for node in _walk(tree):
        own = key_of(node.kind, node.id, node.label or node.id[:12])
        for parent in node.parents:
            above = key_of(parent.kind, parent.id, parent.label or parent.id[:12])
            if above not in edges.setdefault(own, []):
                edges[own].append(above)
        if node.kind != "run" or (entry := data.run_entry(node.id)) is None:
            continue
        recipe = entry.document.get("recipe") or {}
        nodes[own]["label"] = reveal_line(f"{recipe.get('recipe', '')} ({entry.status})")
        made = key_of(
            "recipe", f"recipe of {node.id}", f"{recipe.get('method', '')}, {recipe.get('tokens', 0):,} tokens"
        )
        links = edges.setdefault(own, [])
        links += [made] if made not in links else []
        for name, facts in (entry.document.get("data") or {}).items():
            digest = str((facts or {}).get("digest", ""))
            source = key_of("data", digest or f"{node.id}/{name}", f"{name}: {(facts or {}).get('rows', 0):,} rows")
            links += [source] if source not in links else []
    return nodes, edges


def _mermaid(nodes: dict[str, dict[str, Any]], edges: dict[str, list[str]]) -> str:
    """A flow chart from what was made to what it was made from."""
    lines = ["graph LR"]
    for key, node in nodes.items():
        start, end = SHAPES[node["kind"]]
        lines.append(f"  {key}{start}{node['kind']}: {_quoted(node['label'])}{end}")
    lines += [f"  {parent} --> {child}" for child, parents in edges.items() for parent in parents]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Letters, digits and a few signs: nothing that a diagram could take for a command or for markup."""
    return "".join(char if char.isalnum() or char in " -_/:,()." else "·" for char in text)[:60]


if __name__ == "__main__":
    page()
