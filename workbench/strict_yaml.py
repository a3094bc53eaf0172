"""YAML 1.2 text to plain Python values, without the surprises of YAML 1.1. Knows text; knows no model and no file.

`no`, `on`, `12:30` and `2024-01-01` are text, `1e-4` is a number and `010` is ten. Keys are text as written. A key
given twice in one mapping is an error, and so are tags such as `!!python/object`.
"""

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver


class DuplicateKey(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own name and kind)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            key.value = _whole(key.value)
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise DuplicateKey(None, None, f'key "{key.value}" is given twice', key.start_mark)
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    data: dict[Hashable, Any] = {}
    yield data  # filled afterwards, as PyYAML does: an anchor may point back to its own mapping
    data.update(loader.construct_mapping(node))


def _whole(text: str) -> str:
    """JSON writes characters beyond U+FFFF as two escapes; PyYAML reads them as two halves. Join them."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _construct_str(loader: _Loader, node: yaml.ScalarNode) -> str:
    return _whole(str(loader.construct_scalar(node)))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


# The core schema of YAML 1.2.2, section 10.3.2; merge keys (`<<`) are kept from 1.1.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _firsts = ["" if char == "\0" else char for char in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), _firsts)

_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class YamlFault(ValueError):
    """Not valid YAML. `str()` is one line: what is wrong, with the line and column where that is known."""


T = TypeVar("T")
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a file may cost before it is refused."""

    characters: int = 1_000_000
    aliases: int = 50
    depth: int = 20
    nodes: int = 100_000
    """Keys and values, aliases counted as often as they are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A YAML text as plain values, and where each of them stands."""

    data: Any
    lines: dict[KeyPath, int]
    """Path of keys and list places -> line, counted from 1."""


class _LimitedLoader(_Loader):
    limits = Limits()
    aliases = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > self.limits.aliases:
                raise yaml.MarkedYAMLError(problem=f"more than {self.limits.aliases} aliases", problem_mark=mark)
        self.depth += 1
        if self.depth > self.limits.depth + 1:
            raise yaml.MarkedYAMLError(problem=f"more than {self.limits.depth} levels deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_FastLoader: Any = _LimitedLoader
if yaml.__with_libyaml__:
    _libyaml: Any = vars(yaml)["cyaml"]

    class _LibyamlLoader(_libyaml.CParser, _LimitedLoader):
        """libyaml reads the events, four times as fast; nodes are composed above, where limits are kept."""

        get_single_node = Composer.get_single_node

        def __init__(self, text: str) -> None:
            _libyaml.CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    _FastLoader = _LibyamlLoader


def parse_document(text: str, limits: Limits | None = None) -> Document:
    """The one document in `text`, with the line of each key and list entry, within limits.

    Raises:
        YamlFault: not YAML, or larger, deeper or more entangled than the limits allow.
    """
    limits = limits or Limits()
    if len(text) > limits.characters:
        raise YamlFault(f"{len(text):,} characters, and {limits.characters:,} are allowed")
    try:
        return _read_document(text, limits, _FastLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        # Faults are told in one way only, and JSON's escapes in halves are beyond libyaml.
        return _guarded(lambda: _read_document(text, limits, _LimitedLoader))


def _read_document(text: str, limits: Limits, kind: type[Any]) -> Document:
    loader = kind(text)
    loader.limits = limits
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(data=None, lines={})
        lines: dict[KeyPath, int] = {}
        for path, line in _walk(node, ()):
            if len(lines) >= limits.nodes:
                raise ValueError(f"more than {limits.nodes:,} keys and values, aliases expanded")
            lines.setdefault(path, line)
        return Document(data=loader.construct_document(node), lines=lines)
    finally:
        loader.dispose()


def _walk(node: yaml.Node, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            merged = key.tag == "tag:yaml.org,2002:merge"
            below = path if merged else (*path, str(key.value))
            yield below, key.start_mark.line + 1
            yield from _walk(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield (*path, place), value.start_mark.line + 1
            yield from _walk(value, (*path, place))


def parse_yaml(text: str) -> Any:
    """The one document in `text`; None if it is empty. Within limits that no file written by hand comes near.

    Raises:
        YamlFault: with line and column, both counted from 1; larger or more entangled than any honest file.
    """
    if len(text) > _WIDE.characters:
        raise YamlFault(f"{len(text):,} characters, and {_WIDE.characters:,} are allowed")
    return _guarded(lambda: _read_plain(text))


_WIDE = Limits(characters=20_000_000, aliases=1_000, depth=100, nodes=2_000_000)
"""For files of one's own, such as recipes and suites."""


def _read_plain(text: str) -> Any:
    loader = _LimitedLoader(text)
    loader.limits = _WIDE
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Aliases of aliases grow without end once they are written out, as JSON for pydantic is.
        if loader.aliases and _weight(node, {}, ()) > _WIDE.nodes:
            raise ValueError(f"more than {_WIDE.nodes:,} keys and values, aliases expanded")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _weight(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Nodes below a node, aliases counted as often as they are used, in time that does not count them so."""
    if id(node) in above:
        return 0  # an anchor that holds itself: told by whoever writes it out
    if id(node) not in known:
        inner = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            known[id(node)] = 1 + sum(_weight(value, known, inner) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            known[id(node)] = 1 + sum(_weight(value, known, inner) for value in node.value)
        else:
            known[id(node)] = 1
    return known[id(node)]


def _guarded(read: Callable[[], T]) -> T:
    try:
        return read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = "; ".join(part for part in (error.context, error.problem) if part)
        raise YamlFault(f"{where}{what}") from error
    except yaml.reader.ReaderError as error:
        raise YamlFault(f"character {error.position}: {error.reason}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise YamlFault(" ".join(str(error).split()) or type(error).__name__) from error
