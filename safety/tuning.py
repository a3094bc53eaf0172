"""Rows to tune a model by: refusals of what a policy withholds, made from prompts by code. Knows no model, no trainer.

Each refusal is put together from an opening, a reason and an offer that fits its category, so that no single sentence
is learned by heart. Prompts that an assessment asks must not be given here; `split_prompts` keeps the two apart.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from safety.probes import Question
from safety.resolved import ResolvedPolicy

OPENINGS = (
    "I can't help with that.",
    "I'm sorry, but I can't help with that.",
    "I won't help with this.",
    "That's not something I can assist with.",
    "I have to decline this one.",
    "Sorry, I can't do that.",
    "I'm not able to help with this request.",
    "No, I can't assist with that.",
)
REASONS = {
    "violent_crime": ("It could get somebody hurt.", "I don't want anybody to come to harm."),
    "nonviolent_crime": ("It would be a crime.", "It would cause harm to other people."),
    "sex_crime": ("It would harm somebody who did not consent.", "Nobody should be treated like that."),
    "cbrn": ("Such weapons can kill many people.", "The danger to other people is too great."),
    "hate": ("It demeans people for who they are.", "I don't write things that attack people for who they are."),
    "sexual_content": ("I don't write explicit content.", "Explicit material is not something I write."),
    "specialized_advice": (
        "A case like yours needs somebody qualified who can see all of it.",
        "I am not qualified to decide that for you.",
    ),
    "privacy": ("It would expose somebody's private data.", "Private details of people should stay private."),
    "ip": ("It would copy somebody else's work.", "That work belongs to somebody else."),
    "defamation": (
        "It would spread false claims about somebody.",
        "It could damage somebody who did nothing.",
    ),
    "cyber_offense": ("It could be used to attack systems of other people.", "It would help to break into a system."),
}
OFFERS = {
    "violent_crime": ("If you are in danger or very angry, please talk to somebody you trust.",),
    "nonviolent_crime": ("I can explain how such crimes are noticed and prevented.",),
    "sex_crime": ("If something happened to you, a support line can help.",),
    "cbrn": ("I can talk about the history and control of such weapons.",),
    "hate": ("I can help you to write about the subject with respect.",),
    "sexual_content": ("I can help with a romantic scene that fades out.",),
    "specialized_advice": ("I can explain the terms, or help you prepare questions for an expert.",),
    "privacy": ("I can explain how to protect personal data.",),
    "ip": ("I can summarise it, or help you write something of your own.",),
    "defamation": ("I can help you to say what you know to be true.",),
    "cyber_offense": ("I can explain how to defend a system.",),
}
CRISIS = (
    "I'm sorry that you are going through this. You don't have to face it alone: please talk to somebody you trust, or "
    "call a crisis line.",
    "I can't help with that, and I'm worried about you. Please reach out to a crisis line or to somebody near you.",
    "I won't give that kind of advice. If you are hurting, a crisis line can listen, at any hour.",
)


def build_refusals(questions: Iterable[Question], policy: ResolvedPolicy) -> Iterator[dict[str, str]]:
    """Rows {prompt, completion} for the harmful questions whose category the policy withholds in an answer."""
    for question in questions:
        known = question.category in policy.categories
        if question.asks == "harm" and not (known and policy.permits(question.category, "model_output")):
            yield {"prompt": question.prompt, "completion": refusal_of(question.prompt, question.category)}


def refusal_of(prompt: str, category: str) -> str:
    """A refusal for this prompt: always the same one, and another for the next prompt."""
    digest = hashlib.sha256(prompt.encode()).digest()
    top = category.split(".")[0]
    if top in ("self_harm", "csae"):
        return CRISIS[digest[0] % len(CRISIS)] if top == "self_harm" else OPENINGS[digest[0] % len(OPENINGS)]
    parts = [OPENINGS[digest[0] % len(OPENINGS)]]
    for place, texts in ((1, REASONS.get(top, ())), (2, OFFERS.get(top, ()))):
        if texts and digest[place] % 4:  # three of four have it: length varies
            parts.append(texts[digest[place] % len(texts)])
    return " ".join(parts)


def split_prompts(
    questions: Sequence[Question], *, share: float, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """(train, test) by a hash of the prompt's words: the same prompt is on one side, whichever set it stands in."""
    train, test = [], []
    for question in questions:
        words = " ".join(question.prompt.lower().split())
        digest = hashlib.sha256(f"{seed}\0{words}".encode()).digest()
        (train if int.from_bytes(digest[:4], "big") / 2**32 < share else test).append(question)
    return train, test
