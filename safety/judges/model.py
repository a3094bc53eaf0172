"""A language model as a judge, read from the probabilities of its label words. Knows an engine; parses no prose.

The text that is judged stands between markers with a random nonce and cannot close them. The model is asked one
question with two answers, by default in both orders, and its verdict is the share of probability on `Yes` among both
labels; where the labels together hold less than 0.90 of the probability, something else was about to be said, and the
item is unscorable. Nothing it writes is ever read, so "Not safe: S1" cannot be misread as safe.
"""

import copy
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from safety.judges.base import CategoryLike, Passage, judgement_of, unscorable
from safety.prompt import LAYOUTS, NO, PROMPT_VERSION, YES, Layout, border_code, moderation_prompt, open_turn
from workbench.engines.base import Engine, Score, ScoreRequest
from workbench.errors import ConfigError, did_you_mean
from workbench.records import Judgement

MIN_MASS = 0.90
_FORMS = ("{}", " {}", "{lower}", " {lower}")
"""How a label may be written: with a space before it or without, in capitals or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The label words' probabilities after one prompt."""

    yes: float
    """Share of `Yes` among both labels, in 0..1."""
    mass: float
    """Probability of both labels together, in 0..1."""


class ModelJudge:
    """An engine's model as a judge.

    Args:
        engine: any engine with score(); an endpoint without log-probabilities cannot judge.
        min_mass: least probability of the label words together.
        max_tokens: a longer text is unscorable: what is cut off would go unseen.
        nonce: fixed for reproducible runs, e.g. a digest of the run; None draws one for each text.
        layout: `text_first` shares a text among its rules, `rules_first` a rule among its texts.
        swap: ask in both orders of the answers; False is one pass for each text and rule.
        strict: an engine that fails ends the run; else what it did not score is unscorable.
        rubric: `policy`, the rule is the category's title and definition; there is no other yet.
        calibration: (slope, intercept) on the logit of `Yes`, fitted by the user on labels of their own.
    """

    def __init__(
        self,
        *,
        name: str = "model",
        engine: Engine | None = None,
        min_mass: float = MIN_MASS,
        max_tokens: int | None = None,
        nonce: str | None = None,
        layout: Layout = "text_first",
        swap: bool = True,
        strict: bool = False,
        rubric: str = "policy",
        calibration: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        if engine is None:
            raise ConfigError(f"judge {name}: a model judge needs an engine; name a checkpoint: model=smollm2")
        if not 0.0 < min_mass <= 1.0:
            raise ConfigError(f"judge {name}: min_mass must lie in (0, 1], got {min_mass}")
        if rubric != "policy":
            raise ConfigError(f"judge {name}: rubric {rubric!r}: unknown; policy is the only one")
        if layout not in LAYOUTS:
            raise ConfigError(f"judge {name}: layout {layout!r}: unknown; {did_you_mean(layout, LAYOUTS)}")
        self.name, self.engine, self.min_mass = name, engine, min_mass
        self.layout: Layout = layout
        self.swap, self.strict = swap, strict
        self.max_tokens = max_tokens or max(engine.max_length - 16, 16)
        self._nonce = nonce
        self.calibration = calibration

    @property
    def prompt_version(self) -> str:
        """What a calibration is bound to beside the weights and the policy."""
        return f"{PROMPT_VERSION}/{self.layout}{'/both-orders' if self.swap else ''}"

    @property
    def label_words(self) -> int:
        """Ways to write an answer that are scored after each prompt."""
        return len(_label_words(self.engine.tokenizer))

    def in_layout(self, layout: Layout) -> "ModelJudge":
        """The same judge, asking in another layout."""
        other = copy.copy(self)
        other.layout = layout
        return other

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        """A prompt for each pair, or two with `swap`; all are scored in one call."""
        return self.judge_pairs([(passage, categories) for passage in passages])

    def judge_pairs(self, asked: Sequence[tuple[Passage, Sequence[CategoryLike]]]) -> list[list[Judgement]]:
        """As `judge`, with categories of its own for each passage: texts of many communities in one call."""
        orders = ((YES, NO), (NO, YES)) if self.swap else ((YES, NO),)
        prompts = [
            self.build_prompt(passage, category, answers)
            for passage, categories in asked
            for category in categories
            for answers in orders
        ]
        readings = iter(self._read(prompts))
        return [
            [self._verdict(category.id, [next(readings) for _ in orders]) for category in categories]
            for _, categories in asked
        ]

    def build_prompt(self, passage: Passage, category: CategoryLike, answers: tuple[str, str] = (YES, NO)) -> str:
        """The prompt, in the model's chat format where it has one."""
        tokenizer = self.engine.tokenizer
        secret = secrets.token_hex(8) if self._nonce is None else self._nonce
        code = border_code(passage, secret)
        content = moderation_prompt(
            passage, category, layout=self.layout, answers=answers, code=code, tokenizer=tokenizer
        )
        return open_turn(content, tokenizer)

    def _read(self, prompts: Sequence[str]) -> list[Reading | str]:
        """A reading of each prompt, or why there is none."""
        words = _label_words(self.engine.tokenizer)
        pairs = [(prompt, word) for prompt in prompts for _, word in words]
        try:
            requests = self.engine.encode(pairs)
        except Exception as error:  # a text that cannot be encoded is one unscorable item, not the end of the run
            if len(prompts) > 1:
                return [reading for prompt in prompts for reading in self._read([prompt])]
            return [f"cannot be encoded: {type(error).__name__}"] * len(prompts)
        too_long = [len(request.context_ids) > self.max_tokens or request.truncated > 0 for request in requests]
        scores = self._scores([request for request, long in zip(requests, too_long, strict=True) if not long])
        found: list[Reading | str] = []
        given = iter(scores)
        for place in range(len(prompts)):
            part = slice(place * len(words), (place + 1) * len(words))
            if any(too_long[part]):
                for long in too_long[part]:
                    _ = None if long else next(given)
                found.append(f"longer than {self.max_tokens:,} tokens")
                continue
            found.append(_reading([(label, next(given)) for label, _ in words]))
        return found

    def _scores(self, requests: Sequence[ScoreRequest]) -> list[Score | None]:
        found: list[Score | None] = [None] * len(requests)
        try:
            for tile in self.engine.score(requests):
                for place, score in tile:
                    found[place] = score
        except Exception:  # whatever broke the judge: the items it did not score stay None, so unscorable
            if self.strict:
                raise
            return found
        return found

    def _verdict(self, category: str, readings: Sequence[Reading | str]) -> Judgement:
        found: list[Reading] = []
        for reading in readings:
            if isinstance(reading, str):
                return unscorable(category, self.name, reading)
            if reading.mass < self.min_mass:
                reason = f"label words hold {reading.mass:.2f} of the probability, under {self.min_mass:.2f}"
                return replace(unscorable(category, self.name, reason), mass=reading.mass)
            found.append(reading)
        slope, shift = self.calibration
        logits = [_logit(reading.yes) * slope + shift for reading in found]
        probability = 1 / (1 + math.exp(-sum(logits) / len(logits)))
        mass = min(reading.mass for reading in found)
        swap = max(reading.yes for reading in found) - min(reading.yes for reading in found)
        if swap <= 0.5:
            doubt = max(swap, 1 - abs(2 * probability - 1))
            return replace(judgement_of(category, self.name, probability, uncertainty=doubt), mass=mass)
        return Judgement(
            category=category,
            value="uncertain",
            judge=self.name,
            probability=probability,
            uncertainty=swap,
            evidence=f"the verdict turns with the order of the labels, by {swap:.2f}",
            mass=mass,
        )


def _label_words(tokenizer: Any) -> list[tuple[str, str]]:
    """(label, how it may be written): every form whose first token differs, so that no probability counts twice."""
    words: list[tuple[str, str]] = []
    seen: set[Any] = set()
    for label in (YES, NO):
        for form in _FORMS:
            word = form.format(label, lower=label.lower())
            first = word if tokenizer is None else tuple(tokenizer.encode(word, add_special_tokens=False)[:1])
            if first not in seen:
                seen.add(first)
                words.append((label, word))
    return words


def _reading(scores: Sequence[tuple[str, Score | None]]) -> Reading | str:
    total = {YES: 0.0, NO: 0.0}
    for label, score in scores:
        if score is None or math.isnan(score.logprob):
            return "the model gave no number"
        total[label] += math.exp(score.logprob)
    mass = total[YES] + total[NO]
    return Reading(yes=total[YES] / mass if mass > 0 else 0.5, mass=min(mass, 1.0))


def _logit(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))
