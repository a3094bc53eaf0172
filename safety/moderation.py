"""Posts against many rules at once: which rules, in which order a prompt is laid out, what comes of it.

    moderator = Moderator(Communities(load_policy("communities")), judge)
    for found in moderator.moderate([Post(id="1", text="...", community="askhistory")]):
        found.decision.action, found.doubt

A post is judged by the rules of its own community in one pass for each rule, and all passes of a chunk go to the engine
in one call, where its prefix tree computes what they share once. What is decided is what the guard would decide: the
same views of the text, the worst of them, the same `decide`. Knows judges and policies; reads and writes no file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from safety.communities import Communities, rule_readers
from safety.entities import find_entities
from safety.guard import MAX_CHARACTERS
from safety.judges import CategoryLike, Judge, Passage, build_judge
from safety.judges.model import ModelJudge
from safety.policy import ResolvedPolicy, decide, doubt_of, read_judgement
from safety.prompt import LAYOUTS, Layout
from safety.views import plain_view, text_views
from workbench.errors import ConfigError
from workbench.records import GuardDecision, Judgement, Surface

_WEIGHT: Mapping[str, int] = {"allowed": 0, "uncertain": 1, "unscorable": 2, "violates": 3}
LAYOUT_SAMPLE = 64
"""Posts by which a layout is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """A text with where it stands."""

    id: str
    text: str
    community: str = ""
    title: str = ""
    parent: str = ""
    """What it answers."""
    author: str = ""
    """Signals of its author, as a judge is shown them."""
    rules: tuple[str, ...] = ()
    """Rules in plain words that hold for it, beside its community's."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the policy's conditions ask for; set by the platform, never by the text."""
    views: float = 0.0
    """Readers it is likely to have in the next hour."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The row as it came, for whoever shows it again."""

    def passage(self, text: str | None = None) -> Passage:
        """As a judge is shown it."""
        given = {"community": self.community, "author": self.author, "title": self.title, "parent": self.parent}
        shown = {name: value for name, value in given.items() if value}
        return Passage(text=self.text if text is None else text, context=shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moderated:
    """What was found about one post."""

    post: Post
    policy: ResolvedPolicy
    decision: GuardDecision
    judgements: tuple[Judgement, ...]
    """The worst of each judge and rule, over all views of the text."""

    @property
    def probability(self) -> float | None:
        """Of the likeliest violation; None: nothing could be scored."""
        return max((o.probability for o in self.decision.outcomes if o.probability is not None), default=None)

    @property
    def doubt(self) -> float:
        """1 - |2p - 1| of the rule that is most in doubt; 1 where a rule could not be scored."""
        return max((doubt_of(outcome) for outcome in self.decision.outcomes), default=0.0)

    @property
    def unscorable(self) -> tuple[str, ...]:
        """Rules that could not be scored: never safe."""
        return tuple(o.category for o in self.decision.outcomes if o.value == "unscorable")


class Moderator:
    """Judges posts by the policies of their communities.

    Args:
        judge: stands in the place of the policy's models, and of what it says is replaceable; its other judges (lists
            of words, patterns, a trained classifier) are built as the policy says.
        surface: where the texts stand.

    Raises:
        ConfigError: no rule of the policy is judged by something that may be replaced, or a judge cannot be built.
    """

    def __init__(self, communities: Communities, judge: Judge, *, surface: Surface = "content") -> None:
        self.communities, self.judge = communities, judge
        self.surface: Surface = surface
        self._others: dict[str, Judge] = {}
        base = communities.base
        readers = set(rule_readers(base))
        if not any(readers & set(base.categories[name].judges) for name in base.judged(surface)):
            raise ConfigError(
                f"policy {base.name}: no rule about {surface} is judged by a model or a replaceable judge, so a "
                "checkpoint has nothing to say; give its categories a judge of kind model"
            )

    def moderate(self, posts: Sequence[Post]) -> list[Moderated]:
        """What is found about each post, in their order; all prompts are scored in one call."""
        today = datetime.now(UTC).date()
        asked = [self._ask(post, today) for post in posts]
        self._read_rules(asked)
        self._read_others(asked)
        return [self._conclude(one, today) for one in asked]

    def choose_layout(self, posts: Sequence[Post]) -> tuple[Layout, dict[str, int]]:
        """The layout whose prompts share more, by distinct tokens of the prompts of some posts, and both counts.

        A judge that is no model has one layout; so do models whose tokens are not known, which are counted by letter.
        """
        judge = self.judge
        if not isinstance(judge, ModelJudge):
            return "text_first", {}
        today = datetime.now(UTC).date()
        asked = [self._ask(post, today) for post in posts[:LAYOUT_SAMPLE]]
        pairs = [pair for one in asked for pair in one.pairs()]
        costs: dict[str, int] = {layout: _cost(judge.in_layout(layout), pairs) for layout in LAYOUTS}
        return min(LAYOUTS, key=lambda layout: costs[layout]), costs

    def _ask(self, post: Post, today: date) -> "_Asked":
        policy = self.communities.policy_of(post.community, post.rules)
        context = {**post.attributes, "entities": find_entities(policy, post.text)}
        names = policy.judged(self.surface, context, today=today)
        one = _Asked(post=post, policy=policy, context=context, categories=tuple(names))
        if not names or not plain_view(post.text).strip():
            one.categories = ()  # a blank text violates nothing, and judges can say nothing of it
        elif len(post.text) <= MAX_CHARACTERS:
            one.views = tuple(text_views(post.text))
            readers = set(rule_readers(policy))
            one.readers = {name: [j for j in policy.categories[name].judges if j in readers] for name in names}
        return one

    def _read_rules(self, asked: Sequence["_Asked"]) -> None:
        pairs = [(one, pair) for one in asked for pair in one.pairs()]
        if not pairs:
            return
        for (one, (_, categories)), row in zip(pairs, _judge_pairs(self.judge, [p for _, p in pairs]), strict=True):
            for category, judgement in zip(categories, row, strict=True):
                # under the name of each judge in whose place it stands: the policy's thresholds go by name
                one.found += [replace(judgement, judge=name) for name in one.readers[category.id]]

    def _read_others(self, asked: Sequence["_Asked"]) -> None:
        """Words, patterns and classifiers, for many posts in one call."""
        jobs: dict[tuple[str, tuple[str, ...], str], list[tuple[_Asked, Passage]]] = {}
        for one in asked:
            for name, entry in one.policy.judges.items():
                own = [c for c in one.categories if name in one.policy.categories[c].judges]
                if not own or name in rule_readers(one.policy) or entry.get("when") == "uncertain":
                    continue
                for view in one.views:
                    key = (name, tuple(own), one.policy.hash)
                    jobs.setdefault(key, []).append((one, one.post.passage(view)))
        for (name, own, _), given in jobs.items():
            policy = given[0][0].policy
            if name not in self._others:
                entry = policy.judges[name]
                self._others[name] = build_judge(name, str(entry["kind"]), entry.get("options"))
            rows = self._others[name].judge([p for _, p in given], [policy.categories[c] for c in own])
            for (one, _), row in zip(given, rows, strict=True):
                one.found += row

    def _conclude(self, one: "_Asked", today: date) -> Moderated:
        judgements = one.worst()
        decision = decide(one.policy, self.surface, judgements, one.context, categories=one.categories, today=today)
        return Moderated(post=one.post, policy=one.policy, decision=decision, judgements=tuple(judgements))


@dataclass(eq=False, kw_only=True, slots=True)
class _Asked:
    """A post while it is judged."""

    post: Post
    policy: ResolvedPolicy
    context: Mapping[str, Any]
    categories: tuple[str, ...]
    views: tuple[str, ...] = ()
    """None of a text that is too long: no judgement at all is unscorable."""
    readers: dict[str, list[str]] = field(default_factory=dict)
    """Category -> judges in whose place the model stands."""
    found: list[Judgement] = field(default_factory=list)

    def pairs(self) -> list[tuple[Passage, list[CategoryLike]]]:
        """What the model is asked: each view, with the rules that it judges."""
        rules: list[CategoryLike] = [self.policy.categories[name] for name in self.categories if self.readers.get(name)]
        return [(self.post.passage(view), rules) for view in self.views] if rules else []

    def worst(self) -> list[Judgement]:
        """Of each judge and rule the worst view."""
        found: dict[tuple[str, str], Judgement] = {}
        for one in self.found:
            key = (one.judge, one.category)
            if key not in found or self._badness(one) > self._badness(found[key]):
                found[key] = one
        return list(found.values())

    def _badness(self, one: Judgement) -> tuple[int, float]:
        value = read_judgement(self.policy.categories[one.category], one)
        return _WEIGHT[value], one.probability or 0.0


def _judge_pairs(judge: Judge, pairs: Sequence[tuple[Passage, Sequence[CategoryLike]]]) -> list[list[Judgement]]:
    """As ModelJudge.judge_pairs, of any judge: texts with the same rules are judged in one call."""
    if isinstance(judge, ModelJudge):
        return judge.judge_pairs(pairs)
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, (_, categories) in enumerate(pairs):
        groups.setdefault(tuple((c.id, c.definition) for c in categories), []).append(place)
    rows: list[list[Judgement]] = [[] for _ in pairs]
    for places in groups.values():
        found = judge.judge([pairs[i][0] for i in places], pairs[places[0]][1])
        for place, row in zip(places, found, strict=True):
            rows[place] = row
    return rows


def _cost(judge: ModelJudge, pairs: Iterable[tuple[Passage, Sequence[CategoryLike]]]) -> int:
    from workbench.engines.prefix_tree import shared_tokens

    prompts = [judge.build_prompt(passage, category) for passage, rules in pairs for category in rules]
    if judge.engine.tokenizer is None:
        return shared_tokens(list(prompt.encode()) for prompt in prompts)
    return shared_tokens(request.context_ids for request in judge.engine.encode([(p, " Yes") for p in prompts]))
