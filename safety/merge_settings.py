"""Everything of a policy but its categories, merged onto its parent: by id, lists replaced, nothing made looser."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from safety.layer import Layer
from safety.metrics import METRICS, OTHER_METRICS
from safety.resolved import ResolvedPolicy
from safety.schema import EntityList, GateEntry
from workbench.errors import did_you_mean

KINDS = ("organisation", "product", "community")
TEMPLATES = {"default": "I can't help with that. If you think this is a mistake, please rephrase or contact support."}
RUNTIME: Mapping[str, Any] = {
    "streaming": {"mode": "hold_back", "window_tokens": 48, "overlap_tokens": 16},
    "fail": "closed",
    "budget_ms": 2000,
    "log": {"content": "hash_only", "sample_to_review": 0.0},
}
REVIEW: Mapping[str, Any] = {"queue": "default", "need": 1, "double_label": 0.1, "seconds_per_item": 20}


def merge_settings(layer: Layer) -> ResolvedPolicy:
    """The resolved policy without its categories and hash; faults go into the layer."""
    file, parent = layer.file, layer.parent
    kind = file.kind or (parent.kind if parent else "organisation")
    if parent and KINDS.index(kind) < KINDS.index(parent.kind):
        layer.fault(("kind",), f"a {kind} cannot extend a {parent.kind}; the order is {' -> '.join(KINDS)}")
    floors = list(dict.fromkeys([*(parent.floors if parent else ()), *(file.floor or ())]))
    context = merge_plain(parent.context if parent else {}, layer.plain(file.context))
    attributes = [*(parent.attributes if parent else ()), *((file.context and file.context.attributes) or ())]
    context.pop("attributes", None)
    return ResolvedPolicy(
        id=file.id,
        version=file.version,
        kind=kind,
        title=file.title or (parent.title if parent else file.id),
        owner=file.owner or (parent.owner if parent else ""),
        lineage=(*(parent.lineage if parent else ()), layer.name),
        categories={},
        dimensions=_dimensions(layer),
        judges=_judges(layer),
        combine=_combine(layer),
        runtime=_runtime(layer),
        templates={**(parent.templates if parent else TEMPLATES), **(file.templates or {})},
        gates=_gates(layer),
        entities=_entities(layer),
        attributes=tuple(dict.fromkeys(attributes)),
        review=merge_plain(parent.review if parent else REVIEW, layer.plain(file.review)),
        context=context,
        scope={**(parent.scope if parent else {}), **(file.scope or {})},
        floors=tuple(floors),
        hash="",
        path=str(layer.path),
        set_by=_set_by(layer),
    )


def merge_plain(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged by key, at every depth; everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge_plain(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _dimensions(layer: Layer) -> dict[str, Mapping[str, Any]]:
    merged = dict(layer.parent.dimensions) if layer.parent else {}
    for name, given in (layer.file.dimensions or {}).items():
        new = {"categories": given} if isinstance(given, list) else layer.plain(given)
        old = merged.get(name, {})
        for key, value in new.items():
            gone = [entry for entry in old.get(key, ()) if isinstance(value, list) and entry not in value]
            if gone:
                layer.fault(("dimensions", name), f"{key}: leaves out {', '.join(gone)}, which the parent measures")
        merged[name] = {**old, **new}
    return merged


def _judges(layer: Layer) -> dict[str, Mapping[str, Any]]:
    merged = dict(layer.parent.judges) if layer.parent else {}
    for name, given in (layer.file.judges or {}).items():
        new = layer.plain(given) | {"effect": given.settled_effect}
        if given.calibration is not None:
            new["calibration"] = str(layer.path.parent / given.calibration)
        old = merged.get(name)
        if old is not None and not old.get("replaceable"):
            changed = sorted(k for k in {*old, *new} - {"calibration", "timeout_ms"} if old.get(k) != new.get(k))
            if changed:
                layer.fault(
                    ("judges", name, changed[0]),
                    "the parent does not say that this judge is replaceable; name one of your own and add it",
                )
        merged[name] = {**(old or {}), **new} if old and not old.get("replaceable") else new
    return merged


def _combine(layer: Layer) -> str:
    parent = layer.parent.combine if layer.parent else None
    if parent == "strictest" and layer.file.combine == "agree":
        layer.fault(("combine",), "agree is looser than the parent's strictest; leave it out")
    return layer.file.combine or parent or "strictest"


def _runtime(layer: Layer) -> dict[str, Any]:
    old = layer.parent.runtime if layer.parent else None
    merged = merge_plain(old or RUNTIME, layer.plain(layer.file.runtime))
    if old is not None:
        looser: tuple[tuple[tuple[str, ...], Callable[[Any, Any], bool]], ...] = (
            (("fail",), lambda was, is_: was == "closed" and is_ == "open"),
            (("streaming", "mode"), lambda was, is_: was == "whole" and is_ != "whole"),
            (("log", "sample_to_review"), lambda was, is_: is_ < was),
        )
        for path, is_looser in looser:
            was, now = _at(old, path), _at(merged, path)
            if is_looser(was, now):
                layer.fault(("runtime", *path), f"{now} is looser than the parent's {was}")
    return merged


def _at(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = data
    for key in path:
        value = value[key]
    return value


def _gates(layer: Layer) -> tuple[Mapping[str, Any], ...]:
    merged = {gate["key"]: gate for gate in (layer.parent.gates if layer.parent else ())}
    inherited = dict(merged)
    for place, entry in enumerate(layer.file.gates or ()):
        new = layer.plain(entry) | {"key": entry.key}
        old = inherited.get(entry.key)
        if old is not None and (fault := _looser_gate(old, entry)):
            layer.fault(("gates", place), f"{entry.key}: {fault}")
        if old is None and entry.key in merged:
            layer.fault(("gates", place), f"{entry.key}: given twice; keep one")
        merged[entry.key] = new
    return tuple(merged.values())


def _looser_gate(old: Mapping[str, Any], new: GateEntry) -> str | None:
    if ("upper" in old) != (new.upper is not None):
        return "the parent bounds the other side"
    if new.upper is not None and new.upper > old["upper"]:
        return f"upper {new.upper:g} is looser than the parent's {old['upper']:g}"
    if new.lower is not None and new.lower < old["lower"]:
        return f"lower {new.lower:g} is looser than the parent's {old['lower']:g}"
    if new.min_n < old["min_n"]:
        return f"min_n {new.min_n} is less than the parent's {old['min_n']}"
    return "the parent requires it" if old["required"] and not new.required else None


def _entities(layer: Layer) -> dict[str, tuple[str, ...]]:
    merged = dict(layer.parent.entities) if layer.parent else {}
    for name, given in (layer.file.entities or {}).items():
        if name in merged:
            layer.fault(("entities", name), "the parent's rules rest on this list; name one of your own")
            continue
        names = [*given.names, *_names_in(layer, name, given)]
        merged[name] = tuple(sorted({" ".join(one.casefold().split()) for one in names}))
    return merged


def _names_in(layer: Layer, name: str, given: EntityList) -> list[str]:
    if given.file is None:
        return []
    path = layer.path.parent / given.file
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return [text for row in rows for text in (row["name"], *row.get("aliases", ()))]
    except OSError as error:
        layer.fault(("entities", name, "file"), f"{path}: cannot be read: {error.strerror or error}")
    except (ValueError, KeyError, TypeError, AttributeError):
        layer.fault(("entities", name, "file"), f'{path}: lines such as {{"name": "Mo", "aliases": ["Moritz"]}} needed')
    return []


def check_names(layer: Layer, settings: ResolvedPolicy, categories: Mapping[str, Any]) -> None:
    """Faults for names in dimensions, floors and gates that no category bears."""
    for name, given in (layer.file.dimensions or {}).items():
        for category in given if isinstance(given, list) else given.categories or ():
            if category not in categories:
                layer.fault(("dimensions", name), f"{category}: no such category; {did_you_mean(category, categories)}")
    for place, name in enumerate(layer.file.floor or ()):
        if name not in categories:
            layer.fault(("floor", place), f"{name}: no such category; {did_you_mean(name, categories)}")
    for place, gate in enumerate(layer.file.gates or ()):
        _check_gate(layer, place, gate, settings, categories)


def _check_gate(
    layer: Layer, place: int, gate: GateEntry, settings: ResolvedPolicy, categories: Mapping[str, Any]
) -> None:
    if gate.metric not in (*METRICS, *OTHER_METRICS):
        hint = did_you_mean(gate.metric, (*METRICS, *OTHER_METRICS))
        layer.fault(("gates", place, "metric"), f"{gate.metric}: no such metric; {hint}")
    for field, known in (("category", categories), ("dimension", settings.dimensions)):
        given = getattr(gate, field) or ()
        for name in [given] if isinstance(given, str) else given:
            if name not in known:
                layer.fault(("gates", place, field), f"{name}: no such {field}; {did_you_mean(name, known)}")


def _set_by(layer: Layer) -> dict[str, str]:
    """Leaf -> `file:line` of everything that is no category."""
    found = dict(layer.parent.set_by) if layer.parent else {}
    heads = ("owner", "title", "kind", "combine", "scope", "dimensions", "judges", "runtime", "templates")
    for path in layer.lines:
        if path and path[0] in (*heads, "entities", "context", "review") and len(path) <= 3:
            found[".".join(map(str, path))] = layer.where(*path)
    for name, key in (("attributes", ("context", "attributes")), ("floors", ("floor",))):
        if key in layer.lines:
            found[name] = layer.where(*key)
    for place, gate in enumerate(layer.file.gates or ()):
        found[f"gates.{gate.key}"] = layer.where("gates", place)
    return found
