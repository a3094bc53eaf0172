"""A small policy and a judge that looks for words, for tests of what happens to a text once it was judged."""

import re
from collections.abc import Sequence
from typing import Any

from safety.judges import CategoryLike, Passage
from workbench.records import Judgement

POLICY = """
schema: policy/v1
id: test
version: 1
defaults:
  risk: {fixed: {low: 0.3, high: 0.7}}
  actions: {user_input: block, model_output: block, content: review}
  uncertain: {user_input: review, model_output: hold, content: review}
  on_error: {user_input: block, model_output: block, content: review}
  judges: [words]
categories:
  bombs: {title: Bombs, definition: Help to build a bomb., severity: high}
  phones:
    title: Phone numbers
    definition: A phone number of a person.
    actions: {user_input: rewrite, model_output: rewrite, content: review}
    uncertain: {user_input: log, model_output: log, content: log}
    rewrite: mask
judges:
  words: {kind: classifier, timeout_ms: 300}
runtime:
  streaming: {mode: hold_back, window_tokens: 8, overlap_tokens: 4}
  fail: closed
  budget_ms: 400
  log: {content: full}
templates: {default: "I will not help with that."}
"""


class WordJudge:
    """Finds words: `bomb` violates, `fuse` is uncertain, digits of the form 555-0100 are a phone number."""

    name = "words"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        self.seen += [passage.text for passage in passages]
        return [[self.one(passage.text, category.id) for category in categories] for passage in passages]

    def one(self, text: str, category: str) -> Judgement:
        if category == "phones":
            spans = tuple(m.span() for m in re.finditer(r"555-\d{4}", text))
            return self.say(category, 1.0 if spans else 0.0, spans)
        low = text.lower()
        return self.say(category, 0.95 if "bomb" in low else 0.5 if "fuse" in low else 0.01)

    def say(self, category: str, probability: float, spans: Any = ()) -> Judgement:
        value = "violates" if probability >= 0.5 else "allowed"
        return Judgement(category=category, value=value, judge=self.name, probability=probability, spans=spans)
