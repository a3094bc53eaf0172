"""What stands in a policy file: strict models of one file. Knows no parent and no other file; `resolve` does.

Ids are lower-case letters, digits, `_` and `-`; a child category's id is dotted (`cyber_offense.exploit_dev`).
"""

import re
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from workbench.config import StrictModel
from workbench.records import Action, Severity, Surface

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
SurfaceActions = dict[Surface, Action]
PINNED = re.compile(r"^([a-z0-9][a-z0-9_-]{0,63})@([1-9][0-9]{0,8})$")
KEYWORDS = ("keyword", "regex", "rules", "entity")
"""Kinds of judge that look at words: they may raise a judgement, never clear one."""


class Waiver(StrictModel):
    """Who let this file loosen what its parent says, why and until when."""

    reason: Text
    approved_by: Text
    expires: str
    """Last day it is valid, YYYY-MM-DD."""

    @field_validator("expires")
    @classmethod
    def _is_a_day(cls, text: str) -> str:
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            raise ValueError(f'got "{text}", expected a day such as 2027-03-31') from None


class Relax(StrictModel):
    """How far files that extend this one may loosen a category."""

    to: Action


class Fixed(StrictModel):
    """Thresholds set by hand, between which a probability is uncertain. They guarantee nothing."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; exchange them")
        return self


class RiskTarget(StrictModel):
    """What the thresholds of a judge must promise on calibration data; `fixed` promises nothing."""

    miss: float | None = Field(default=None, gt=0, lt=1)
    """Share of violations that may be cleared."""
    wrong_action: float | None = Field(default=None, gt=0, lt=1)
    """Share of allowed texts that may be acted on."""
    confidence: float | None = Field(default=None, ge=0.5, lt=1)
    fixed: float | Fixed | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.fixed is not None and (self.miss is not None or self.wrong_action is not None):
            raise ValueError("either a target (miss, wrong_action) or fixed thresholds, not both")
        if isinstance(self.fixed, float) and not 0 <= self.fixed <= 1:
            raise ValueError(f"fixed: got {self.fixed:g}, expected a probability between 0 and 1")
        return self


class Examples(StrictModel):
    """Texts that show where the line is."""

    violates: list[Text] = Field(default_factory=list)
    allowed: list[Text] = Field(default_factory=list)


class CategoryRule(StrictModel):
    """Other actions under a condition. Of the rules of one file the first whose condition holds counts."""

    if_: dict[str, Any] = Field(alias="if", min_length=1)
    actions: SurfaceActions = Field(min_length=1)


class CategoryEntry(StrictModel):
    """A category, or what this file changes about one of its parents'."""

    title: Text | None = None
    definition: Text | None = None
    not_this: list[Text] | None = None
    examples: Examples | None = None
    severity: Severity | None = None
    expressive: bool | None = None
    judges: list[Id] | None = None
    actions: SurfaceActions | None = None
    uncertain: SurfaceActions | None = None
    on_error: SurfaceActions | None = None
    risk: RiskTarget | None = None
    relax: Relax | None = None
    when: dict[str, Any] | None = Field(default=None, min_length=1)
    """The actions of this entry hold only under this condition; else what was set before."""
    waiver: Waiver | None = None
    rules: list[CategoryRule] | None = None
    children: dict[Id, "CategoryEntry"] | None = None
    tests: str | list[str] | None = None
    """Files of rows {text, expect: violates | allowed}, beside the policy file."""
    template: Id | None = None
    rewrite: Literal["template", "mask"] | None = None
    map: dict[Id, str] | None = None


class RuleEntry(StrictModel):
    """A rule of a community in one sentence: a category named `rule.ID`."""

    id: Id
    text: Text
    severity: Severity = "low"
    actions: SurfaceActions | None = None
    examples: Examples | None = None
    not_this: list[Text] | None = None
    judges: list[Id] | None = None
    tests: str | list[str] | None = None


class Defaults(StrictModel):
    """What categories that this file introduces have where they are silent."""

    actions: SurfaceActions | None = None
    uncertain: SurfaceActions | None = None
    on_error: SurfaceActions | None = None
    risk: RiskTarget | None = None
    judges: list[Id] | None = None
    severity: Severity | None = None
    tests: str | None = None
    """`{id}` stands for the category's id."""


class Dimension(StrictModel):
    """One line of an assessment."""

    categories: list[str] | None = None
    suites: list[str] | None = None
    probes: list[str] | None = None
    attacks: list[str] | None = None
    max_turns: int | None = Field(default=None, ge=1, le=64)


class JudgeEntry(StrictModel):
    """A judge as configuration; `options` are the kind's own and are checked by it."""

    kind: Id
    effect: Literal["decide", "raise_only"] | None = None
    """`raise_only`: what it finds counts, what it does not find says nothing. Keyword judges are so always."""
    when: Literal["always", "uncertain"] = "always"
    """`uncertain`: asked only where the others are in doubt."""
    timeout_ms: int | None = Field(default=None, ge=1)
    calibration: str | None = None
    """File of rows {category, probability, label: violates | allowed} that was drawn at random from real traffic."""
    options: dict[str, Any] = Field(default_factory=dict)
    replaceable: bool = False
    """Files that extend this one may put another judge in its place under the same id."""

    @model_validator(mode="after")
    def _words_only_raise(self) -> Self:
        if self.kind in KEYWORDS and self.effect == "decide":
            raise ValueError(f"effect: a {self.kind} judge may raise, never clear; write raise_only or leave it out")
        return self

    @property
    def settled_effect(self) -> str:
        """The effect, by the kind where the file is silent."""
        return self.effect or ("raise_only" if self.kind in KEYWORDS else "decide")


