"""Which policy a text stands under: the platform's, its community's, or that with rules in plain words on top.

A community is a file that extends the platform's policy, or only sentences; either way it inherits all else, and no
model is made for it. Knows policies and posts; judges nothing.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from safety.resolve import PolicyLibrary, extend
from safety.resolved import ResolvedPolicy
from safety.schema import PolicyFile, RuleEntry
from workbench.errors import ConfigError

KEPT = 20_000
"""Policies of sentences that are kept in memory."""
MAX_RULES = 100
_ID = re.compile(r"[^a-z0-9]+")


class Communities:
    """The policies of one platform's communities.

    Args:
        base: what holds everywhere.
        folder: files `COMMUNITY.yaml` that extend it, beside their parents.
        rules: sentences of communities that have no file.
    """

    def __init__(
        self,
        base: ResolvedPolicy,
        *,
        folder: Path | None = None,
        rules: Mapping[str, Sequence[str]] | None = None,
        library: PolicyLibrary | None = None,
    ) -> None:
        self.base = base
        self.folder = folder
        self.rules = dict(rules or {})
        self._library = library or PolicyLibrary([folder] if folder is not None else [])
        self._plain: OrderedDict[tuple[str, tuple[str, ...]], ResolvedPolicy] = OrderedDict()

    def policy_of(self, community: str = "", rules: Sequence[str] = ()) -> ResolvedPolicy:
        """The policy of a community; of one that nobody knows the base. `rules`: sentences on top of it.

        Raises ConfigError: a faulty policy file, one that does not extend the base, too many or too long sentences.
        """
        own = self._of_file(community)
        sentences = tuple(dict.fromkeys(text.strip() for text in (*self.rules.get(community, ()), *rules)))
        if not sentences:
            return own
        key = (own.hash, sentences)
        if key not in self._plain:
            self._plain[key] = with_rules(own, sentences, community=community)
            if len(self._plain) > KEPT:
                self._plain.popitem(last=False)
        self._plain.move_to_end(key)
        return self._plain[key]

    def _of_file(self, community: str) -> ResolvedPolicy:
        community = community.lower()
        if self.folder is None or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", community):
            return self.base  # a name that is no id names no file: it comes from a post
        path = self.folder / f"{community}.yaml"
        if not path.is_file():
            return self.base
        found = self._library.load(path)
        if self.base.name not in found.lineage:
            lineage = " -> ".join(found.lineage)
            raise ConfigError(f"{path}: it does not extend {self.base.name} (lineage: {lineage}); name that as extends")
        return found


def with_rules(policy: ResolvedPolicy, sentences: Sequence[str], *, community: str = "") -> ResolvedPolicy:
    """A policy with rules in plain words on top: each a category `rule.ID`, judged by what can read a rule.

    Raises ConfigError: no judge of the policy reads rules; too many sentences, an empty or too long one.
    """
    if len(sentences) > MAX_RULES:
        raise ConfigError(f"community {community!r}: {len(sentences)} rules, at most {MAX_RULES} are taken")
    readers = rule_readers(policy)
    if not readers:
        raise ConfigError(
            f"policy {policy.name}: none of its judges can read a rule in plain words; give it a judge of kind model, "
            "or one that is replaceable"
        )
    entries = [
        RuleEntry.model_validate({"id": rule_id(text), "text": text, "judges": readers[:1]}) for text in sentences
    ]
    file = PolicyFile.model_validate(
        {"schema": "policy/v1", "id": _slug(community) or "community", "version": 1, "kind": "community"}
    )
    file = file.model_copy(update={"extends": policy.name, "rules": entries})
    where = Path(f"rules of {community}" if community else "rules")
    return extend(policy, file, path=where, lines={}, today=datetime.now(UTC).date())


def rule_readers(policy: ResolvedPolicy) -> list[str]:
    """Judges of a policy in whose place a model may stand: of kind model, or replaceable; none for second opinions."""
    return [
        name
        for name, judge in policy.judges.items()
        if (judge["kind"] == "model" or judge.get("replaceable")) and judge.get("when") != "uncertain"
    ]


def rule_id(sentence: str) -> str:
    """A short id of a sentence, the same wherever it is a rule.

    >>> rule_id("No spoilers in titles!")
    'no-spoilers-in-titles-eb15cc'
    """
    digest = hashlib.sha256(sentence.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{_slug(sentence) or 'rule'}-{digest}"


def read_rules(path: Path) -> dict[str, tuple[str, ...]]:
    """Rows {community, rules: [sentence, ...]} of a JSONL file. Raises ConfigError, a line for each fault."""
    found: dict[str, tuple[str, ...]] = {}
    faults: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: communities' rules cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            community, rules = str(row["community"]), row["rules"]
            if not isinstance(rules, list) or not all(isinstance(text, str) and text.strip() for text in rules):
                raise TypeError("rules")
        except (ValueError, KeyError, TypeError):
            faults.append(f'{path}:{number}: expected {{"community": NAME, "rules": [SENTENCE, ...]}}')
            continue
        if community in found:
            faults.append(f"{path}:{number}: community {community!r} stands here twice; put its rules into one row")
        found[community] = tuple(rules)
    if faults:
        raise ConfigError("\n".join(faults[:20]))
    return found


def _slug(text: str) -> str:
    return _ID.sub("-", text.lower()).strip("-")[:24].strip("-")
