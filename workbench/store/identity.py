"""Content hashes: the same content has the same id, on every machine. Knows JSON and SHA-256; knows no table.

Canonical JSON here: keys sorted, no blanks, ASCII only (so that NUL and lone surrogates survive any database), floats
as Python's shortest text that reads back to the same bits, 0.0 for -0.0, and "Infinity", "-Infinity", "NaN" as strings.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar

R = TypeVar("R")


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings, tuples, paths and NumPy scalars as the values that JSON has.

    Raises:
        TypeError: there is no plain form; the message names the type.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) + 0.0 if math.isfinite(value) else _non_finite(value)  # + 0.0: equal zeros, equal ids
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(member) for member in value]
    if isinstance(value, (set, frozenset)):
        return sorted((to_plain(member) for member in value), key=canonical_json)
    if isinstance(value, PurePath):
        return str(value)
    to_list = getattr(value, "tolist", None)  # NumPy scalars and arrays, without importing NumPy
    if callable(to_list):
        return to_plain(to_list())
    raise TypeError(f"{type(value).__name__} has no plain form: turn it into text or numbers first")


def _non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def without_defaults(record: Any) -> dict[str, Any]:
    """A dataclass in plain values, less the fields that have their default.

    What is hashed goes through this: a field that a later version adds leaves the ids of older records as they are.
    """
    plain: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING or value != default:
            plain[field.name] = _nested(value)
    return plain


def _nested(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return without_defaults(value)
    if isinstance(value, (list, tuple)):
        return [_nested(member) for member in value]
    return to_plain(value)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value; equal values give equal text.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    return dump_plain(to_plain(value))


def dump_plain(plain: Any) -> str:
    """Canonical JSON of what `to_plain` or `without_defaults` returned, which is not walked again."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(kind: str, value: Any) -> str:
    """SHA-256 hex of `kind` and the canonical JSON of `value`; `kind` keeps equal contents of two kinds apart."""
    return hashlib.sha256(f"{kind}\n{canonical_json(value)}".encode()).hexdigest()


def read_record(kind: type[R], text: str | bytes) -> R:
    """A record of `workbench.records` from its JSON. Keys that this version does not know are left out.

    Raises:
        ValueError: the JSON is not of this record.
    """
    # Not validate_json: its parser refuses lone surrogates, which real data has.
    return _adapter(kind).validate_python(json.loads(text))


@cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
