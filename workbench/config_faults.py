"""Faults that pydantic found, as lines that a person can act on. Knows models and key paths; knows no file.

pydantic names a fault by its own path, in which members of a union stand between the keys; here the path is the one
in the data, and several complaints about one place (a union) become one line.
"""

import json
import types
from collections.abc import Container, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from workbench.errors import did_you_mean

Path = tuple[str | int, ...]


def fault_lines(error: ValidationError, model: type[BaseModel], data: Any) -> list[str]:
    """One line per faulty place: `mix[0].wieght: unknown key; did you mean "weight"?`."""
    found: dict[Path, list[str]] = {}
    for fault in error.errors(include_url=False):
        path = _path_in(data, fault["loc"], missing=fault["type"] == "missing")
        text = _describe(fault, model, fault["loc"])
        texts = found.setdefault(path, [])
        if text not in texts:
            texts.append(text)
    return [f"{show_path(path)}: {' or '.join(texts)}" if path else " or ".join(texts) for path, texts in found.items()]


def show_path(path: Sequence[str | int]) -> str:
    """`("mix", 0, "x")` as `mix[0].x`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _path_in(data: Any, loc: Path, *, missing: bool) -> Path:
    """The parts of pydantic's path that lead through the data; the names of union members do not."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if part in _parts_of(data):
            data = data[part]
            path.append(part)
        elif missing and position == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _parts_of(data: Any) -> Container[str | int]:
    if isinstance(data, list):
        return range(len(data))
    return data if isinstance(data, dict) else ()


def _describe(fault: Any, model: type[BaseModel], loc: Path) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {did_you_mean(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    if kind == "missing":
        return "missing; this key is required"
    if kind == "literal_error":
        expected = [str(choice) for choice in _choices_at(model, loc)]
        got = fault["input"]
        hint = did_you_mean(got, expected) if isinstance(got, str) else ""
        near = f"; {hint}" if hint.startswith("did") else ""
        return f"got {_show(got)}, expected {context.get('expected', '')}{near}"
    if kind == "value_error":
        return str(context["error"])
    message = fault["msg"].removeprefix("Input ").rstrip(".")
    next_step = "; write true or false" if kind in ("bool_type", "bool_parsing") else ""
    return f"{message[:1].lower()}{message[1:]}, got {_show(fault['input'])}{next_step}"


def _show(value: Any) -> str:
    kind = {bool: "true or false", str: "text", list: "a list", dict: "a mapping", type(None): "nothing"}.get(
        type(value)
    )
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} ({kind})" if kind else text


def _types_at(model: Any, loc: Path) -> list[Any]:
    """The types that may stand at a path: fields by name, items of lists, values of mappings, members of unions."""
    here = _members(model)
    for part in loc:
        below: list[Any] = []
        for candidate in here:
            below += _step(candidate, part)
        here = below or here  # the name of a union's member leads nowhere: stay
    return here


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _step(candidate: Any, part: str | int) -> list[Any]:
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        for name, field in candidate.model_fields.items():
            if part in (name, field.alias):
                return _members(field.annotation)
        return []
    arguments = [a for a in get_args(candidate) if a is not Ellipsis]
    if not arguments or get_origin(candidate) is Literal:
        return []
    return _members(arguments[-1])  # the item of a list, the value of a mapping


def _keys_at(model: type[BaseModel], loc: Path) -> list[str]:
    return [
        field.alias or name
        for found in _types_at(model, loc)
        if isinstance(found, type) and issubclass(found, BaseModel)
        for name, field in found.model_fields.items()
    ]


def _choices_at(model: type[BaseModel], loc: Path) -> list[Any]:
    return [c for found in _types_at(model, loc) if get_origin(found) is Literal for c in get_args(found)]
