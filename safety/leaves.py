"""A resolved policy as a list of leaves with the file and line that set each; what differs between two. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from safety.resolved import RANK, Category, Chain, ResolvedPolicy, follow
from workbench.errors import ConfigError, did_you_mean
from workbench.records import SURFACES, Action

KINDS = ("actions", "uncertain", "on_error")
_SETTINGS = ("title", "owner", "kind", "scope", "dimensions", "judges", "combine", "runtime", "templates", "entities")
_OTHERS = ("context", "review", "floors", "attributes")
_PLAIN = (
    "title",
    "definition",
    "not_this",
    "violates",
    "allowed",
    "severity",
    "expressive",
    "judges",
    "relax",
    "template",
)
Turn = Literal["tighter", "looser", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """One value of a resolved policy."""

    path: str
    value: str
    set_by: str
    steps: tuple[str, ...] = ()
    """Of an action: what each file says about it, the root's first."""
    conditional: tuple[str, ...] = ()
    """Actions that hold under conditions only."""
    last: str = ""
    """File and line of the last file that says anything about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One leaf that differs between two policies."""

    path: str
    before: str | None
    """None: it is new."""
    after: str | None
    turn: Turn
    set_by: str


def list_leaves(policy: ResolvedPolicy, *, today: date) -> Iterator[Leaf]:
    """Every value that counts, in a fixed order."""
    for name in (*_SETTINGS, *_OTHERS):
        yield from _plain_leaves(name, getattr(policy, name), policy.set_by, prefix=name)
    for gate in policy.gates:
        limit = f"at most {gate['upper']:g}" if "upper" in gate else f"at least {gate['lower']:g}"
        text = f"{limit}, {gate['min_n']} items" + ("" if gate["required"] else ", advisory")
        yield Leaf(path=f"gates.{gate['key']}", value=text, set_by=policy.set_by.get(f"gates.{gate['key']}", ""))
    for category in policy.categories.values():
        yield from _category_leaves(category, today)


def explain(policy: ResolvedPolicy, path: str, *, today: date) -> list[Leaf]:
    """The leaves at or below a path (`hate`, `hate.actions`, `hate.actions.content`, `runtime.fail`).

    Raises:
        ConfigError: there is none.
    """
    leaves = list(list_leaves(policy, today=today))
    wanted = {path, f"categories.{path}"}
    found = [leaf for leaf in leaves if any(leaf.path == one or leaf.path.startswith(f"{one}.") for one in wanted)]
    if path in policy.categories:  # its children are categories of their own
        below = [name for name in policy.categories if name.startswith(f"{path}.")]
        found = [leaf for leaf in found if not any(leaf.path.startswith(f"categories.{name}.") for name in below)]
    if not found:
        known = [leaf.path.removeprefix("categories.") for leaf in leaves]
        known += [*policy.categories, *(path.rpartition(".")[0] for path in known)]
        raise ConfigError(f"policy {policy.name}: {path!r} is not set; {did_you_mean(path, known)}")
    return found


def list_changes(before: ResolvedPolicy, after: ResolvedPolicy, *, today: date) -> list[Change]:
    """What differs, looser changes first."""
    old = {leaf.path: leaf for leaf in list_leaves(before, today=today)}
    new = {leaf.path: leaf for leaf in list_leaves(after, today=today)}
    found: list[Change] = []
    for path in dict.fromkeys([*old, *new]):
        was, now = old.get(path), new.get(path)
        if was and now and (was.value, _without_places(was)) == (now.value, _without_places(now)):
            continue
        found.append(
            Change(
                path=path,
                before=was.value if was else None,
                after=now.value if now else None,
                turn=_turn(path, was, now),
                set_by=(now.last or now.set_by) if now else "",
            )
        )
    return sorted(found, key=lambda change: (("looser", "tighter", "other").index(change.turn), change.path))


