"""lm-eval's `LM` around any engine and the ledger. Knows requests and answers; knows no task, no metric, no report.

Every request of one call goes to the engine at once, so that a prefix tree can span the suite. What the ledger holds is
taken from there, bit for bit; what is new is written down tile by tile, so a killed run loses at most one tile.
lm-eval's own caches are never used: `use_cache` leaves the model out of its key.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM

from benchmarks.progress import Phase, ProgressReport, Tracker
from benchmarks.requests import (
    KeyParts,
    build_generate_requests,
    build_keys,
    build_rolling_requests,
    build_score_requests,
    name_item,
)
from workbench.engines.base import Engine, GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.errors import ConfigError, RunError
from workbench.store.ledger import Ledger, LedgerEntry

ItemKey = tuple[str, int]
"""(task name, doc id)."""


@dataclass(kw_only=True, slots=True)
class ItemFacts:
    """What became known about an item while it was computed."""

    truncated: int = 0
    """Most context tokens that were cut from one of its prompts."""
    tokens: int = 0
    """Tokens scored (perplexity) or written (generation)."""
    finish: str = ""
    """How a generation ended; `length` if any of them ran out of tokens."""


class EngineLM(LM):
    """Any engine as an lm-eval model.

    `usage` sums up what all calls cost; `facts` holds one ItemFacts per (task, doc id); `reused` and `computed` count
    distinct requests. Raises RunError naming the item on a log-probability that is no number.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ledger: Ledger | None = None,
        fingerprint: str,
        tokenizer_digest: str,
        seed: int = 0,
        on_progress: Callable[[ProgressReport], None] | None = None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.ledger = ledger
        self.key_parts = KeyParts(fingerprint=fingerprint, tokenizer=tokenizer_digest, scorer=engine.scorer)
        self.seed = seed
        self.on_progress = on_progress
        self.usage = Usage()
        self.facts: dict[ItemKey, ItemFacts] = {}
        self.reused = 0
        self.computed = 0

    @property
    def tokenizer(self) -> Any:
        """The engine's Hugging Face tokenizer, or None."""
        return self.engine.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval asks for where a chat template is applied."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    chat_template = TemplateLM.chat_template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation with the tokenizer's template; as in HFLM, a refused system turn is left out."""
        import jinja2

        if self.tokenizer is None or not self.tokenizer.chat_template:
            raise ConfigError("--apply-chat-template: the checkpoint's tokenizer has no chat template; leave it out")

        def render(turns: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        try:
            return render(chat_history)
        except jinja2.exceptions.TemplateError:
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Summed log-probability (nats) of each continuation, and whether greedy decoding would have produced it."""
        asked = build_score_requests(self.engine, requests)
        self._note_truncation(asked, requests)
        return [(score.logprob, score.is_greedy) for score in self._answer(asked, requests, phase="score")]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability (nats) of whole texts, in windows of the model's length, no token scored twice."""
        windows, owners = build_rolling_requests(self.engine, requests)
        scores = self._answer(windows, [requests[i] for i in owners], phase="perplexity")
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, scores, strict=True):
            totals[owner] += score.logprob
            self._facts_of(requests[owner]).tokens += score.tokens
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each prompt up to its stop strings. Sampled answers depend on the seed, never on the batch."""
        asked, notes = build_generate_requests(self.engine, requests, seed=self.seed)
        self.usage.notes += [note for note in notes if note not in self.usage.notes]
        self._note_truncation(asked, requests)
        answers = self._answer(asked, requests, phase="generate")
        for instance, answer in zip(requests, answers, strict=True):
            facts = self._facts_of(instance)
            facts.tokens += answer.tokens
            facts.finish = "length" if "length" in (facts.finish, answer.finish) else answer.finish
        return [answer.text for answer in answers]

    def _answer(self, requests: Sequence[Any], instances: Sequence[Instance], *, phase: Phase) -> list[Any]:
        """Answers in the order of `requests`; each distinct request is looked up or computed once."""
        if not requests:
            return []
        keys = build_keys(self.key_parts, requests)
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        order = sorted(first.values())
        work = _Work(
            keys=[keys[i] for i in order],
            requests=[requests[i] for i in order],
            names=[name_item(instances[i]) for i in order],
        )
        answers = self._read_ledger(work.keys, phase)
        self.reused += len(answers)
        items = [_item(instance) for instance in instances]
        track = Tracker(phase, keys, items, known=set(answers), report=self.on_progress)
        if len(answers) < len(work.keys):
            self._compute(work, answers, phase, track)
        return [answers[key] for key in keys]

    def _compute(self, work: "_Work", answers: dict[bytes, Any], phase: Phase, track: Tracker) -> None:
        """Run the engine over what `answers` lacks; write each tile to the ledger before the next is computed."""
        whole = work
        unpaid = [index for index, key in enumerate(whole.keys) if key not in answers]
        # A resumed run is laid out as it was when it began, so its tiles have the same bits; a run that asks for more
        # than an earlier one lays out only what is new.
        work = whole.only(sorted(self.ledger.begin(whole.keys, unpaid)) if self.ledger is not None else unpaid)
        skip = {index for index, key in enumerate(work.keys) if key in answers}
        computed: list[bytes] = []
        run = self.engine.generate if phase == "generate" else self.engine.score
        try:
            for tile in run(work.requests, skip=skip):
                # An engine may compute more than was asked; a number that is written down stays as it is.
                fresh = {index: answer for index, answer in tile if work.keys[index] not in answers}
                if phase != "generate":
                    _check_numbers(fresh, work.names)
                if self.ledger is not None:
                    self.ledger.put_many({work.keys[i]: _to_entry(answer) for i, answer in fresh.items()})
                answers.update({work.keys[i]: answer for i, answer in fresh.items()})
                computed += [work.keys[i] for i in fresh]
                track.add(work.keys[i] for i in fresh)
        finally:
            self.computed += len(computed)
            _add_usage(self.usage, self.engine.usage)
        # Another process may have paid for the same item first, in another tile: the number on record is the number.
        answers.update(self._read_ledger(computed, phase))
        missing = [name for key, name in zip(whole.keys, whole.names, strict=True) if key not in answers]
        if missing:
            raise RunError(f"{missing[0]}: engine {self.engine.name} gave no answer ({len(missing)} requests in all)")
        if self.ledger is not None:
            self.ledger.end(whole.keys)

    def _read_ledger(self, keys: Sequence[bytes], phase: Phase) -> dict[bytes, Any]:
        if self.ledger is None:
            return {}
        read = _to_generation if phase == "generate" else _to_score
        return {key: read(entry) for key, entry in self.ledger.get_many(keys).items()}

    def _facts_of(self, instance: Instance) -> ItemFacts:
        return self.facts.setdefault(_item(instance), ItemFacts())

    def _note_truncation(
        self, requests: Sequence[ScoreRequest] | Sequence[GenerateRequest], instances: Sequence[Instance]
    ) -> None:
        for request, instance in zip(requests, instances, strict=True):
            if request.truncated:
                facts = self._facts_of(instance)
                facts.truncated = max(facts.truncated, request.truncated)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """Distinct requests, in order of first appearance."""

    keys: list[bytes]
    requests: list[Any]
    names: list[str]

    def only(self, indices: Iterable[int]) -> "_Work":
        """These of them."""
        kept = list(indices)
        return _Work(
            keys=[self.keys[i] for i in kept],
            requests=[self.requests[i] for i in kept],
            names=[self.names[i] for i in kept],
        )


def _item(instance: Instance) -> ItemKey:
    return instance.task_name or "", instance.doc_id or 0


def _check_numbers(scores: Mapping[int, Any], names: Sequence[str]) -> None:
    for index, score in scores.items():
        if math.isnan(score.logprob):
            raise RunError(
                f"{names[index]}: the log-probability is no number; the weights hold NaN, or their type overflows: "
                "try --dtype float32"
            )


def _add_usage(total: Usage, call: Usage) -> None:
    total.seconds += call.seconds
    total.prompt_tokens += call.prompt_tokens
    total.new_tokens += call.new_tokens
    total.naive_tokens += call.naive_tokens
    if call.limit_seconds is not None:
        total.limit_seconds = (total.limit_seconds or 0.0) + call.limit_seconds
    total.notes += [note for note in call.notes if note not in total.notes]


def _to_entry(answer: Score | Generation) -> LedgerEntry:
    if isinstance(answer, Score):
        return LedgerEntry(logprob=answer.logprob, is_greedy=answer.is_greedy, tokens=answer.tokens)
    return LedgerEntry(text=answer.text, tokens=answer.tokens, finish=answer.finish)


def _to_score(entry: LedgerEntry) -> Score:
    assert entry.logprob is not None and entry.is_greedy is not None
    return Score(logprob=entry.logprob, is_greedy=entry.is_greedy, tokens=entry.tokens)


def _to_generation(entry: LedgerEntry) -> Generation:
    assert entry.text is not None
    return Generation(text=entry.text, tokens=entry.tokens, finish=entry.finish or "")
