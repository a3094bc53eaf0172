"""Rewards that read the answer's text alone: a pattern, a format, a length. Knows regular expressions."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import regex
from pydantic import Field, model_validator

from training.rewards.base import Base, Failed, Sample, Score, Services
from workbench.config import StrictModel
from workbench.errors import ConfigError

TIMEOUT_S = 1.0
"""Of one match: some patterns take for ever on some texts."""


def compile_pattern(pattern: str, flags: str, *, where: str) -> regex.Pattern[str]:
    """A pattern with flags (i, m, s, x). Raises ConfigError: it is none."""
    known = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}
    total = 0
    for flag in flags:
        if flag not in known:
            raise ConfigError(f"{where}: flag {flag!r}: known: i, m, s, x")
        total |= known[flag]
    try:
        return regex.compile(pattern, total)
    except regex.error as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from None


class RegexOptions(StrictModel):
    """Of `regex`."""

    pattern: str
    match: Literal["search", "full"] = "search"
    """Anywhere in the answer, or all of it."""
    flags: str = ""
    """i: case does not matter; m: lines; s: a dot is a new line too; x: spaces for reading."""
    column: str = ""
    """Column with what the pattern's group `answer` (else its first group) must equal; default: matching is enough."""


class Regex(Base):
    """1 where the answer matches a pattern, else 0; with a column, where what it caught equals it."""

    Options: ClassVar[type[StrictModel]] = RegexOptions

    def __init__(self, options: RegexOptions, services: Services) -> None:
        self.options = options
        self.pattern = compile_pattern(options.pattern, options.flags, where="regex.pattern")
        if options.column and not self.pattern.groups:
            raise ConfigError("regex.column: the pattern has no group to compare with it; put one in ( )")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Score:
        match = self.pattern.fullmatch if self.options.match == "full" else self.pattern.search
        try:
            found = match(sample.answer, timeout=TIMEOUT_S)
        except TimeoutError:
            return Failed(f"the pattern took longer than {TIMEOUT_S:g} s on this answer")
        if not self.options.column:
            return float(found is not None)
        if self.options.column not in sample.row:
            return Failed(f"its row has no column {self.options.column!r}")
        if found is None:
            return 0.0
        caught = found.group("answer" if "answer" in self.pattern.groupindex else 1)
        wanted = str(sample.row[self.options.column])
        return float(caught is not None and caught.strip().casefold() == wanted.strip().casefold())


class FormatOptions(StrictModel):
    """Of `format`. Each thing that is asked for counts the same."""

    tags: tuple[str, ...] = ()
    """Names of tags, such as think and answer, that must come once each, in this order, closed, and not empty."""
    starts: str = ""
    ends: str = ""
    lines: int | None = Field(default=None, ge=1)
    """Lines that are not empty, exactly."""
    max_words: int | None = Field(default=None, ge=1)
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not any((self.tags, self.starts, self.ends, self.lines, self.max_words, self.contains, self.lacks)):
            raise ValueError("nothing is asked for; name tags, starts, ends, lines, max_words, contains or lacks")
        return self


class Format(Base):
    """Share of what is asked for of an answer's form: tags, beginning, end, lines, words."""

    Options: ClassVar[type[StrictModel]] = FormatOptions

    def __init__(self, options: FormatOptions, services: Services) -> None:
        self.options = options

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample.answer.strip()) for sample in samples]

    def _one(self, answer: str) -> float:
        asked = self.options
        checks = [self._tag(answer, place) for place in range(len(asked.tags))]
        if asked.starts:
            checks.append(answer.startswith(asked.starts))
        if asked.ends:
            checks.append(answer.endswith(asked.ends))
        if asked.lines is not None:
            checks.append(sum(bool(line.strip()) for line in answer.splitlines()) == asked.lines)
        if asked.max_words is not None:
            checks.append(0 < len(answer.split()) <= asked.max_words)
        checks += [text in answer for text in asked.contains]
        checks += [bool(answer) and text not in answer for text in asked.lacks]
        return sum(checks) / len(checks)

    def _tag(self, answer: str, place: int) -> bool:
        tags = self.options.tags
        opens, closes = f"<{tags[place]}>", f"</{tags[place]}>"
        start, end = answer.find(opens), answer.find(closes)
        before = answer.find(f"</{tags[place - 1]}>") if place else -1
        once = answer.count(opens) == answer.count(closes) == 1
        return once and before < start < end and bool(answer[start + len(opens) : end].strip())


class LengthOptions(StrictModel):
    """Of `length`."""

    at_most: int = Field(ge=1)
    """Tokens up to which nothing is taken off."""
    worst: int = Field(ge=2)
    """Tokens at which all is taken off; between the two the score falls in a line."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.worst <= self.at_most:
            raise ValueError(f"worst {self.worst} must be above at_most {self.at_most}")
        return self


class Length(Base):
    """1 for short answers, falling to 0 (soft punishment of length; DAPO, Yu et al. 2025)."""

    Options: ClassVar[type[StrictModel]] = LengthOptions

    def __init__(self, options: LengthOptions, services: Services) -> None:
        self.options = options

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        most, worst = self.options.at_most, self.options.worst
        return [min(1.0, max(0.0, (worst - sample.tokens) / (worst - most))) for sample in samples]
