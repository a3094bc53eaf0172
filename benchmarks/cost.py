"""What a run would cost before it is run: items, requests, tokens, and what the ledger holds. Computes no answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lm import EngineLM
from benchmarks.requests import build_generate_requests, build_keys, build_rolling_requests, build_score_requests
from benchmarks.runner import Plan, build_requests
from workbench.engines.base import GenerateRequest, ScoreRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCost:
    """What one entry of a suite asks for."""

    task: str
    items: int
    requests: int
    """Distinct ones; the same question to the same model is asked once."""
    known: int
    """Requests whose answer the ledger holds."""
    tokens: int
    """Tokens to compute for the others, shared prefixes counted once."""
    naive_tokens: int
    """Tokens that one pass per request would compute for the others."""
    new_tokens: int
    """Most tokens that generation may write."""


def estimate_cost(lm: EngineLM, plan: Plan, *, apply_chat_template: bool = False) -> list[TaskCost]:
    """One TaskCost per entry of the plan. Prompts are built and tokenised, nothing is computed."""
    by_leaf: dict[str, list[tuple[bytes, Any, int]]] = {name: [] for name in plan.leaves}
    for kind, instances in build_requests(lm, plan, apply_chat_template=apply_chat_template).items():
        owners = list(range(len(instances)))
        if kind == "generate_until":
            requests: Sequence[Any] = build_generate_requests(lm.engine, instances, seed=lm.seed)[0]
        elif kind == "loglikelihood_rolling":
            requests, owners = build_rolling_requests(lm.engine, instances)
        else:
            requests = build_score_requests(lm.engine, instances)
        keys = build_keys(lm.key_parts, requests)
        for key, request, owner in zip(keys, requests, owners, strict=True):
            instance = instances[owner]
            by_leaf[instance.task_name].append((key, request, instance.doc_id))
    everything = [key for rows in by_leaf.values() for key, *_ in rows]
    known = set(lm.ledger.get_many(everything)) if lm.ledger is not None else set()
    return [_cost(e.name, [by_leaf[leaf] for leaf in e.leaves], known) for e in plan.entries]


def count_unique_tokens(sequences: Sequence[tuple[int, ...]]) -> int:
    """Tokens of the prefix tree over the sequences: sorted, each adds what it does not share with the one before.

    >>> count_unique_tokens([(1, 2, 3), (1, 2, 4), (1, 2, 3)])
    4
    """
    total, before = 0, ()
    for sequence in sorted(set(sequences)):
        total += len(sequence) - _shared(before, sequence)
        before = sequence
    return total


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common prefix, by halving: comparing slices is far faster than a loop over tokens."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cost(name: str, leaves: Sequence[Sequence[tuple[bytes, Any, int]]], known: set[bytes]) -> TaskCost:
    tokens = naive = new = 0
    for rows in leaves:
        fresh = {key: request for key, request, _ in rows if key not in known}
        scores = [r for r in fresh.values() if isinstance(r, ScoreRequest)]
        # the last token is only predicted, never read
        sequences = [r.context_ids + r.continuation_ids[:-1] for r in scores]
        tokens += count_unique_tokens(sequences)
        naive += sum(map(len, sequences))
        writes = [r for r in fresh.values() if isinstance(r, GenerateRequest)]
        tokens += count_unique_tokens([r.prompt_ids for r in writes])
        naive += sum(len(r.prompt_ids) for r in writes)
        new += sum(r.max_new_tokens for r in writes)
    keys = {key for rows in leaves for key, *_ in rows}
    return TaskCost(
        task=name,
        items=sum(len({doc for *_, doc in rows}) for rows in leaves),
        requests=len(keys),
        known=len(keys & known),
        tokens=tokens,
        naive_tokens=naive,
        new_tokens=new,
    )
