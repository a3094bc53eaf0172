"""Categories of a policy file merged onto its parent's. Knows what tightens and what loosens; knows no file system.

Of each surface a category keeps a chain: the steps of each file, the root's first (`safety.resolved.follow`). A child
category that its file says nothing about follows what the file says about the category above it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from safety.conditions import find_faults
from safety.layer import KeyPath, Layer
from safety.merge_settings import check_names
from safety.policy_hash import category_hash, with_json
from safety.resolved import RANK, Category, Chain, ResolvedPolicy, Step, follow
from safety.risk import Calibration, merge_risk, thresholds_of
from safety.schema import CategoryEntry, Defaults, RiskTarget, RuleEntry
from workbench.errors import did_you_mean
from workbench.records import SURFACES, Severity, Surface

KINDS = ("actions", "uncertain", "on_error")
SEVERITIES = ("low", "medium", "high", "critical")
DEFAULTS = Defaults.model_validate(
    {
        "actions": {"user_input": "log", "model_output": "block", "content": "review"},
        "uncertain": {"user_input": "log", "model_output": "hold", "content": "review"},
        "on_error": {"user_input": "log", "model_output": "block", "content": "review"},
        "severity": "medium",
    }
)
SHOWN_EXAMPLES = 3
WORDS = ("title", "expressive", "template", "rewrite")
"""Fields that a child may always replace."""


@dataclass
class _Entry:
    """One entry of the file with its dotted id, the place it stands and the entries above it, nearest first."""

    id: str
    entry: CategoryEntry
    key: KeyPath
    above: tuple["_Entry", ...] = ()


def merge_categories(layer: Layer, settings: ResolvedPolicy) -> dict[str, Category]:
    """All categories of the resolved policy; faults go into the layer."""
    inherited = dict(layer.parent.categories) if layer.parent else {}
    entries = {one.id: one for one in _entries(layer)}
    defaults = _defaults(layer)
    merged = dict(inherited)
    for one in entries.values():
        merged[one.id] = (
            _changed(layer, one, inherited[one.id]) if one.id in inherited else _new(layer, one, merged, defaults)
        )
    for name in inherited:  # children that the file is silent about follow the entry above them
        above = [entries[a] for a in _above(name) if a in entries]
        if name not in entries and above:
            merged[name] = _follows(layer, merged[name], above)
    check_names(layer, settings, merged)
    for one in entries.values():
        _check_conditions(layer, one, settings, merged)
    changed = [name for name in merged if merged[name] is not inherited.get(name)]
    fresh = {above for name in merged if name not in inherited for above in _above(name) if above in merged}
    changed += [name for name in fresh if name not in changed]  # what is judged apart from it has changed
    _check_judges(layer, settings, [merged[n] for n in changed], entries)
    stale = layer.file.judges is not None or layer.file.floor is not None
    for name in merged if stale else changed:
        text = rule_text(merged[name], [c for c in merged.values() if c.id.rpartition(".")[0] == name])
        merged[name] = _settle(layer, replace(merged[name], text=text), settings, inherited.get(name))
    return merged


def _entries(layer: Layer) -> Iterator[_Entry]:
    def walk(children: Mapping[str, CategoryEntry], key: KeyPath, above: tuple[_Entry, ...]) -> Iterator[_Entry]:
        for name, entry in children.items():
            dotted = f"{above[0].id}.{name}" if above else name
            one = _Entry(id=dotted, entry=entry, key=(*key, name), above=above)
            yield one
            yield from walk(entry.children or {}, (*one.key, "children"), (one, *above))

    if "rule" in (layer.file.categories or {}):
        layer.fault(("categories", "rule"), "this name is taken by `rules`; choose another")
    yield from walk(layer.file.categories or {}, ("categories",), ())
    for place, rule in enumerate(layer.file.rules or ()):
        yield _Entry(id=f"rule.{rule.id}", entry=_rule_entry(rule), key=("rules", place))


def _rule_entry(rule: RuleEntry) -> CategoryEntry:
    """A rule as a category: its sentence is title and definition."""
    given = {name: getattr(rule, name) for name in ("severity", "actions", "examples", "not_this", "judges", "tests")}
    return CategoryEntry.model_construct(
        _fields_set=None, **{**_NOTHING, **given, "title": rule.text, "definition": rule.text}
    )


_NOTHING = CategoryEntry.model_validate({}).__dict__


def _above(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:count])


def _defaults(layer: Layer) -> Defaults:
    """What new categories have where they are silent: this file's defaults over those of the workbench.

    A parent's defaults have shaped the parent's categories; they are not handed down, so that a file can be read alone.
    """
    given = layer.file.defaults or Defaults()
    merged = {kind: {**(getattr(DEFAULTS, kind) or {}), **(getattr(given, kind) or {})} for kind in KINDS}
    others = {name: getattr(given, name) or getattr(DEFAULTS, name) for name in ("risk", "judges", "severity", "tests")}
    return Defaults.model_construct(**merged, **others)


# --- steps ------------------------------------------------------------------------------------------------------------


def _steps(layer: Layer, one: _Entry, kind: str, surface: Surface, before: Category | None) -> list[Step]:
    """What one entry says about a surface, in the order in which it is tried: its rules, then its own action."""
    entry, steps = one.entry, []
    if kind == "actions":
        for place, rule in enumerate(entry.rules or ()):
            if surface in rule.actions:
                where = layer.where(*one.key, "rules", place, "actions", surface)
                steps.append(Step(action=rule.actions[surface], set_by=where, when=rule.if_))
    own = (getattr(entry, kind) or {}).get(surface)
    if own is not None:
        steps.append(Step(action=own, set_by=layer.where(*one.key, kind, surface), when=entry.when))
    if entry.waiver is None or before is None or before.relax is None:
        return steps
    return [replace(step, until=entry.waiver.expires, not_below=before.relax) for step in steps]


def _group(
    layer: Layer, entries: Sequence[_Entry], kind: str, surface: Surface, before: Category | None
) -> tuple[Step, ...]:
    return tuple(step for one in entries for step in _steps(layer, one, kind, surface, before))


def _extended(layer: Layer, entries: Sequence[_Entry], before: Category) -> dict[str, dict[Surface, Chain]]:
    """The chains of a category of the parent with this file's steps on top."""
    found: dict[str, dict[Surface, Chain]] = {}
    for kind in KINDS:
        chains: Mapping[Surface, Chain] = getattr(before, kind)
        found[kind] = dict(chains)
        for surface in SURFACES:
            group = _group(layer, entries, kind, surface, before)
            if group:
                found[kind][surface] = (*chains[surface], group)
    return found


