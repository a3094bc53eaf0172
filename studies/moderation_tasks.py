"""Nine rules of public moderation sets with labelled texts, split once: rows that train, choose a threshold, test.

Each rule asks something of texts of one set; of every split 40% violate it. A text stands on one side only, whatever
rules ask about it. Knows the sets' columns; knows no model. Shared by the studies about moderation.
"""

# ruff: noqa: E501 (a rule a line)

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from studies.experiment import read_rows

Split = Literal["train", "threshold", "test"]
SIZES: Mapping[Split, int] = {"train": 32, "threshold": 12, "test": 40}
"""Texts of a rule in each split."""
SHARE_VIOLATING = 0.4
LONGEST = 240
"""Characters; longer texts are left out, so that nothing is cut and two cores suffice."""
STAGES = ("1-clear", "2-category", "3-nuance")
"""Of the curriculum, in order: the names sort from easy to hard."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A rule in plain words, and where texts about it come from."""

    name: str
    title: str
    definition: str
    stage: str
    file: tuple[str, str]
    violates: Callable[[Mapping[str, Any]], bool | None]
    """None: the row says nothing of this rule."""
    community: str = ""
    """Column of the community, which the model is shown."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A labelled text."""

    id: str
    text: str
    violates: bool
    community: str = ""

    @property
    def cluster(self) -> str:
        """What is drawn together when intervals are made."""
        return self.community or self.id


def _offends(row: Mapping[str, Any]) -> bool:
    return row["class"] != "neither"


def _hates(row: Mapping[str, Any]) -> bool | None:
    """Against what is merely offensive: the nuance that words do not give."""
    return None if row["class"] == "neither" else row["class"] == "hate_speech"


def _derogates(row: Mapping[str, Any]) -> bool | None:
    """Among sexist posts: this kind or another."""
    return None if row["category"] == "none" else str(row["category"]).startswith("2")


def _labelled(row: Mapping[str, Any]) -> bool:
    return str(row["label"]) in ("1", "sexist", "True")


def _protected(row: Mapping[str, Any]) -> bool | None:
    said = row["labels"]["H"]
    return None if said is None else bool(said)


TASKS = (
    Task(name="spam", title="Spam", definition="Advertising, prizes, paid numbers or links that nobody asked for.", stage=STAGES[0], file=("sms_spam", "messages.jsonl"), violates=_labelled),
    Task(name="insult", title="Insults", definition="Rude or degrading words against a person or a group.", stage=STAGES[0], file=("surge_toxicity", "toxicity_en.jsonl"), violates=_labelled),
    Task(name="bot_abuse", title="Abuse of the assistant", definition="Insults, threats or sexual advances to a chat bot.", stage=STAGES[0], file=("convabuse", "turns.jsonl"), violates=_labelled),
    Task(name="offence", title="Offensive language", definition="Slurs, swearing or vulgar names for people.", stage=STAGES[1], file=("davidson_hate_offensive", "tweets_sample.jsonl"), violates=_offends),
    Task(name="sexism", title="Sexism", definition="Hostile or belittling words about women because they are women.", stage=STAGES[1], file=("edos_sexism", "posts_sample.jsonl"), violates=_labelled),
    Task(name="misogyny", title="Misogyny", definition="Contempt for women, or their treatment as things, in this community's own slang too.", stage=STAGES[1], file=("reddit_misogyny", "labels.jsonl"), violates=_labelled, community="subreddit"),
    Task(name="hate", title="Hate speech", definition="Attacks on a group for its race, religion, gender or sexuality; swearing alone is not.", stage=STAGES[2], file=("davidson_hate_offensive", "tweets_sample.jsonl"), violates=_hates),
    Task(name="derogation", title="Derogation", definition="Women described as inferior or attacked with strong negative feeling; not threats, not casual slurs.", stage=STAGES[2], file=("edos_sexism", "posts_sample.jsonl"), violates=_derogates),
    Task(name="protected_hate", title="Hate of protected groups", definition="Content that promotes or expresses hate based on a protected identity.", stage=STAGES[2], file=("openai_moderation", "samples.jsonl"), violates=_protected),
)  # fmt: skip
FOLDS = (
    ("insult", "sexism", "hate"),
    ("spam", "misogyny", "derogation"),
    ("bot_abuse", "offence", "protected_hate"),
)
"""Rules that a fold's model is not shown; every rule is unseen once."""


def tasks_named(names: Sequence[str]) -> list[Task]:
    """In the order of TASKS."""
    return [task for task in TASKS if task.name in names]


def _draw(text: str) -> str:
    return hashlib.sha256(f"moderation-tasks\0{' '.join(text.lower().split())}".encode()).hexdigest()


def _texts(task: Task) -> list[Text]:
    """All texts that the rule can be asked about, each once, in an order that the texts' digests give."""
    found: dict[str, Text] = {}
    for number, row in enumerate(read_rows(*task.file)):
        violates = task.violates(row)
        if violates is not None and 3 <= len(row["text"].strip()) <= LONGEST:
            community = str(row[task.community]) if task.community else ""
            one = Text(id=f"{task.name}-{number}", text=row["text"], violates=violates, community=community)
            found.setdefault(_draw(row["text"]), one)
    return [found[key] for key in sorted(found)]


def _side(text: str) -> Split:
    """Of every rule the same: 42% test, 13% threshold, the rest trains."""
    place = int(_draw(text)[-8:], 16) / 2**32
    return "test" if place < 0.42 else "threshold" if place < 0.55 else "train"


def split(task: Task) -> dict[Split, list[Text]]:
    """The rule's texts: 40% violations in each split. Raises ValueError: the set has too few."""
    texts = _texts(task)
    made: dict[Split, list[Text]] = {}
    for side, size in SIZES.items():
        own = [one for one in texts if _side(one.text) == side]
        bad = round(size * SHARE_VIOLATING)
        parts = [[one for one in own if one.violates][:bad], [one for one in own if not one.violates][: size - bad]]
        if sum(map(len, parts)) < size:
            raise ValueError(f"{task.name}/{side}: {[len(part) for part in parts]} texts, {size} are wanted")
        made[side] = sorted((one for part in parts for one in part), key=lambda one: _draw(one.text))
    return made


def everything_that_trains(task: Task) -> list[Text]:
    """All labels of the training side, at the share of violations that the set has."""
    return [one for one in _texts(task) if _side(one.text) == "train"]
