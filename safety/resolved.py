"""A resolved policy: what is left when parents, floors and waivers are settled. Frozen; knows no file and no model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from safety.conditions import Condition, holds
from workbench.records import ACTIONS, Action, Severity, Surface

RANK: Mapping[str, int] = {action: place for place, action in enumerate(ACTIONS)}
WITHHOLDS = RANK["rewrite"]


def is_withheld(action: Action) -> bool:
    """Whether a text does not reach its reader as it was written: rewrite, hold, block."""
    return RANK[action] >= WITHHOLDS


def strictest(*actions: Action) -> Action:
    """The strictest of some actions."""
    return max(actions, key=RANK.__getitem__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An action that one file sets for a surface of a category."""

    action: Action
    set_by: str
    """`file:line`."""
    when: Condition | None = None
    until: str | None = None
    """Last day (ISO) of the waiver by which this step loosens its parent; None: it loosens nothing."""
    not_below: Action | None = None
    """How far the parent lets it be loosened; None: not at all."""


Chain = tuple[tuple[Step, ...], ...]
"""Of one surface: a group of steps for each file, the root's first; in a group the first step that applies counts."""


def follow(chain: Chain, context: Mapping[str, Any], today: date, floor: Action = "allow") -> Step:
    """The step that counts: each file may tighten what stood before, and loosen it only as a live waiver says.

    Whatever the files say, nothing comes out that is looser than `floor`.
    """
    current: Step | None = None
    if len(chain) == 1 and len(chain[0]) == 1 and chain[0][0].when is None and chain[0][0].until is None:
        current, chain = chain[0][0], ()  # most of them
    for group in chain:
        step = next((s for s in group if _applies(s, context, today)), None)
        if step is None:
            continue
        if current is None or RANK[step.action] >= RANK[current.action]:
            current = step
        elif step.until is not None and step.not_below is not None:
            action = strictest(step.action, step.not_below)
            current = current if RANK[action] >= RANK[current.action] else _with_action(step, action)
    if current is None:
        raise ValueError("a chain without a step that always applies")
    return current if RANK[current.action] >= RANK[floor] else _with_action(current, floor)


def _applies(step: Step, context: Mapping[str, Any], today: date) -> bool:
    live = step.until is None or today <= date.fromisoformat(step.until)
    return live and (step.when is None or holds(step.when, context))


