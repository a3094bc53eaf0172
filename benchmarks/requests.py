"""lm-eval's Instances -> requests that an engine understands, with HFLM's meaning, and their ledger keys.

Knows lm-eval's arguments, tokenizers and keys; computes nothing and writes nothing down.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from workbench.engines.base import Engine, GenerateRequest, ScoreRequest
from workbench.engines.text import encode_prompts, find_prefix_token
from workbench.errors import TaskError, WorkbenchError
from workbench.store.ledger import ledger_key

DEFAULT_MAX_NEW_TOKENS = 256
"""As lm-eval's HFLM: what a task gets that names no limit."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "repetition_penalty": (1,),
    "num_return_sequences": (1,),
    "min_p": (0,),
}
"""Options of generation that engines don't have, with the values that change nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyParts:
    """What a ledger key holds besides the request itself."""

    fingerprint: str
    tokenizer: str
    scorer: str


def build_score_requests(engine: Engine, instances: Sequence[Instance]) -> list[ScoreRequest]:
    """Requests of `loglikelihood`, in order. Raises TaskError naming the item that cannot be encoded."""
    pairs = [(str(context), str(continuation)) for context, continuation in map(_arguments, instances)]
    try:
        encoded = engine.encode(pairs)
    except WorkbenchError as error:
        raise _named(engine, error, pairs, instances) from error
    # An item's numbers must not depend on which other tasks a run holds: each task has tiles of its own.
    return [replace(r, tile=i.task_name or "") for r, i in zip(encoded, instances, strict=True)]


def build_rolling_requests(engine: Engine, instances: Sequence[Instance]) -> tuple[list[ScoreRequest], list[int]]:
    """Windows of whole texts, and for each window the index of its text. Without a tokenizer: the text itself."""
    requests: list[ScoreRequest] = []
    owners: list[int] = []
    for index, instance in enumerate(instances):
        text, tile = str(_arguments(instance)[0]), instance.task_name or ""
        if engine.tokenizer is None:
            windows = [replace(r, tile=tile) for r in engine.encode([("", text)])]
        else:
            windows = [
                ScoreRequest(context="", continuation=text, context_ids=head, continuation_ids=tail, tile=tile)
                for head, tail in _rolling_windows(engine, text)
            ]
        requests += windows
        owners += [index] * len(windows)
    return requests, owners


def build_generate_requests(
    engine: Engine, instances: Sequence[Instance], *, seed: int
) -> tuple[list[GenerateRequest], list[str]]:
    """Requests of `generate_until`, in order, and notes on options that engines don't have.

    The same Instance met again (`repeats`) samples afresh. Raises TaskError where the window leaves no room.
    """
    eos = _eos(engine)
    met: Counter[int] = Counter()
    requests: list[GenerateRequest] = []
    notes: dict[str, None] = {}
    for instance in instances:
        request, left_out = _generate_request(instance, eos=eos, seed=seed, repeat=met[id(instance)])
        met[id(instance)] += 1
        if engine.tokenizer is not None and request.max_new_tokens >= engine.max_length:
            raise TaskError(
                f"task {instance.task_name}: it may write {request.max_new_tokens} tokens, but the model's window "
                f"is {engine.max_length}; leave the task out or take a model with a longer window"
            )
        requests.append(request)
        if left_out:
            notes[f"task {instance.task_name}: generation options left out: {left_out}"] = None
    if engine.tokenizer is not None:
        prefix = find_prefix_token(engine.tokenizer)
        requests = encode_prompts(engine.tokenizer, requests, max_length=engine.max_length, prefix_token_id=prefix)
    return requests, list(notes)


def build_keys(parts: KeyParts, requests: Sequence[ScoreRequest] | Sequence[GenerateRequest]) -> list[bytes]:
    """The requests' keys in the ledger: weights, tokenizer, scorer, and all that shapes the answer."""
    digests: dict[int, bytes] = {}  # choices share their context's tuple: hash each once

    def digest(ids: tuple[int, ...]) -> bytes:
        if id(ids) not in digests:
            digests[id(ids)] = hashlib.sha256(array("q", ids).tobytes()).digest()
        return digests[id(ids)]

    keys: list[bytes] = []
    for r in requests:
        if isinstance(r, ScoreRequest):
            asked = (digest(r.context_ids), r.continuation_ids) if r.context_ids else (r.context, r.continuation)
            keys.append(ledger_key(parts.fingerprint, parts.tokenizer, parts.scorer, "score", asked))
        else:
            prompt = digest(r.prompt_ids) if r.prompt_ids else r.prompt
            asked = (prompt, r.stop, r.max_new_tokens, r.temperature, r.top_p, r.top_k, r.seed)
            keys.append(ledger_key(parts.fingerprint, parts.tokenizer, parts.scorer, "generate", asked))
    return keys


def name_item(instance: Instance) -> str:
    """How errors name an item."""
    return f"task {instance.task_name}, item {instance.doc_id}"


def _arguments(instance: Instance) -> tuple[Any, ...]:
    return instance.args


def _rolling_windows(engine: Engine, text: str) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    prefix = find_prefix_token(engine.tokenizer)
    # HFLM's tok_encode: a text that already opens with the prefix token gets no second one.
    opened = text.startswith(engine.tokenizer.decode(prefix))
    ids = engine.tokenizer.encode(text, **({"add_special_tokens": False} if opened else {}))
    for window in get_rolling_token_windows(
        token_list=ids, prefix_token=prefix, max_seq_len=engine.max_length, context_len=1
    ):
        head, tail = make_disjoint_window(window)
        yield tuple(head), tuple(tail)


def _generate_request(instance: Instance, *, eos: str | None, seed: int, repeat: int) -> tuple[GenerateRequest, str]:
    """The request, and the options that it leaves out."""
    prompt, given = _arguments(instance)
    kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), DEFAULT_MAX_NEW_TOKENS))
    stop = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
    temperature = float(kwargs.pop("temperature", 0.0))
    temperature = temperature if kwargs.pop("do_sample") else 0.0
    top_p, top_k = float(kwargs.pop("top_p", 1.0)), int(kwargs.pop("top_k", 0))
    request = GenerateRequest(
        prompt=prompt,
        stop=tuple(s for s in stop if s),
        max_new_tokens=kwargs.pop("max_gen_toks"),
        temperature=temperature,
        top_p=top_p if temperature else 1.0,
        top_k=top_k if temperature else 0,
        seed=_sampling_seed(prompt, seed, repeat) if temperature else 0,
    )
    left_out = {name: value for name, value in kwargs.items() if value not in _NEUTRAL.get(name, ())}
    return request, ", ".join(f"{name}={value}" for name, value in sorted(left_out.items()))


def _eos(engine: Engine) -> str | None:
    if engine.tokenizer is None or engine.tokenizer.eos_token_id is None:
        return None
    return engine.tokenizer.decode(engine.tokenizer.eos_token_id, skip_special_tokens=False)


def _sampling_seed(prompt: str, seed: int, repeat: int) -> int:
    """31 bits, so that every engine's generator takes it."""
    digest = hashlib.sha256(f"{seed}\0{repeat}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _named(
    engine: Engine, error: WorkbenchError, pairs: Sequence[tuple[str, str]], instances: Sequence[Instance]
) -> TaskError:
    """The error with the name of the first item that cannot be encoded."""
    for pair, instance in zip(pairs, instances, strict=True):
        try:
            engine.encode([pair])
        except WorkbenchError as own:
            return TaskError(f"{name_item(instance)}: {own}")
    return TaskError(str(error))
