"""Keyword lists and regular expressions. A match raises a judgement; no match clears nothing. Knows no model.

Every search has a time limit (`regex` module): a pattern that backtracks for ever is unscorable, not a hung guard.
Text is folded before it is searched: NFKC, invisible characters out, look-alike letters to their Latin twins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety.judges.base import CategoryLike, Passage
from workbench.errors import ConfigError, did_you_mean
from workbench.records import Judgement

MAX_CHARACTERS = 200_000
"""Longer texts are unscorable here: cutting them would clear what stands behind the cut."""
NAMED = {
    "email": r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}(?!\w)",
    "phone": r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,4}(?![\w.])",
    "card": r"(?<!\d)(?:\d{4}[ -]?){3}\d{4}(?!\d)",
    "iban": r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?(?!\w)",
    "ip_address": r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])",
    "ssn": r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])",
}
"""Patterns that a policy can name. They find candidates: a phone number looks like other numbers."""
_TWINS = str.maketrans(
    "аеорсухіјѕһԁԛԝκνοτρ" + "АВЕКМНОРСТХІЈЅ",
    "aeopcyxijshdqwkvotp" + "ABEKMHOPCTXIJS",
)
"""Cyrillic and Greek letters that look Latin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One pattern for one category, or for all that a policy asks (`*`)."""

    category: str
    pattern: Any
    """Compiled by the `regex` module."""
    text: str
    """As it was written."""


class RuleJudge:
    """Rules as a judge. No match is `allowed` without a probability: a policy reads rules as `raise_only`, and takes it
    for no clearance."""

    def __init__(self, *, name: str, rules: Sequence[Rule], timeout_ms: float = 50.0) -> None:
        self.name = name
        self.rules = tuple(rules)
        self.timeout_ms = timeout_ms

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        """Matches as `violates` with their spans; a search that took too long is `unscorable`."""
        return [[self._judge_one(passage.text, category.id) for category in categories] for passage in passages]

    def _judge_one(self, text: str, category: str) -> Judgement:
        if len(text) > MAX_CHARACTERS:
            reason = f"{len(text):,} characters, more than {MAX_CHARACTERS:,}"
            return Judgement(category=category, value="unscorable", judge=self.name, evidence=reason)
        folded, places = fold(text)
        spans: list[tuple[int, int]] = []
        matched: list[str] = []
        for rule in self.rules:
            if rule.category not in ("*", category):
                continue
            try:
                found = [match.span() for match in rule.pattern.finditer(folded, timeout=self.timeout_ms / 1000)]
            except TimeoutError:
                reason = f"rule {rule.text!r} took more than {self.timeout_ms:g} ms"
                return Judgement(category=category, value="unscorable", judge=self.name, evidence=reason)
            spans += [(places[a], places[b - 1] + 1) for a, b in found if b > a]
            matched += [rule.text] if found else []
        if not matched:
            return Judgement(category=category, value="allowed", judge=self.name, evidence="no rule matched")
        evidence = "matched " + ", ".join(repr(one) for one in matched[:5])
        return Judgement(
            category=category,
            value="violates",
            judge=self.name,
            probability=1.0,
            uncertainty=0.0,
            evidence=evidence,
            spans=tuple(sorted(set(spans))),
        )


def fold(text: str) -> tuple[str, list[int]]:
    """The text as it is searched, and for each of its characters the place in the original."""
    import unicodedata

    out: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        for folded in unicodedata.normalize("NFKC", char):
            if unicodedata.category(folded) == "Cf":
                continue
            out.append(folded.translate(_TWINS))
            places.append(place)
    return "".join(out), places


def build_rules(
    *,
    name: str,
    words: Sequence[str] | Mapping[str, Sequence[str]] = (),
    patterns: Sequence[str] | Mapping[str, Sequence[str]] = (),
    file: str | Path | None = None,
    timeout_ms: float = 50.0,
) -> RuleJudge:
    """A judge from words (whole words, any case) and patterns, in lists or by category, or from a file of them.

    A file is YAML with `words:` and `patterns:`, or plain text with one word a line. Raises ConfigError naming the
    pattern that is none, the file that is not there, or that there is no rule at all.
    """
    found = _rules_of(name, words, patterns)
    if file is not None:
        found += _read_rules(name, Path(file))
    if not found:
        raise ConfigError(f"judge {name}: no rules; give words, patterns or a file")
    return RuleJudge(name=name, rules=found, timeout_ms=timeout_ms)


def _read_rules(name: str, path: Path) -> list[Rule]:
    from workbench.strict_yaml import parse_yaml

    if not path.is_file():
        raise ConfigError(f"judge {name}: file {path}: no such file")
    text = path.read_text(encoding="utf-8")
    if path.suffix not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.splitlines()]
        return _rules_of(f"{name}: {path}", [line for line in lines if line and not line.startswith("#")], ())
    document = parse_yaml(text)
    if not isinstance(document, Mapping):
        raise ConfigError(f"judge {name}: {path}: expected a mapping with words and patterns")
    for key in document:
        if key not in ("words", "patterns"):
            raise ConfigError(
                f"judge {name}: {path}: {key}: unknown key; {did_you_mean(str(key), ['words', 'patterns'])}"
            )
    return _rules_of(f"{name}: {path}", document.get("words") or (), document.get("patterns") or ())


def _rules_of(where: str, words: Any, patterns: Any) -> list[Rule]:
    rules: list[Rule] = []
    for kind, given in (("words", words), ("patterns", patterns)):
        by_category = given if isinstance(given, Mapping) else {"*": given}
        for category, texts in by_category.items():
            if isinstance(texts, str) or not isinstance(texts, Sequence):
                raise ConfigError(f"judge {where}: {kind}.{category}: expected a list, got {type(texts).__name__}")
            rules += [_rule(where, str(category), str(text), kind) for text in texts]
    return rules


def _rule(where: str, category: str, text: str, kind: str) -> Rule:
    import regex

    source = rf"(?<!\w){regex.escape(text, special_only=True)}(?!\w)" if kind == "words" else NAMED.get(text, text)
    try:
        pattern = regex.compile(source, regex.IGNORECASE if kind == "words" else 0)
    except regex.error as error:
        raise ConfigError(f"judge {where}: {kind}.{category}: {text!r}: {error}") from None
    if pattern.search(""):
        raise ConfigError(f"judge {where}: {kind}.{category}: {text!r} matches the empty text, so everything")
    return Rule(category=category, pattern=pattern, text=text)