def _with_action(step: Step, action: Action) -> Step:
    return Step(action=action, set_by=step.set_by, when=step.when, until=step.until, not_below=step.not_below)


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Below `low` a probability means allowed, from `high` on violates, between them uncertain."""

    low: float
    high: float
    guarantee: str
    """What is promised, with its assumption; `no guarantee: ...` where nothing is."""

    def no_looser_than(self, other: "Threshold | None") -> "Threshold":
        """The same, but clearing and doubting no more than `other` does."""
        if other is None:
            return self
        return Threshold(low=min(self.low, other.low), high=min(self.high, other.high), guarantee=self.guarantee)


@dataclass(frozen=True, kw_only=True, slots=True)
class Risk:
    """What a threshold must promise."""

    miss: float | None = None
    """Share of violations that are cleared, at most."""
    wrong_action: float | None = None
    """Share of allowed texts that are acted on, at most."""
    confidence: float = 0.95
    fixed: Threshold | None = None
    """Set by hand: no guarantee."""

    def looser(self, other: "Risk") -> list[tuple[str, str]]:
        """In what `other` promises less: the field, and a sentence."""
        if self.fixed and other.fixed:
            was, now = (self.fixed.low, self.fixed.high), (other.fixed.low, other.fixed.high)
            what = f"{now[0]:g} to {now[1]:g} is above the parent's {was[0]:g} to {was[1]:g}"
            return [("fixed", what)] if now[0] > was[0] or now[1] > was[1] else []
        if other.fixed:
            given = self.miss is not None or self.wrong_action is not None
            return [("fixed", "thresholds by hand guarantee nothing, and the parent's target does")] if given else []
        found: list[tuple[str, str]] = []
        if self.miss is not None and (other.miss is None or other.miss > self.miss):
            found.append(("miss", f"{other.miss or 1:g} is above the parent's {self.miss:g}"))
        if self.wrong_action is not None and (other.wrong_action or 0.0) < self.wrong_action:
            what = f"{other.wrong_action or 0:g} acts on less than the parent's {self.wrong_action:g}"
            found.append(("wrong_action", what))
        if other.confidence < self.confidence:
            found.append(("confidence", f"{other.confidence:g} is below the parent's {self.confidence:g}"))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """One category of a resolved policy, children included under dotted ids."""

    id: str
    title: str
    definition: str
    not_this: tuple[str, ...] = ()
    violates: tuple[str, ...] = ()
    """Examples that violate it."""
    allowed: tuple[str, ...] = ()
    """Examples that do not."""
    severity: Severity = "medium"
    expressive: bool = False
    """Wrong actions cost more here: people's own expression."""
    judges: tuple[str, ...] = ()
    actions: Mapping[Surface, Chain] = field(default_factory=dict)
    uncertain: Mapping[Surface, Chain] = field(default_factory=dict)
    on_error: Mapping[Surface, Chain] = field(default_factory=dict)
    risk: Risk = field(default_factory=Risk)
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    """By id of the judge; `*` is for all others. Without one the judge's own value counts, with no guarantee."""
    relax: Action | None = None
    """How far a child policy may loosen it, with a waiver; None: not at all."""
    floor: Mapping[str, Action] | None = None
    """`actions.model_output` and so on -> what nothing may loosen; None: it is no floor."""
    template: str | None = None
    """Id of the text that is served in place of a withheld one."""
    rewrite: str = "template"
    """How: `template`, or `mask` (the judge's spans)."""
    tests: tuple[str, ...] = ()
    """Files of its own test rows."""
    map: Mapping[str, str] = field(default_factory=dict)
    """Its name in other taxonomies."""
    text: str = ""
    """The rule as a judge reads it: what violates it, what does not, and what is judged apart."""
    origin: str = ""
    """`id@version` of the policy that introduced it."""
    is_rule: bool = False
    """A community's rule, written as a sentence."""
    hash: str = ""
    """Digest of definition and examples."""
    json: str = ""
    """All of it that counts, as sorted JSON: its part of what the policy's hash is made of."""
    set_by: Mapping[str, str] = field(default_factory=dict)
    """Leaf (`severity`, `risk.miss`) -> `file:line`."""

    def step(
        self, kind: str, surface: Surface, context: Mapping[str, Any] | None = None, *, today: date | None = None
    ) -> Step:
        """What is done on a surface; `kind`: actions, uncertain or on_error. Without `today` no waiver has expired."""
        chain: Chain = getattr(self, kind)[surface]
        floor = (self.floor or {}).get(f"{kind}.{surface}", "allow")
        return follow(chain, context or {}, today or date.min, floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedPolicy:
    """A policy with its parents, floors and waivers settled: all that evaluation and runtime need."""

    id: str
    version: int
    kind: str
    title: str
    owner: str
    lineage: tuple[str, ...]
    """`id@version` from the root to this one."""
    categories: Mapping[str, Category]
    dimensions: Mapping[str, Mapping[str, Any]]
    """Dimension -> its settings; `categories` lists those it reports on."""
    judges: Mapping[str, Mapping[str, Any]]
    """Id -> kind, effect, when, timeout_ms, options."""
    combine: str
    """`strictest`: of several judges the strictest reading counts. `agree`: where they differ it is uncertain."""
    runtime: Mapping[str, Any]
    templates: Mapping[str, str]
    gates: tuple[Mapping[str, Any], ...]
    entities: Mapping[str, tuple[str, ...]]
    """List -> names, case-folded."""
    attributes: tuple[str, ...]
    """Attributes of a request's context that conditions may ask for."""
    review: Mapping[str, Any]
    context: Mapping[str, Any]
    scope: Mapping[str, Any]
    floors: tuple[str, ...]
    hash: str
    """SHA-256 of all of the above as sorted JSON, file names and lines left out."""
    path: str = ""
    set_by: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader must know: waivers that have expired, thresholds without a guarantee."""

    @property
    def name(self) -> str:
        """`id@version`."""
        return f"{self.id}@{self.version}"

    def action(
        self,
        category: str,
        surface: Surface,
        context: Mapping[str, Any] | None = None,
        *,
        today: date | None = None,
    ) -> Action:
        """What is done with a violation of a category."""
        return self.categories[category].step("actions", surface, context, today=today).action

    def permits(
        self,
        category: str,
        surface: Surface,
        context: Mapping[str, Any] | None = None,
        *,
        today: date | None = None,
    ) -> bool:
        """Whether this business serves what the category describes: what a permission test asks."""
        return not is_withheld(self.action(category, surface, context, today=today))

    def refusal(self, category: str | None) -> str:
        """The text that is served in place of a withheld one."""
        found = self.categories.get(category or "")
        return self.templates[(found.template if found else None) or "default"]

    def dimension_of(self, category: str) -> str:
        """The dimension that reports on a category; of its parent where it is not listed itself; else `safety`."""
        for name in self._ancestors(category):
            for dimension, settings in self.dimensions.items():
                if name in settings.get("categories", ()):
                    return dimension
        return "safety"

    @staticmethod
    def _ancestors(category: str) -> Iterator[str]:
        parts = category.split(".")
        for count in range(len(parts), 0, -1):
            yield ".".join(parts[:count])

    def judged(
        self, surface: Surface, context: Mapping[str, Any] | None = None, *, today: date | None = None
    ) -> list[str]:
        """The categories about which something is done on a surface."""
        return [name for name in self.categories if self.action(name, surface, context, today=today) != "allow"]
