"""Conditions of a policy on the context of a request. Knows plain values; knows no policy.

A condition is a mapping of attribute to what it must be; all must hold. The context comes from whoever
authenticated the caller, never from the text. An attribute that is not there makes every condition on it false,
except `{present: false}` and `{not: ...}`.

    {caller_role: pentester}                 equal
    {region: [eu, uk]}                       one of
    {engagement_id: {present: true}}         there and not empty
    {target: {in: engagement.scope}}         among the values of another attribute
    {caller_age: {below: 18}}                a number; also at_least
    {channel: {not: [email]}}                none of
    {entity_in: owned_characters}            the text names an entry of that list
    {violates_none_of: [hate, csae]}         no judge found these, and all were judged
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from workbench.errors import did_you_mean

OPERATORS = ("present", "in", "below", "at_least", "not")
ENTITIES = "entity_in"
CLEAN = "violates_none_of"
BUILT_IN = (ENTITIES, CLEAN)
Condition = Mapping[str, Any]


def holds(condition: Condition, context: Mapping[str, Any]) -> bool:
    """Whether every part of the condition holds. `context` is plain values; dots lead into mappings.

    >>> holds({"role": ["tester", "admin"], "job": {"present": True}}, {"role": "tester", "job": "E-7"})
    True
    >>> holds({"target": {"in": "job.scope"}}, {"target": "10.0.0.8"})
    False
    """
    return all(_part_holds(name, asked, context) for name, asked in condition.items())


def find_faults(
    condition: Condition, *, attributes: Sequence[str], entities: Iterable[str], categories: Iterable[str]
) -> list[str]:
    """What is wrong with a condition, a line each; empty if nothing is. The names are those that it may use."""
    faults: list[str] = []
    for name, asked in condition.items():
        if name in BUILT_IN:
            known = entities if name == ENTITIES else categories
            faults += [f"{name}: {text}" for text in _name_faults(asked, known)]
        elif name.split(".")[0] not in attributes:
            faults.append(f"{name}: not declared under context.attributes; {did_you_mean(name, attributes)}")
        elif isinstance(asked, Mapping):
            if len(asked) != 1 or next(iter(asked)) not in OPERATORS:
                faults.append(f"{name}: one of {', '.join(OPERATORS)} is expected, got {', '.join(map(str, asked))}")
            else:
                faults += _operand_faults(name, *next(iter(asked.items())))
        elif asked is None or asked == []:
            faults.append(f"{name}: empty; give a value, a list of values or an operator")
    return faults


def _name_faults(asked: Any, known: Iterable[str]) -> list[str]:
    names = _listed(asked)
    if not names or not all(isinstance(name, str) for name in names):
        return ["a name or a list of names is expected"]
    known = set(known)
    return [f"{name!r} is not known; {did_you_mean(name, known)}" for name in names if name not in known]


def _operand_faults(place: str, operator: str, operand: Any) -> list[str]:
    if operator == "present" and not isinstance(operand, bool):
        return [f"{place}.present: write true or false"]
    if operator in ("below", "at_least") and (isinstance(operand, bool) or not isinstance(operand, int | float)):
        return [f"{place}.{operator}: a number is expected"]
    if operator == "in" and not isinstance(operand, str):
        return [f"{place}.in: the name of another attribute is expected"]
    return []


def _part_holds(name: str, asked: Any, context: Mapping[str, Any]) -> bool:
    if name == ENTITIES:
        return bool(set(_listed(asked)) & set(context.get("entities") or ()))
    if name == CLEAN:
        return set(_listed(asked)) <= set(context.get("clean") or ())
    value = look_up(context, name)
    if isinstance(asked, Mapping):
        operator, operand = next(iter(asked.items()))
        return _OPERATORS[operator](value, operand, context)
    return value is not None and any(_same(value, one) for one in _listed(asked))


def look_up(context: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted attribute; None if it is not there."""
    value: Any = context
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one kind: `true` is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPERATORS: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "present": lambda value, operand, _: (value not in (None, "", [], {}, False)) is operand,
    "in": lambda value, operand, context: (
        value is not None and any(_same(value, one) for one in _listed(look_up(context, operand)))
    ),
    "below": lambda value, operand, _: _is_number(value) and value < operand,
    "at_least": lambda value, operand, _: _is_number(value) and value >= operand,
    "not": lambda value, operand, _: not any(_same(value, one) for one in _listed(operand)),
}