class EntityList(StrictModel):
    """Names that conditions can ask for: `{entity_in: owned_characters}`."""

    names: list[Text] = Field(default_factory=list)
    file: str | None = None
    """JSON lines {name, aliases: [...]}, beside the policy file."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.names and not self.file:
            raise ValueError("names or file is needed")
        return self


class Context(StrictModel):
    """What a request brings along, and what a judge is shown beside the text."""

    attributes: list[Id] | None = None
    """Attributes that conditions may ask for; the gateway sets them, never the text."""
    card: str | None = None
    """File that describes the community, for judges and reviewers."""
    thread_depth: int | None = Field(default=None, ge=0, le=50)
    show: list[Id] | None = None
    assume: dict[str, Any] | None = None
    """The context in which an assessment asks: what attributes a typical request has."""


class Streaming(StrictModel):
    """How a streamed answer is checked: no token leaves before the window that holds it was judged."""

    mode: Literal["hold_back", "whole"] | None = None
    """`whole`: nothing leaves before the answer is complete."""
    window_tokens: int | None = Field(default=None, ge=1)
    overlap_tokens: int | None = Field(default=None, ge=0)


class Log(StrictModel):
    """What an audit row holds of the text, and how much traffic is sampled for review."""

    content: Literal["none", "hash_only", "full"] | None = None
    sample_to_review: float | None = Field(default=None, ge=0, le=1)


class Runtime(StrictModel):
    """How the guard works."""

    streaming: Streaming | None = None
    fail: Literal["closed", "open"] | None = None
    """What happens where the guard itself fails; closed: nothing is served."""
    budget_ms: int | None = Field(default=None, ge=1)
    """Time that judging one text may take; beyond it is unscorable."""
    log: Log | None = None


class GateEntry(StrictModel):
    """A rule of promotion; bounds are one-sided at 95%."""

    metric: str
    per: Literal["category", "allowed_category", "dimension", "report"] | None = None
    category: str | list[str] | None = None
    dimension: str | list[str] | None = None
    probe: str | None = None
    against: Literal["baseline"] | None = None
    """`baseline`: the bound is on the increase over the baseline's assessment, on the same questions."""
    upper: float | None = Field(default=None, gt=0, le=1)
    lower: float | None = Field(default=None, ge=0, lt=1)
    min_n: int = Field(default=1, ge=1)
    required: bool = True
    note: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.upper is None) == (self.lower is None):
            raise ValueError("one bound is needed: upper or lower")
        if self.against is not None and self.upper is None:
            raise ValueError("against: an increase over the baseline is bounded from above; give upper")
        given = [name for name in ("per", "category", "dimension") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one of per, category and dimension, got {' and '.join(given)}")
        return self

    @property
    def key(self) -> str:
        """What it is about: a child's gate of the same key may only be tighter."""
        about = self.category or self.dimension or self.per or "report"
        about = about if isinstance(about, str) else "+".join(sorted(about))
        compared = " against baseline" if self.against else ""
        return f"{self.metric}[{about}{'/' + self.probe if self.probe else ''}]{compared}"


class Review(StrictModel):
    """Who looks at what this policy sends to people."""

    queue: Id | None = None
    need: int | None = Field(default=None, ge=1, le=9)
    """Opinions an item needs."""
    double_label: float | None = Field(default=None, ge=0, le=1)
    sla_minutes: int | None = Field(default=None, ge=1)
    reviewers: dict[str, str] | None = None
    seconds_per_item: int | None = Field(default=None, ge=1)
    """Time one opinion takes, for estimates of reviewer hours."""


class PolicyFile(StrictModel):
    """One policy file."""

    schema_: Literal["policy/v1"] = Field(alias="schema")
    id: Id
    version: int = Field(ge=1)
    kind: Literal["organisation", "product", "community"] | None = None
    title: Text | None = None
    owner: str | None = None
    extends: str | None = None
    """Parent as `id@version`."""
    scope: dict[Id, str | list[str]] | None = None
    floor: list[str] | None = None
    """Categories that no file below may loosen."""
    defaults: Defaults | None = None
    dimensions: dict[Id, Dimension | list[str]] | None = None
    categories: dict[Id, CategoryEntry] | None = None
    rules: list[RuleEntry] | None = None
    judges: dict[Id, JudgeEntry] | None = None
    combine: Literal["strictest", "agree"] | None = None
    entities: dict[Id, EntityList] | None = None
    context: Context | None = None
    runtime: Runtime | None = None
    templates: dict[Id, Text] | None = None
    """Texts that are served in place of withheld ones; `default` is for all others."""
    gates: list[GateEntry] | None = None
    review: Review | None = None

    @field_validator("extends")
    @classmethod
    def _pinned(cls, text: str | None) -> str | None:
        if text is not None and not PINNED.match(text):
            raise ValueError(f'got "{text}", expected a pinned parent such as default@3')
        return text
