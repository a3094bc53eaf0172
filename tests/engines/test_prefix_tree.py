"""The plan of a prefix tree against a simulation of what each query would see."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.engines.prefix_tree import Batch, Plan, divide_attention, plan_requests

Request = tuple[list[int], list[int]]
small_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=40)


def visible(batch: Batch, stored: dict[int, int], *, block: int, carry: int) -> list[list[tuple[int, int]]]:
    """(depth, token) of every key that each query of the batch sees, over all parts."""
    parts = divide_attention(batch.pieces, block=block, carry=carry)
    seen: list[list[tuple[int, int]]] = [[] for _ in batch.tokens]

    def key(k: int) -> tuple[int, int]:
        return (-1 - k, stored[-1 - k]) if k < 0 else (int(batch.positions[k]), int(batch.tokens[k]))

    for span in parts.spans:
        keys = range(span.keys, span.keys_end)
        for q in range(span.start, span.end):
            seen[q] += [key(-1 - d) if span.stored else key(d) for d in keys]
    for one in parts.blocks:
        for i, q in enumerate(range(one.start, one.end)):
            seen[q] += [key(int(k)) for k, shown in zip(one.keys, one.mask[i], strict=True) if shown]
    for start, end in parts.runs:
        for q in range(start, end):
            seen[q] += [key(k) for k in range(start, q + 1)]
    return [sorted(keys) for keys in seen]


def simulate(plan: Plan, requests: list[Request], *, block: int, carry: int, only: list[int] | None = None) -> set[int]:
    """Walk the batches as an engine would; returns the requests whose every token was scored, each exactly once."""
    stored: dict[int, int] = {}
    scored: dict[int, list[int]] = {}
    for b in only if only is not None else range(len(plan.batches)):
        batch = plan.batches[b]
        seen = visible(batch, stored, block=block, carry=carry)
        for q, keys in enumerate(seen):
            assert [d for d, _ in keys] == list(range(int(batch.positions[q]) + 1)), "each ancestor exactly once"
        for row, token, request, place in batch.targets.tolist():
            context, continuation = requests[request]
            whole = [*context, *continuation]
            last = len(context) - 1 + place
            assert [t for _, t in seen[int(batch.rows[row])]] == whole[: last + 1]
            assert whole[last + 1] == token
            scored.setdefault(request, []).append(place)
        for depth, offset, length in batch.keep:
            assert batch.positions[offset : offset + length].tolist() == list(range(depth, depth + length))
            stored.update({depth + i: int(batch.tokens[offset + i]) for i in range(length)})
    return {r for r, places in scored.items() if sorted(places) == list(range(len(requests[r][1])))}


@st.composite
def suites(draw: st.DrawFn) -> list[Request]:
    requests: list[Request] = []
    for _ in range(draw(st.integers(1, 3))):
        shots = draw(small_tokens) * draw(st.sampled_from([1, 1, 8]))
        for _ in range(draw(st.integers(1, 6))):
            context = [*shots, *draw(small_tokens)]
            requests += [(context, draw(small_tokens)) for _ in range(draw(st.integers(1, 4)))]
    return requests


@settings(max_examples=60, deadline=None)
@given(
    suites(),
    st.sampled_from([16, 64, 300]),
    st.sampled_from([5, 40, 5000]),
    st.sampled_from([8, 256]),
    st.sampled_from([0, 2, 64]),
)
def test_every_query_sees_exactly_its_own_prefix(
    requests: list[Request], budget: int, path_limit: int, block: int, carry: int
) -> None:
    plan = plan_requests(requests, budget=budget, path_limit=path_limit)
    assert simulate(plan, requests, block=block, carry=carry) == set(range(len(requests)))
    assert plan.path_length <= path_limit


@settings(max_examples=30, deadline=None)
@given(suites(), st.data())
def test_after_a_crash_the_batches_that_are_left_need_nothing_else(
    requests: list[Request], data: st.DataObject
) -> None:
    plan = plan_requests(requests, budget=32, path_limit=5000)
    done = data.draw(st.sets(st.integers(0, len(requests) - 1)))
    answered = simulate(plan, requests, block=8, carry=2, only=plan.pending(done))
    assert set(range(len(requests))) - done <= answered


def test_distinct_tokens_are_computed_once() -> None:
    shots = list(range(100, 400))
    requests = [([*shots, q, q + 1], [letter]) for q in range(0, 20, 2) for letter in (90, 91, 92, 93)]
    plan = plan_requests(requests, budget=10_000, path_limit=10_000)
    assert plan.tokens == 300 + 10 * 2
    assert plan.naive_tokens == 40 * 302
    assert plan.rows == 10  # four letters are read off one distribution


def test_tokens_equal_the_sum_over_sorted_neighbours() -> None:
    rng = np.random.default_rng(1)
    requests = [(rng.integers(0, 3, n).tolist(), rng.integers(0, 3, 4).tolist()) for n in rng.integers(1, 30, 50)]
    sequences = sorted({tuple([*c, *k][:-1]) for c, k in requests})
    shared = [
        next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        for a, b in itertools.pairwise(sequences)
    ]
    plan = plan_requests(requests, budget=64, path_limit=5000)
    assert plan.tokens == sum(map(len, sequences)) - sum(shared)


def test_tiles_never_share_a_batch_so_an_item_does_not_depend_on_other_tasks() -> None:
    one: list[Request] = [([1, 2, 3], [4]), ([1, 2, 5], [6])]
    other: list[Request] = [([1, 2, 7], [8])]
    alone = plan_requests(one, budget=100, path_limit=100, tiles=["a", "a"])
    both = plan_requests(one + other, budget=100, path_limit=100, tiles=["a", "a", "b"])
    assert len(both.batches) == 2
    assert both.batches[0].tokens.tolist() == alone.batches[0].tokens.tolist()


def test_a_sequence_longer_than_the_cache_is_computed_whole() -> None:
    plan = plan_requests([(list(range(500)), [1])], budget=64, path_limit=100)
    assert max(len(b.tokens) for b in plan.batches) >= 400
    assert plan.path_length <= 100


@pytest.mark.parametrize("budget", [32, 128])
def test_batches_keep_to_their_budget(budget: int) -> None:
    rng = np.random.default_rng(2)
    requests = [(rng.integers(0, 9, 40).tolist(), [1]) for _ in range(50)]
    plan = plan_requests(requests, budget=budget, path_limit=5000)
    assert max(len(b.tokens) for b in plan.batches) <= budget
