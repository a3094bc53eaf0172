"""Rewards that hold an answer against a known one: numbers, choices, JSON by a schema. Knows text, runs nothing."""

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import regex
from pydantic import Field

from training.rewards.base import Base, Failed, Sample, Score, Services
from workbench.config import StrictModel
from workbench.errors import ConfigError

MOST_DIGITS = 60
"""Longer ones are no answers, and cost time as fractions."""
_NUMBER = r"[-+−]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:\s?/\s?\d+)?\s?%?"
_MARKED = (
    regex.compile(r"\\boxed\{\s*(?P<n>[^{}]+?)\s*\}"),
    regex.compile(r"####\s*(?P<n>[^\n]+)"),
    regex.compile(r"<answer>\s*(?P<n>.*?)\s*</answer>", regex.DOTALL | regex.IGNORECASE),
    regex.compile(rf"(?:answer|result)\s*(?:is|:|=)\s*\**\s*(?P<n>{_NUMBER})", regex.IGNORECASE),
)


def read_number(text: str) -> Fraction | None:
    """A number as people write it: 1,234.5, −3, 3/4, 12%, $5; None: it is none.

    >>> read_number("$1,234.50"), read_number("3/4"), read_number("50%"), read_number("five")
    (Fraction(2469, 2), Fraction(3, 4), Fraction(1, 2), None)
    """
    plain = text.strip().rstrip(".").replace("−", "-").replace("$", "").replace(",", "").replace(" ", "")
    share = plain.endswith("%")
    plain = plain.removesuffix("%").removeprefix("+")
    if not regex.fullmatch(r"-?(\d+(\.\d+)?|\.\d+)(/\d+)?", plain) or len(plain) > MOST_DIGITS:
        return None
    above, _, below = plain.partition("/")
    if below and not int(below):
        return None
    return Fraction(above) / (int(below) if below else 1) / (100 if share else 1)


def find_number(text: str) -> Fraction | None:
    """The number that an answer comes to: where it is marked (boxed, ####, tags, "the answer is"), else the last."""
    for pattern in _MARKED:
        found = list(pattern.finditer(text))
        if found:
            inside = found[-1].group("n")
            whole = read_number(inside)
            return whole if whole is not None else _last(inside)
    return _last(text)


def _last(text: str) -> Fraction | None:
    numbers = [read_number(one.group()) for one in regex.finditer(_NUMBER, text) if one.group().strip()]
    known = [one for one in numbers if one is not None]
    return known[-1] if known else None


class MathOptions(StrictModel):
    """Of `math`."""

    column: str = "answer"
    """Column with the right number; in a text such as GSM8K's, the one after ####."""
    tolerance: float = Field(default=0.0, ge=0)
    """Share of the right number that an answer may be off by; 0: exactly."""


class Math(Base):
    """1 where the number that the answer comes to is the right one, else 0."""

    Options: ClassVar[type[StrictModel]] = MathOptions

    def __init__(self, options: MathOptions, services: Services) -> None:
        self.options = options

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Score:
        if self.options.column not in sample.row:
            return Failed(f"its row has no column {self.options.column!r}")
        wanted = find_number(str(sample.row[self.options.column]))
        if wanted is None:
            return Failed(f"column {self.options.column!r} of its row holds no number")
        found = find_number(sample.answer)
        if found is None:
            return 0.0
        return float(abs(found - wanted) <= abs(wanted) * Fraction(self.options.tolerance))


class ChoiceOptions(StrictModel):
    """Of `multiple_choice`."""

    column: str = "answer"
    """Column with the right choice: a letter, or its place from 0."""
    choices: str = "ABCD"
    """Letters in order."""


class MultipleChoice(Base):
    """1 where the answer names the right letter and no other, else 0."""

    Options: ClassVar[type[StrictModel]] = ChoiceOptions

    def __init__(self, options: ChoiceOptions, services: Services) -> None:
        self.options = options
        if len(set(options.choices)) < 2:
            raise ConfigError("multiple_choice.choices: two letters at least")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Score:
        if self.options.column not in sample.row:
            return Failed(f"its row has no column {self.options.column!r}")
        right = self._right(sample.row[self.options.column])
        if right is None:
            return Failed(f"column {self.options.column!r} of its row names none of {self.options.choices}")
        return float(find_choice(sample.answer, self.options.choices) == right)

    def _right(self, value: Any) -> str | None:
        choices = self.options.choices
        if isinstance(value, int) and not isinstance(value, bool):
            return choices[value] if 0 <= value < len(choices) else None
        text = str(value).strip()
        return text.upper() if len(text) == 1 and text.upper() in choices else None


def find_choice(answer: str, choices: str = "ABCD") -> str | None:
    """The letter that an answer settles on; None: none, or several.

    >>> find_choice("The answer is (B)."), find_choice("A or B"), find_choice("c")
    ('B', None, 'C')
    """
    letters = regex.escape(choices)
    for pattern in (
        rf"<answer>\s*\(?([{letters}])\)?[.)]?\s*</answer>",
        rf"answer\s*(?:is|:)?\s*:?\s*\**\(?([{letters}])\)?(?![\w'])",
        rf"^\s*\**\(?([{letters}])(?:[.):]|\**\s*$)",
    ):
        found = {one.upper() for one in regex.findall(pattern, answer, regex.IGNORECASE)}
        if found:
            return found.pop() if len(found) == 1 else None
    alone = set(regex.findall(rf"(?<![\w'])\(?([{letters}])\)?(?![\w'])", answer))
    return alone.pop() if len(alone) == 1 else None


class SchemaOptions(StrictModel):
    """Of `json_schema`."""

    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    """JSON Schema (2020-12); default: any JSON object."""
    column: str = ""
    """Column with a schema of the row's own."""
    fenced: bool = True
    """Take what stands in a ```json block, if there is one; false: the whole answer must be JSON."""


class JsonSchema(Base):
    """1 where the answer is JSON that fits a schema; half where it is JSON that does not; else 0."""

    Options: ClassVar[type[StrictModel]] = SchemaOptions

    def __init__(self, options: SchemaOptions, services: Services) -> None:
        self.options = options
        self._check(options.schema_ or {"type": "object"}, "json_schema.schema")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample) for sample in samples]

    def _check(self, schema: Any, where: str) -> Any:
        import jsonschema

        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ConfigError(f"{where}: is no JSON Schema: {error.message}") from None
        if _refers_out(schema):
            raise ConfigError(f"{where}: refers to another document, which is not fetched; put it in")
        return jsonschema.Draft202012Validator(schema)

    def _one(self, sample: Sample) -> Score:
        schema: Any = self.options.schema_ or {"type": "object"}
        if self.options.column:
            schema = sample.row.get(self.options.column)
            try:
                schema = json.loads(schema) if isinstance(schema, str) else schema
                validator = self._check(schema, f"column {self.options.column!r}")
            except (ValueError, ConfigError) as error:
                return Failed(f"column {self.options.column!r} of its row is no schema: {error}")
        else:
            validator = self._check(schema, "json_schema.schema")
        text = sample.answer.strip()
        block = regex.search(r"```(?:json)?\s*\n(.*?)```", text, regex.DOTALL) if self.options.fenced else None
        try:
            found = json.loads(block.group(1) if block else text)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if validator.is_valid(found) else 0.5


def _refers_out(schema: Any) -> bool:
    if isinstance(schema, dict):
        refers = schema.get("$ref")
        return (isinstance(refers, str) and not refers.startswith("#")) or any(map(_refers_out, schema.values()))
    return isinstance(schema, list) and any(map(_refers_out, schema))