def stale_categories(before: ResolvedPolicy, after: ResolvedPolicy) -> list[str]:
    """Categories whose definition or examples differ: labels made under the old ones have to be confirmed."""
    return [
        name
        for name, category in before.categories.items()
        if name not in after.categories or after.categories[name].hash != category.hash
    ]


def _chain_leaf(path: str, chain: Chain, floor: Action, today: date) -> Leaf:
    """One surface: the action without conditions, who set it, and every step in words."""
    now = follow(chain, {}, today, floor)
    steps: list[str] = []
    for group in chain:
        for step in group:
            when = f" when {json.dumps(step.when, ensure_ascii=False)}" if step.when else ""
            ended = step.until is not None and date.fromisoformat(step.until) < today
            waiver = "" if step.until is None else f", waiver {'ended' if ended else 'until'} {step.until}"
            steps.append(f"{step.action}{when} by {step.set_by}{waiver}")
    conditional = tuple(dict.fromkeys(step.action for group in chain for step in group if step.when is not None))
    text = now.action + (f" ({', '.join(conditional)} under conditions)" if conditional else "")
    return Leaf(
        path=path, value=text, set_by=now.set_by, steps=tuple(steps), conditional=conditional, last=chain[-1][-1].set_by
    )


def _category_leaves(category: Category, today: date) -> Iterator[Leaf]:
    prefix = f"categories.{category.id}"
    for name in _PLAIN:
        value = getattr(category, name)
        if value not in (None, (), "", False):
            own = {"violates": "examples", "allowed": "examples"}.get(name, name)
            yield Leaf(path=f"{prefix}.{name}", value=_text(value), set_by=category.set_by.get(own, category.origin))
    for kind in KINDS:
        for surface in SURFACES:
            floor: Action = (category.floor or {}).get(f"{kind}.{surface}", "allow")
            yield _chain_leaf(f"{prefix}.{kind}.{surface}", getattr(category, kind)[surface], floor, today)
    for name in ("miss", "wrong_action", "confidence"):
        value = getattr(category.risk, name)
        if value is not None and category.risk.fixed is None:
            set_by = category.set_by.get(f"risk.{name}", category.set_by.get("risk", category.origin))
            yield Leaf(path=f"{prefix}.risk.{name}", value=f"{value:g}", set_by=set_by)
    for name, threshold in category.thresholds.items():
        value = f"{threshold.low:g} to {threshold.high:g}: {threshold.guarantee}"
        yield Leaf(path=f"{prefix}.thresholds.{name}", value=value, set_by=category.set_by.get("risk", category.origin))
    if category.floor is not None:
        yield Leaf(path=f"{prefix}.floor", value="nothing may loosen it", set_by="")


def _plain_leaves(path: str, value: Any, set_by: Mapping[str, str], *, prefix: str) -> Iterator[Leaf]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _plain_leaves(f"{path}.{key}", below, set_by, prefix=prefix)
        return
    place = path
    while place and place not in set_by:
        place = place.rpartition(".")[0]
    yield Leaf(path=path, value=_text(value), set_by=set_by.get(place, "built in" if not place else ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _without_places(leaf: Leaf) -> list[str]:
    return [step.split(" by ")[0] for step in leaf.steps]


def _turn(path: str, was: Leaf | None, now: Leaf | None) -> Turn:
    *_, kind, name = ["", *path.split(".")]
    if kind in KINDS and was and now:
        old, new = _reach(was), _reach(now)
        looser = new[0] < old[0] or new[1] < old[1]
        return "looser" if looser else "tighter" if new > old else "other"
    if kind == "risk" and name == "miss" and was and now:
        return "tighter" if float(now.value) < float(was.value) else "looser"
    if path.startswith("gates.") or kind in KINDS:
        return "tighter" if was is None else "looser" if now is None else "other"
    return "other"


def _reach(leaf: Leaf) -> tuple[int, int, int]:
    """Ranks of an action: without conditions, and the most lenient and the strictest under any."""
    ranks = [RANK[action] for action in (leaf.value.split()[0], *leaf.conditional)]
    return ranks[0], min(ranks), max(ranks)
