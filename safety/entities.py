"""Which lists of names a text speaks of. Knows resolved policies and text; knows no model.

Whole words, whatever their case and the blanks between them. Marks that show nothing are taken out first, so that a
zero-width character inside a name does not hide it.
"""

import re
import unicodedata
from functools import lru_cache

from safety.resolved import ResolvedPolicy


def find_entities(policy: ResolvedPolicy, text: str) -> tuple[str, ...]:
    """The entity lists of which the text names an entry, for `context["entities"]`.

    >>> from types import SimpleNamespace
    >>> policy = SimpleNamespace(entities={"own": ("bruno the bear", "pip")})
    >>> find_entities(policy, "Then BRUNO  the bear slept."), find_entities(policy, "a pipe")
    (('own',), ())
    """
    if not policy.entities:
        return ()
    plain = " ".join(_visible(text).casefold().split())
    return tuple(name for name, entries in policy.entities.items() if _pattern(entries).search(plain))


def _visible(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")


@lru_cache(maxsize=256)
def _pattern(entries: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, entries), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)")
