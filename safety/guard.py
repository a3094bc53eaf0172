"""A resolved policy at run time: what may go in, what may come out. Knows policies and judges; knows no HTTP, no store.

    guard = Guard(policy, {"mod_model": judge})
    check = await guard.check("text", "user_input")
    rail = guard.rail(prompt="text")          # of a streamed answer
    release = await rail.feed(piece, tokens=1)

Whether an answer is streamed or not, it takes the same way: pieces go into a rail, and only what the rail releases may
leave. A rail holds text back until a window of it was judged together with what follows, so nothing leaves unjudged.
`decide` is the function that evaluation calls as well.
"""

import asyncio
import copy
import hashlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from safety.communities import with_rules
from safety.entities import find_entities
from safety.judges import Judge, Passage, build_judge
from safety.judging import JudgeRunner
from safety.policy import ResolvedPolicy, decide, is_withheld, load_policy, read_judgement
from safety.views import plain_view, text_views
from workbench.errors import ConfigError
from workbench.records import CategoryOutcome, GuardDecision, Judgement, JudgementValue, Surface

MAX_CHARACTERS = 200_000
"""Longer texts are not judged, so unscorable."""
MASK = "[removed]"
KEPT_RULES = 1000
"""Sets of plain rules whose policies are kept."""
_IN_A_THREAD = 20_000
_WEIGHT: Mapping[JudgementValue, int] = {"allowed": 0, "uncertain": 1, "unscorable": 2, "violates": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What the guard says of one text."""

    decision: GuardDecision
    judgements: tuple[Judgement, ...] = ()
    """The worst of each judge and category, over all views of the text."""
    spans: tuple[tuple[int, int], ...] = ()
    """What was masked."""
    text: str | None = None
    """What may be served: the text itself, or the text with spans masked; None: nothing of it."""
    refusal: str = ""
    """What is served in its place, where nothing of it may be."""
    latency_ms: float = 0.0
    failed: bool = False
    """The guard itself failed; the policy's `fail` decided."""

    @property
    def is_withheld(self) -> bool:
        """Whether the text does not leave, not even masked."""
        return self.text is None

    @property
    def uncertain(self) -> tuple[CategoryOutcome, ...]:
        """Categories in doubt about which the policy does something."""
        return tuple(o for o in self.decision.outcomes if o.value == "uncertain" and o.action != "allow")


class Guard:
    """One policy with its judges. Asked from one event loop."""

    def __init__(self, policy: ResolvedPolicy, judges: Mapping[str, Judge]) -> None:
        """`judges`: by the policy's ids. One that is missing makes its categories unscorable, never allowed."""
        self.policy = policy
        runtime = policy.runtime
        self.budget_s = float(runtime.get("budget_ms") or 1000) / 1000
        self.fails_open = runtime.get("fail") == "open"
        streaming = runtime.get("streaming") or {}
        self.window = int(streaming.get("window_tokens") or 48)
        self.overlap = min(int(streaming.get("overlap_tokens") or 0), self.window - 1)
        self.whole = streaming.get("mode") == "whole"
        self._with_rules: dict[tuple[str, ...], Guard] = {}
        self._runners = {name: JudgeRunner(judge, timeout_s=self._timeout(name)) for name, judge in judges.items()}

    def close(self) -> None:
        """Let the judges' threads end."""
        for runner in self._runners.values():
            runner.close()

    def with_rules(self, sentences: Sequence[str]) -> "Guard":
        """The same judges under the same policy with rules in plain words on top.

        Raises ConfigError: none of the judges can read a rule, or there are too many.
        """
        key = tuple(dict.fromkeys(text.strip() for text in sentences))
        if not key:
            return self
        if key not in self._with_rules:
            if len(self._with_rules) >= KEPT_RULES:
                self._with_rules.pop(next(iter(self._with_rules)))
            other = copy.copy(self)
            other.policy = with_rules(self.policy, key)
            self._with_rules[key] = other
        return self._with_rules[key]

    def rail(self, *, prompt: str = "", context: Mapping[str, Any] | None = None) -> "OutputRail":
        """A rail for one answer."""
        return OutputRail(self, prompt=prompt, context=context)

    async def check(
        self,
        text: str,
        surface: Surface,
        *,
        prompt: str = "",
        context: Mapping[str, Any] | None = None,
        parts: Iterable[str] = (),
        shown: Mapping[str, str] | None = None,
    ) -> Check:
        """Judge a text and decide.

        Args:
            prompt: what an answer answers.
            context: attributes of the request, set by whoever authenticated the caller.
            parts: parts of the text that are judged on their own as well (turns, the last window).
            shown: what a judge is shown beside the text: title, parent, community, author.
        """
        started = time.perf_counter()
        try:
            about = Passage(text=text, prompt=prompt, context=dict(shown or {}))
            check = await self._check(about, surface, dict(context or {}), tuple(parts), started)
        except Exception as error:
            check = self._failed(text, surface, error)
        return replace(check, latency_ms=(time.perf_counter() - started) * 1000)

    async def _check(
        self, about: Passage, surface: Surface, context: dict[str, Any], parts: Sequence[str], started: float
    ) -> Check:
        policy, text = self.policy, about.text
        texts = [text, *(part for part in parts if part != text)]
        if sum(map(len, texts)) > _IN_A_THREAD:
            views = await asyncio.to_thread(_all_views, texts)
        else:
            views = _all_views(texts)
        context["entities"] = find_entities(policy, text)
        categories = policy.judged(surface, context, today=_today())
        if not categories or not any(plain_view(view).strip() for view in views):
            # a blank text violates nothing, and judges can say nothing of it
            decision = decide(policy, surface, (), context, categories=(), today=_today())
            return Check(decision=decision, text=text)
        if sum(map(len, views)) > MAX_CHARACTERS:
            judgements: list[Judgement] = []  # none at all is unscorable
        else:
            judgements = await self._judge([replace(about, text=view) for view in views], categories, started)
        decision = decide(policy, surface, judgements, context, today=_today())
        return self._conclude(text, decision, judgements)

    async def _judge(self, passages: Sequence[Passage], categories: Sequence[str], started: float) -> list[Judgement]:
        """First the judges that are always asked, then second opinions where those leave a doubt."""
        asked = {name: self._asked(name, categories) for name in self.policy.judges}
        first = {n: ids for n, ids in asked.items() if self.policy.judges[n].get("when") != "uncertain"}
        found = await self._run_all(first, passages, started)
        doubtful = {j.category for j in found if read_judgement(self.policy.categories[j.category], j) == "uncertain"}
        second = {n: [i for i in ids if i in doubtful] for n, ids in asked.items() if n not in first}
        return found + (await self._run_all(second, passages, started) if doubtful else [])

    async def _run_all(
        self, asked: Mapping[str, Sequence[str]], passages: Sequence[Passage], started: float
    ) -> list[Judgement]:
        left_s = self.budget_s - (time.perf_counter() - started)
        names = [name for name, ids in asked.items() if ids and name in self._runners]
        runs = [
            self._runners[name].run(passages, [self.policy.categories[i] for i in asked[name]], timeout_s=left_s)
            for name in names
        ]
        # most policies have one judge: no task is made for it
        rows = [await runs[0]] if len(runs) == 1 else await asyncio.gather(*runs)
        worst = [one for verdicts in rows for one in self._worst(verdicts)]
        missing = [(n, i) for n, ids in asked.items() if n not in self._runners for i in ids]
        return worst + [
            Judgement(category=i, value="unscorable", judge=n, evidence="there is no such judge") for n, i in missing
        ]

    def _worst(self, verdicts: Sequence[Sequence[Judgement]]) -> list[Judgement]:
        """Of each category the worst view. Spans count only in the text itself, which is the first view."""
        rows = [verdicts[0], *([replace(one, spans=()) for one in row] for row in verdicts[1:])]
        return [max(column, key=self._badness) for column in zip(*rows, strict=True)]

    def _badness(self, one: Judgement) -> tuple[int, float, int]:
        value = read_judgement(self.policy.categories[one.category], one)
        return _WEIGHT[value], one.probability or 0.0, len(one.spans)

    def _asked(self, judge: str, categories: Sequence[str]) -> list[str]:
        return [name for name in categories if judge in self.policy.categories[name].judges]

    def _conclude(self, text: str, decision: GuardDecision, judgements: Sequence[Judgement]) -> Check:
        if not is_withheld(decision.action):
            return Check(decision=decision, judgements=tuple(judgements), text=text)
        spans = self._spans(decision, judgements)
        masked = mask_spans(text, spans) if spans else None
        refusal = "" if spans else self.policy.refusal(decision.category)
        return Check(decision=decision, judgements=tuple(judgements), spans=spans, text=masked, refusal=refusal)

    def _spans(self, decision: GuardDecision, judgements: Sequence[Judgement]) -> tuple[tuple[int, int], ...]:
        """What to mask; empty unless masking is what the policy asks for all that it withholds."""
        spans: list[tuple[int, int]] = []
        for outcome in decision.outcomes:
            if not is_withheld(outcome.action):
                continue
            category = self.policy.categories[outcome.category]
            own = [s for j in judgements if j.category == outcome.category for s in j.spans]
            if outcome.action != "rewrite" or category.rewrite != "mask" or not own:
                return ()
            spans += own
        return tuple(sorted(spans))

    def _failed(self, text: str, surface: Surface, error: BaseException) -> Check:
        """The guard itself broke: closed serves nothing, open serves the text and says so."""
        kind = type(error).__name__
        reason = f"the guard failed ({kind}); fail: {'open' if self.fails_open else 'closed'}"
        action = "log" if self.fails_open else "block"
        decision = GuardDecision(
            action=action, category=None, reason=reason, policy_hash=self.policy.hash, surface=surface
        )
        served = text if self.fails_open else None
        return Check(decision=decision, text=served, refusal=self.policy.refusal(None), failed=True)

    def _timeout(self, judge: str) -> float:
        own = self.policy.judges.get(judge, {}).get("timeout_ms")
        return min(float(own) / 1000, self.budget_s) if own else self.budget_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What may leave now."""

    text: str = ""
    pieces: int = 0
    """Pieces that were fed and have now left."""
    changed: bool = False
    """Something in them was masked."""
    ended: bool = False
    """Nothing more leaves: the rest was withheld."""
    refusal: str = ""
    """What is said in its place, with `ended`."""


@dataclass(eq=False, slots=True)
class OutputRail:
    """Text of one answer on its way out.

    Of what is held, all but the last `overlap` tokens leave when a window was judged: a finding that spans a border
    is seen before its first half has left, if it is no longer than the overlap.
    """

    guard: Guard
    prompt: str = ""
    context: Mapping[str, Any] | None = None
    checks: list[Check] = field(default_factory=list)
    """All that were made; the last one of a whole answer judged all of it."""
    said: str = ""
    """What left, and was judged before."""
    ended: bool = False
    _held: list[tuple[str, int]] = field(default_factory=list)
    _fresh: int = 0
    """Held tokens that no check has seen."""

    async def feed(self, text: str, tokens: int = 1) -> Release:
        """Take a piece; say what may leave."""
        if self.ended:
            return Release(ended=True)
        self._held.append((text, tokens))
        self._fresh += tokens
        window = self.guard.window - self.guard.overlap
        if self.guard.whole or self._fresh < window or len(self._held) < 2:
            return Release()
        return await self._release(keep=self.guard.overlap)

    async def finish(self) -> Release:
        """No piece follows: judge the whole answer, and let the rest leave."""
        if self.ended:
            return Release(ended=True)
        return await self._release(keep=0)

    @property
    def worst(self) -> Check | None:
        """The check with the strictest decision; the latest of equals, which saw most."""
        from safety.resolved import RANK

        return max(reversed(self.checks), key=lambda c: RANK[c.decision.action], default=None)

    async def _release(self, *, keep: int) -> Release:
        held = "".join(text for text, _ in self._held)
        window = self.said[-4 * self.guard.window :] + held
        check = await self.guard.check(
            self.said + held, "model_output", prompt=self.prompt, context=self.context, parts=[window]
        )
        self.checks.append(check)
        self._fresh = 0
        if check.text is None:
            self.ended = True
            self._held.clear()
            return Release(ended=True, refusal=check.refusal)
        start = len(self.said)
        spans = [(max(0, low - start), high - start) for low, high in check.spans if high > start]
        count = self._split(keep, spans)
        raw = "".join(piece for piece, _ in self._held[:count])
        text = mask_spans(raw, [(low, high) for low, high in spans if low < len(raw)])
        del self._held[:count]
        self.said += text
        return Release(text=text, pieces=count, changed=text != raw)

    def _split(self, keep: int, spans: Sequence[tuple[int, int]]) -> int:
        """Pieces that leave: all but the last `keep` tokens, and a found span leaves (masked) as a whole."""
        count, kept = len(self._held), 0
        while count and kept + self._held[count - 1][1] <= keep:
            count -= 1
            kept += self._held[count][1]
        ends = list(itertools.accumulate(len(text) for text, _ in self._held))
        border = ends[count - 1] if count else 0
        reach = max((high for low, high in spans if low < border), default=0)
        while count < len(ends) and border < reach:
            border = ends[count]
            count += 1
        return count


def mask_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """`text` with MASK in place of each span; spans that touch are one.

    >>> mask_spans("call 555-0100 or 555-0199", [(5, 13), (17, 25)])
    'call [removed] or [removed]'
    """
    pieces, end = [], 0
    for start, stop in sorted(spans):
        if stop <= end:
            continue
        if start > end or not pieces:
            pieces += [text[end:start], MASK]
        end = stop
    return "".join(pieces) + text[end:]


def content_sha(text: str) -> str:
    """SHA-256 of a text, for audit rows that hold none of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _all_views(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(view for text in texts for view in text_views(text)))


def _today() -> date:
    return datetime.now(UTC).date()


def load_guard(reference: str, others: Mapping[str, Judge] | None = None) -> Guard:
    """The guard of a shipped policy, or of a policy file, with its judges ready to be asked.

    Args:
        others: judges in place of the policy's, where it says that they are replaceable.

    Raises:
        ConfigError: the policy is faulty, one of its judges cannot be built or replaced, or a category has none that
            can score it, so that everything would be withheld.
    """
    policy = load_policy(reference)
    used = {name for category in policy.categories.values() for name in category.judges}
    judges = {name: _judge_of(policy, name, others or {}) for name in policy.judges if name in used}
    _try_out(policy, judges)
    return Guard(policy, judges)


def _judge_of(policy: ResolvedPolicy, name: str, others: Mapping[str, Judge]) -> Judge:
    entry = policy.judges[name]
    kind = str(entry["kind"])
    if name in others:
        if not entry.get("replaceable"):
            raise ConfigError(f"--judge {name}: policy {policy.name} does not say that this judge is replaceable")
        return others[name]
    if kind == "model" and "engine" not in (entry.get("options") or {}):
        raise ConfigError(
            f"policy {policy.name}: its judge {name} is a model, and none is named; name an instruction model that can "
            f"tell: --judge {name}=model:CHECKPOINT, or begin with --policy moderation, which needs none"
        )
    return build_judge(name, kind, entry.get("options"))


def _try_out(policy: ResolvedPolicy, judges: Mapping[str, Judge]) -> None:
    """Ask every judge once: the first call loads and compiles, and shows which categories nobody can score."""
    scored: set[str] = set()
    for name, judge in judges.items():
        own = [c for c in policy.categories.values() if name in c.judges]
        (row,) = judge.judge([Passage(text="The weather is fine today.")], own)
        scored |= {one.category for one in row if one.value != "unscorable"}
    blind = [c for c in policy.judged("model_output") if c not in scored]
    stopped = [c for c in blind if is_withheld(policy.categories[c].step("on_error", "model_output").action)]
    if stopped:
        raise ConfigError(
            f"policy {policy.name}: no judge here can score {', '.join(stopped)}, so every answer would be withheld; "
            "name a judge that can (--judge NAME=model:CHECKPOINT), write a policy without them, or begin with "
            "--policy moderation, which the shipped classifier judges"
        )
