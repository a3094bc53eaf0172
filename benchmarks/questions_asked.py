"""What an item asks, as text: the question without examples, instruction and options, and the right answer in words."""

import re
from dataclasses import dataclass

from workbench.records import ItemScore

_OPTION = re.compile(r"^\(?([A-Z]|[1-9][0-9]?)[.)] (.+)$", re.MULTILINE)
_LABELS = re.compile(r"\b(Question|Answer|Frage|Antwort):\s*|(質問|回答)：\s*|^\s*(Answer|Options):\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question in words."""

    question: str
    answer: str
    """The right answer; of a lettered question what stands behind its letter."""

    @property
    def whole(self) -> str:
        """Both."""
        return f"{self.question} {self.answer}".strip()


def asked_text(item: ItemScore) -> Asked:
    r"""The item's question and right answer.

    >>> score = ItemScore(task="t", item="i", doc_id=0, group="i", metrics={}, target="B",
    ...     prompt="One? Answer: 1\n\nWhich bone is longest?\nA. the rib\nB. the femur\nAnswer:")
    >>> asked_text(score)
    Asked(question='Which bone is longest?', answer='the femur')
    """
    last = item.prompt.strip().split("\n\n")[-1]
    options = dict(_OPTION.findall(last)) if len(_OPTION.findall(last)) > 1 else {}
    question = _LABELS.sub("", _OPTION.sub("", last) if options else last)
    answer = options.get(item.target.strip("() "), item.target)
    return Asked(question=" ".join(question.split()), answer=" ".join(answer.split()))