def _check_steps(layer: Layer, one: _Entry, before: Category) -> None:
    """Faults for steps that loosen what they may not loosen; a note for those whose waiver has ended."""
    for kind in KINDS:
        for surface in SURFACES:
            chain: Chain = getattr(before, kind)[surface]
            now = follow(chain, {}, layer.today)
            for step in _steps(layer, one, kind, surface, before):
                if RANK[step.action] < RANK[now.action]:
                    place = (*one.key, kind, surface) if step.when == one.entry.when else (*one.key, "rules")
                    _loosens(layer, place, one, before, f"{step.action} is looser than {now.action} ({now.set_by})")
                    if before.relax is not None and RANK[step.action] < RANK[before.relax]:
                        layer.fault(place, f"{step.action}: the parent lets it be relaxed to {before.relax} at most")


def _loosens(layer: Layer, place: KeyPath, one: _Entry, before: Category, what: str) -> bool:
    """Whether a looser value may stand: the parent says relax, and a waiver is given and live. Faults otherwise."""
    waiver = one.entry.waiver
    if before.floor is not None:
        layer.fault(place, f"{what}; {before.id} is a floor, which nothing may loosen")
    elif before.relax is None:
        layer.fault(place, f"{what}; {before.origin} does not say `relax` for {before.id}: ask its owner")
    elif waiver is None:
        layer.fault(place, f"{what}; give a waiver {{reason, approved_by, expires}}")
    elif not layer.is_live(waiver):
        layer.note(place, f"its waiver ended on {waiver.expires}: the parent's value holds")
    else:
        return True
    return False


# --- new categories ---------------------------------------------------------------------------------------------------


def _new(layer: Layer, one: _Entry, merged: Mapping[str, Category], defaults: Defaults) -> Category:
    """A category that this file brings: its own steps, then those above it in this file, on the chain it refines."""
    entry, above = one.entry, next((merged[a] for a in _above(one.id) if a in merged), None)
    old = (
        next((layer.parent.categories[a] for a in _above(one.id) if a in layer.parent.categories), None)
        if (layer.parent)
        else None
    )
    if old is not None:
        _check_steps(layer, one, old)
    if entry.waiver is not None and old is None:
        layer.fault((*one.key, "waiver"), "there is nothing to loosen: no parent has this category")
    if entry.definition is None and entry.title is None and above is None:
        hint = did_you_mean(one.id, layer.parent.categories) if layer.parent else "a new one needs a definition"
        layer.fault(one.key, f"a new category without title and definition; {hint}")
    title = entry.title or one.id.rsplit(".", 1)[-1].replace("_", " ")
    examples = entry.examples
    return Category(
        id=one.id,
        title=title,
        definition=entry.definition or title,
        not_this=tuple(entry.not_this or ()),
        violates=tuple(examples.violates) if examples else (),
        allowed=tuple(examples.allowed) if examples else (),
        severity=entry.severity or (above.severity if above else None) or defaults.severity or "medium",
        expressive=entry.expressive if entry.expressive is not None else bool(above and above.expressive),
        judges=tuple(entry.judges if entry.judges is not None else above.judges if above else defaults.judges or ()),
        **_new_chains(layer, one, old, defaults),
        risk=merge_risk(above.risk if above else None, entry.risk or (None if above else defaults.risk)),
        relax=entry.relax.to if entry.relax else above.relax if above else None,
        template=entry.template or (above.template if above else None),
        rewrite=entry.rewrite or (above.rewrite if above else "template"),
        tests=_tests(layer, one, defaults),
        map=dict(entry.map or {}),
        origin=layer.name,
        is_rule=one.key[0] == "rules",
        set_by=_set_by(layer, one),
    )


