"""What a look at the questions alone can tell: repeats, a lopsided key, the longest choice right too often.

Pure functions on questions; knows no model and no file. `position_balance` also judges a model's answers.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.metrics import normalise, words
from benchmarks.questions import Question
from benchmarks.tables import LETTERS, Fault

ALPHA = 0.01
"""A balance is called lopsided below this p-value: one fair file in a hundred is."""
NEAR = 0.8
"""Share of common word pairs from which two questions are near-duplicates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How often each position was right (or chosen), against equal chances."""

    choices: int
    counts: tuple[int, ...]
    p_value: float
    """Chi-square test of equal shares; below 0.01 the positions differ by more than luck."""

    @property
    def shares(self) -> dict[str, float]:
        """Letter -> share."""
        total = sum(self.counts)
        return {LETTERS[index]: count / total for index, count in enumerate(self.counts)}


def position_balance(positions: Iterable[int], *, choices: int) -> Balance | None:
    """Test positions 0..choices-1 for equal shares. None without positions.

    >>> position_balance([0] * 10 + [1] * 10, choices=2).p_value
    1.0
    """
    from scipy.stats import chisquare

    counts = Counter(positions)
    if not counts:
        return None
    observed = tuple(counts.get(index, 0) for index in range(choices))
    return Balance(choices=choices, counts=observed, p_value=float(chisquare(observed).pvalue))


@dataclass(frozen=True, kw_only=True, slots=True)
class Longest:
    """How often the right choice is the longest one."""

    n: int
    """Questions with one right and one longest choice."""
    share: float
    chance: float
    """Share that a right choice at a random place would have."""
    p_value: float
    """One-sided binomial test of more than chance."""


def longest_is_right(questions: Sequence[Question]) -> Longest | None:
    """Measure whether "take the longest choice" answers the questions. None without questions that can tell."""
    from scipy.stats import binomtest

    hits, chances = 0, []
    for question in questions:
        lengths = [len(choice) for choice in question.choices]
        if question.kind != "choice" or len(question.right) != 1 or lengths.count(max(lengths)) != 1:
            continue
        hits += lengths.index(max(lengths)) in question.right
        chances.append(1 / len(lengths))
    if not chances:
        return None
    chance = sum(chances) / len(chances)
    p_value = binomtest(hits, len(chances), chance, alternative="greater").pvalue
    return Longest(n=len(chances), share=hits / len(chances), chance=chance, p_value=float(p_value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """Two questions that ask the same. `similarity` is 1 for equal ones."""

    first: Question
    second: Question
    similarity: float


def find_repeats(questions: Sequence[Question]) -> list[Repeat]:
    """Find questions that are equal, or nearly (Jaccard of word pairs at least 0.8), choices included."""
    grams = [_word_pairs(question) for question in questions]
    frequency = Counter(gram for gram_set in grams for gram in gram_set)
    index: dict[tuple[str, str], list[int]] = defaultdict(list)
    repeats = []
    for number, own in enumerate(grams):
        # Two sets of Jaccard 0.8 share one of the rarest fifth of either: only those need to be looked up.
        rare = sorted(own, key=lambda gram: (frequency[gram], gram))[: len(own) - int(NEAR * len(own)) + 1]
        for other in sorted({other for gram in rare for other in index[gram]}):
            similarity = len(own & grams[other]) / len(own | grams[other])
            if similarity >= NEAR:
                same = _exact(questions[other]) == _exact(questions[number])
                found = 1.0 if same else min(similarity, 0.99)
                repeats.append(Repeat(first=questions[other], second=questions[number], similarity=found))
        for gram in rare:
            index[gram].append(number)
    return repeats


def _exact(question: Question) -> tuple[str, str, tuple[str, ...]]:
    return normalise(question.context), normalise(question.question), tuple(sorted(map(normalise, question.choices)))


def _word_pairs(question: Question) -> set[tuple[str, str]]:
    """Pairs of neighbouring words; the choices in alphabetical order, since a shuffled copy is a copy."""
    parts = [normalise(question.question), *sorted(normalise(choice) for choice in question.choices)]
    if question.context:
        parts.append(normalise(question.context))
    text = ["<", *words(" ".join(parts)), ">"]
    return set(itertools.pairwise(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lint:
    """All that was measured, and the faults that follow from it."""

    n: int
    shots: int
    subjects: dict[str, int]
    balances: tuple[Balance, ...]
    longest: Longest | None
    repeats: tuple[Repeat, ...]
    faults: tuple[Fault, ...]


def lint(questions: Sequence[Question]) -> Lint:
    """Look at the questions of a set, few-shot rows (`split` dev) among them."""
    test = [question for question in questions if question.split == "test"]
    asked = [question for question in test if question.kind == "choice" and len(question.right) == 1]
    sizes = Counter(len(question.choices) for question in asked)
    found = [
        position_balance((q.right[0] for q in asked if len(q.choices) == size), choices=size) for size in sorted(sizes)
    ]
    balances = tuple(balance for balance in found if balance is not None)
    longest = longest_is_right(test)
    repeats = tuple(find_repeats(questions))
    return Lint(
        n=len(test),
        shots=len(questions) - len(test),
        subjects=dict(sorted(Counter(question.subject for question in test if question.subject).items())),
        balances=balances,
        longest=longest,
        repeats=repeats,
        faults=tuple([*_repeat_faults(repeats), *_shape_faults(test, balances, longest)]),
    )


def _repeat_faults(repeats: Sequence[Repeat]) -> Iterator[Fault]:
    for repeat in repeats:
        first, second = repeat.first, repeat.second
        equal = "the same as" if repeat.similarity == 1 else f"nearly the same ({repeat.similarity:.0%}) as"
        if first.split != second.split:
            shown = first if first.split == "dev" else second
            asked = second if shown is first else first
            # A few-shot example that is also asked gives its own answer away.
            level = "error" if repeat.similarity == 1 else "warning"
            message = f"few-shot row {shown.row} is {equal} this question; take one out"
            yield Fault(message=message, row=asked.row, level=level)
        elif repeat.similarity == 1 and sorted(_texts(first)) != sorted(_texts(second)):
            yield Fault(message=f"{equal} row {first.row}, with another answer", row=second.row)
        else:
            yield Fault(message=f"{equal} row {first.row}", row=second.row, level="warning")


def _texts(question: Question) -> list[str]:
    """What is right, whatever its place."""
    return [normalise(question.choices[index]) for index in question.right] or [normalise(g) for g in question.golds]


def _shape_faults(test: Sequence[Question], balances: Sequence[Balance], longest: Longest | None) -> Iterator[Fault]:
    for balance in balances:
        if balance.p_value < ALPHA:
            shares = ", ".join(f"{letter} {share:.0%}" for letter, share in balance.shares.items())
            message = f"the key is lopsided ({shares}): a model that likes one letter would gain; shuffle the choices"
            yield Fault(message=message, column="answer", level="warning")
    if longest and longest.p_value < ALPHA and longest.share > longest.chance + 0.05:
        message = (
            f"the longest choice is right {longest.share:.0%} of the time (chance {longest.chance:.0%}): its length "
            "gives it away; lengthen some wrong choices"
        )
        yield Fault(message=message, column="choices", level="warning")
    lumps = Counter(q.context for q in test if q.context and not q.cluster)
    if shared := sum(count for count in lumps.values() if count > 1):
        message = f"{shared} questions share a context and have no cluster; the context is taken as their cluster"
        yield Fault(message=message, column="cluster", level="warning")
    if 0 < len(test) < 50:
        # with no answer changed, a loss of this share would still show no change one time in twenty
        least = 100 * (1 - 0.05 ** (1 / len(test)))
        message = (
            f"{len(test)} questions exclude no loss below {least:.0f} points, even if no answer changes; write more"
        )
        yield Fault(message=message, level="warning")