def _new_chains(layer: Layer, one: _Entry, old: Category | None, defaults: Defaults) -> dict[str, Any]:
    chains: dict[str, dict[Surface, Chain]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for surface in SURFACES:
            group = _group(layer, (one, *one.above), kind, surface, old)
            if old is not None:
                before: Chain = getattr(old, kind)[surface]
                chains[kind][surface] = (*before, group) if group else before
                continue
            if not group or group[-1].when is not None:
                action = (getattr(defaults, kind) or {})[surface]
                group = (*group, Step(action=action, set_by=layer.where("defaults", kind, surface)))
            chains[kind][surface] = (group,)
    return chains


def _tests(layer: Layer, one: _Entry, defaults: Defaults) -> tuple[str, ...]:
    given = one.entry.tests
    if given is None:
        name = (defaults.tests or "").replace("{id}", one.id)
        listed = [name] if (name and (layer.path.parent / name).is_file()) or (name and "." not in one.id) else []
    else:
        listed = [given] if isinstance(given, str) else given
    return tuple(str(layer.path.parent / name) for name in listed)


# --- categories of the parent -----------------------------------------------------------------------------------------


def _changed(layer: Layer, one: _Entry, before: Category) -> Category:
    """A category of the parent as this file changes it."""
    entry = one.entry
    _check_steps(layer, one, before)
    changes: dict[str, Any] = {name: getattr(entry, name) for name in WORDS if getattr(entry, name) is not None}
    changes |= _extended(layer, (one, *one.above), before)
    changes |= _changed_meaning(layer, one, before)
    if entry.severity is not None:
        changes["severity"] = _severity(layer, one, before)
    if entry.judges is not None:
        changes["judges"] = _judges(layer, one, before)
    if entry.risk is not None:
        changes["risk"] = _risk(layer, one, before)
    if entry.relax is not None:
        if before.relax is None or RANK[entry.relax.to] < RANK[before.relax]:
            layer.fault((*one.key, "relax"), f"to {entry.relax.to}: the parent allows {before.relax or 'no relaxing'}")
        changes["relax"] = entry.relax.to
    if entry.tests is not None:
        changes["tests"] = tuple(dict.fromkeys([*before.tests, *_tests(layer, one, Defaults())]))
    if entry.map is not None:
        changes["map"] = {**before.map, **entry.map}
    return replace(before, **changes, set_by={**before.set_by, **_set_by(layer, one)})


def _changed_meaning(layer: Layer, one: _Entry, before: Category) -> dict[str, Any]:
    """What the category is, in other words. Other examples may stand but for floors; other words need a waiver."""
    changes: dict[str, Any] = {}
    for name, value in _meaning(one.entry).items():
        if value == getattr(before, name):
            continue
        fewer_exceptions = name == "not_this" and set(value) <= set(before.not_this)
        examples = name in ("violates", "allowed") and before.floor is None
        what = f"another {name} can mean less than the parent's"
        if fewer_exceptions or examples or _loosens(layer, (*one.key, name), one, before, what):
            changes[name] = value
    return changes


def _severity(layer: Layer, one: _Entry, before: Category) -> Severity:
    severity = one.entry.severity or before.severity
    what = f"{severity} is below the parent's {before.severity}"
    lower = SEVERITIES.index(severity) < SEVERITIES.index(before.severity)
    return before.severity if lower and not _loosens(layer, (*one.key, "severity"), one, before, what) else severity


def _meaning(entry: CategoryEntry) -> dict[str, Any]:
    """The fields that say what the category is."""
    found: dict[str, Any] = {}
    if entry.definition is not None:
        found["definition"] = entry.definition
    if entry.not_this is not None:
        found["not_this"] = tuple(entry.not_this)
    if entry.examples is not None:
        found |= {"violates": tuple(entry.examples.violates), "allowed": tuple(entry.examples.allowed)}
    return found


def _judges(layer: Layer, one: _Entry, before: Category) -> tuple[str, ...]:
    new = tuple(one.entry.judges or ())
    gone = [name for name in before.judges if name not in new]
    what = f"leaves out {', '.join(gone)}"
    if gone and not _loosens(layer, (*one.key, "judges"), one, before, what):
        return tuple(dict.fromkeys([*before.judges, *new]))
    return new


def _risk(layer: Layer, one: _Entry, before: Category) -> Any:
    given: RiskTarget | None = one.entry.risk
    merged = merge_risk(before.risk, given)
    for name, what in before.risk.looser(merged):
        if not _loosens(layer, (*one.key, "risk", name), one, before, what):
            return before.risk
    return merged


def _follows(layer: Layer, before: Category, above: Sequence[_Entry]) -> Category:
    """A child that the file does not name: it follows the entry above it, where that is tighter."""
    chains = _extended(layer, above, before)
    added = [name for one in above for name in one.entry.judges or () if name not in before.judges]
    risks = [one.entry.risk for one in above if one.entry.risk is not None]
    risk = merge_risk(before.risk, risks[0]) if risks else before.risk
    risk = before.risk if before.risk.looser(risk) else risk
    return replace(before, **chains, judges=(*before.judges, *dict.fromkeys(added)), risk=risk)


# --- checks and what follows from the rest ----------------------------------------------------------------------------


def _check_conditions(layer: Layer, one: _Entry, settings: ResolvedPolicy, categories: Mapping[str, Category]) -> None:
    conditions = [((*one.key, "when"), one.entry.when)] if one.entry.when else []
    conditions += [((*one.key, "rules", place, "if"), rule.if_) for place, rule in enumerate(one.entry.rules or ())]
    for key, condition in conditions:
        names = {"attributes": settings.attributes, "entities": settings.entities, "categories": categories}
        for text in find_faults(condition or {}, **names):
            layer.fault(key, text)


def _check_judges(
    layer: Layer, settings: ResolvedPolicy, changed: Sequence[Category], entries: Mapping[str, _Entry]
) -> None:
    for category in changed:
        key = entries[category.id].key if category.id in entries else ("categories",)
        for name in category.judges:
            if name not in settings.judges:
                layer.fault((*key, "judges"), f"{name}: no such judge; {did_you_mean(name, settings.judges)}")
        if category.template is not None and category.template not in settings.templates:
            hint = did_you_mean(category.template, settings.templates)
            layer.fault((*key, "template"), f"{category.template}: no such text under templates; {hint}")
        acts = any(follow(category.actions[s], {}, layer.today).action != "allow" for s in SURFACES)
        if acts and not category.judges:
            layer.fault((*key, "judges"), "something is done about it, and no judge looks for it; name one")


def _settle(layer: Layer, category: Category, settings: ResolvedPolicy, before: Category | None) -> Category:
    """Floor, thresholds and digests, which follow from everything else."""
    category = replace(category, hash=category_hash(category))
    floor = None
    if any(category.id == name or category.id.startswith(f"{name}.") for name in settings.floors):
        floor = _floor_of(category)
        if category.relax is not None:
            category = replace(category, relax=None)
    calibrations = {
        name: Calibration.load(str(settings.judges[name]["calibration"]))
        for name in category.judges
        if "calibration" in settings.judges.get(name, {})
    }
    thresholds = thresholds_of(category, calibrations)
    if before is not None and not before.risk.looser(category.risk):
        thresholds = {
            name: own.no_looser_than(before.thresholds.get(name) or before.thresholds.get("*"))
            for name, own in thresholds.items()
        }
    return with_json(replace(category, floor=floor, thresholds=thresholds))


def rule_text(category: Category, children: Sequence[Category]) -> str:
    """The rule in the words of the policy, for judges; children are judged apart from what they refine."""
    parts = [
        f"{category.title}. {category.definition}" if category.title != category.definition else category.definition
    ]
    if category.not_this:
        parts.append(f"Not this: {'; '.join(category.not_this)}.")
    if children:
        parts.append(f"Judged apart, so not this: {'; '.join(sorted(child.title for child in children))}.")
    for name, texts in (("Violates it", category.violates), ("Does not", category.allowed)):
        if texts:
            parts.append(f"{name}: {' / '.join(texts[:SHOWN_EXAMPLES])}")
    return " ".join(parts)


def _floor_of(category: Category) -> dict[str, Any]:
    """What stands when no condition holds and every waiver has ended."""
    return {
        f"{kind}.{surface}": follow(getattr(category, kind)[surface], {}, date.max).action
        for kind in KINDS
        for surface in SURFACES
    }


def _set_by(layer: Layer, one: _Entry) -> dict[str, str]:
    depth = len(one.key)
    return {
        ".".join(map(str, path[depth:])): layer.where(*path)
        for path in layer.lines_below(one.key)
        if path[depth] != "children"
    }
