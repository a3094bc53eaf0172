"""Lay out scoring requests as a prefix tree, in batches that compute every distinct token once.

Pure planning on token ids: knows no model, no tensor library. Sorted sequences are a depth-first walk of their trie:
sequence i adds only the tokens after its longest common prefix with sequence i-1. A batch is a contiguous stretch of
that walk, so the descendants of any edge are contiguous too, and attention splits into three exact parts that are
merged by log-sum-exp (Hydragen, arXiv 2402.05099): *spans* (many queries see all keys of a shared edge, no mask),
*blocks* (a small subtree with its tree mask) and *runs* (a long edge sees itself, causally). Between batches only the
keys and values of the open path are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK = 256
"""Largest subtree that is attended with one tree mask. Larger ones are split at their first edge."""
CARRY = 64
"""Most ancestor tokens that are repeated as keys of every block below, instead of one more span to merge."""


@dataclass(frozen=True, slots=True)
class Span:
    """Queries [start, end) of the batch see every key: stored path [0, keys_end) or batch [keys, keys_end)."""

    start: int
    end: int
    stored: bool
    keys: int
    keys_end: int


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [start, end) see `keys` (stored path depth as -1-depth, else batch offset) where `mask` is True."""

    start: int
    end: int
    keys: np.ndarray
    mask: np.ndarray
    """bool [end - start, len(keys)]"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [depth, depth + length) of a sequence, at `offset` of its batch."""

    sequence: int
    depth: int
    offset: int
    length: int


@dataclass(slots=True)
class Parts:
    """How the attention of a batch is divided: each query sees each of its ancestors in exactly one part."""

    spans: list[Span] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    """[start, end) of long edges that see themselves causally."""


@dataclass(slots=True)
class Batch:
    """One forward pass over a packed stretch of the trie."""

    tokens: np.ndarray
    """int64 [T]"""
    positions: np.ndarray
    """int64 [T]; depth in the trie = position in the sequence"""
    pieces: tuple[Piece, ...]
    keep: list[tuple[int, int, int]] = field(default_factory=list)
    """(depth, offset, length): what of this batch goes into the stored path, for later batches."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [S]; distinct batch offsets whose next-token distribution is wanted."""
    targets: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    """int64 [R, 4]: index into rows, token, request, place in the request's continuation."""
    needs: tuple[int, ...] = ()
    """Earlier batches that hold a part of the path this batch starts from."""
    requests: tuple[int, ...] = ()
    """Requests that are complete once this batch and all before it are done."""


@dataclass(slots=True)
class Plan:
    """Batches in order, and what they cost."""

    batches: list[Batch]
    tokens: int
    """Computed tokens (distinct trie tokens, and the few that a full cache makes us repeat)."""
    naive_tokens: int
    """Tokens of one pass per request."""
    rows: int
    """Scored rows."""
    depth_sum: int
    """Sum over computed tokens of the keys each one sees: attention work."""
    path_length: int
    """Longest stored path, in tokens: what the cache must hold."""

    def pending(self, done: set[int]) -> list[int]:
        """Batches still to compute, and those whose stored path they need; `done` are requests already answered."""
        wanted: set[int] = set()
        queue = [b for b, batch in enumerate(self.batches) if any(int(r) not in done for r in batch.targets[:, 2])]
        while queue:
            b = queue.pop()
            if b not in wanted:
                wanted.add(b)
                queue.extend(self.batches[b].needs)
        return sorted(wanted)


@dataclass(slots=True)
class _Node:
    """An edge of the batch's trie. Its descendants are the batch offsets [offset + length, end)."""

    depth: int
    offset: int
    length: int
    children: list["_Node"] = field(default_factory=list)
    end: int = 0


def plan_requests(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    budget: int,
    path_limit: int,
    tiles: Sequence[str] | None = None,
) -> Plan:
    """Plan (context ids, continuation ids) requests. Contexts and continuations hold at least one token each.

    Args:
        requests: token ids; the model sees (context + continuation)[:-1].
        budget: tokens per batch, aimed at (a longer sequence that the cache cannot hold in pieces exceeds it).
        path_limit: longest path, in tokens, whose keys and values may be kept between batches.
        tiles: a name per request; requests of different tiles never share a batch.
    """
    plan = Plan([], 0, sum(len(c) + len(k) - 1 for c, k in requests), 0, 0, 0)
    groups: dict[str, list[int]] = {}
    for i in range(len(requests)):
        groups.setdefault(tiles[i] if tiles else "", []).append(i)
    for name in sorted(groups):
        _plan_tile(plan, requests, groups[name], budget, path_limit)
    last: dict[int, int] = {}
    for b, batch in enumerate(plan.batches):
        last.update(dict.fromkeys(batch.targets[:, 2].tolist(), b))
    complete: dict[int, list[int]] = {}
    for request, b in last.items():
        complete.setdefault(b, []).append(request)
    for b, batch in enumerate(plan.batches):
        batch.requests = tuple(sorted(complete.get(b, ())))
    return plan


def _plan_tile(
    plan: Plan,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    members: Sequence[int],
    budget: int,
    path_limit: int,
) -> None:
    """Append the batches of one tile to the plan."""
    users: dict[bytes, list[int]] = {}
    for r in members:
        context, continuation = requests[r]
        # big-endian bytes sort like the token sequences, at memcmp speed
        users.setdefault(np.array([*context, *continuation[:-1]], dtype=">u4").tobytes(), []).append(r)
    keys = sorted(users)
    sequences = [np.frombuffer(k, dtype=">u4").astype(np.int64) for k in keys]
    longest = max(len(s) for s in sequences)
    path_batch, path_offset = np.full(longest, -1, np.int64), np.zeros(longest, np.int64)
    first = len(plan.batches)
    cut = list(_cut(sequences, budget, path_limit))
    scored: dict[int, list[np.ndarray]] = {}

    for b, pieces in enumerate(cut, start=first):
        start = pieces[0].depth
        plan.path_length = max(plan.path_length, start)
        batch = _build_batch(sequences, pieces)
        batch.needs = tuple(int(x) for x in np.unique(path_batch[:start]))
        for writer in batch.needs:
            _keep(plan.batches[writer], np.flatnonzero(path_batch[:start] == writer), path_offset)
        plan.batches.append(batch)
        for piece in pieces:
            end = piece.depth + piece.length
            path_batch[piece.depth : end] = b
            path_offset[piece.depth : end] = np.arange(piece.offset, piece.offset + piece.length)
            if end < len(sequences[piece.sequence]):
                continue  # goes on in the next batch
            for r in users[keys[piece.sequence]]:
                context, continuation = requests[r]
                at = np.arange(len(context) - 1, len(context) + len(continuation) - 1)
                rows = np.column_stack([path_offset[at], continuation, np.full(len(at), r), np.arange(len(at))])
                for owner in np.unique(path_batch[at]):
                    scored.setdefault(int(owner), []).append(rows[path_batch[at] == owner])

    for b in range(first, len(plan.batches)):
        batch = plan.batches[b]
        if b in scored:
            targets = np.concatenate(scored[b])
            batch.rows, where = np.unique(targets[:, 0], return_inverse=True)
            batch.targets = np.column_stack([where.reshape(-1), targets[:, 1:]])
        plan.tokens += len(batch.tokens)
        plan.rows += len(batch.rows)
        plan.depth_sum += int((batch.positions + 1).sum())


def _cut(sequences: Sequence[np.ndarray], budget: int, path_limit: int) -> Iterator[list[Piece]]:
    """Cut the depth-first walk of the sorted sequences into batches of about `budget` tokens."""
    pieces: list[Piece] = []
    used = 0
    previous = np.zeros(0, np.int64)
    for i, sequence in enumerate(sequences):
        depth = _common_prefix(previous, sequence)
        previous = sequence
        while depth < len(sequence):
            if used >= budget or (used >= budget // 2 and len(sequence) - depth > budget - used):
                yield pieces
                pieces, used = [], 0
            if not pieces:
                depth = min(depth, path_limit)
            room = budget - used
            length = len(sequence) - depth
            if length > room and depth + room <= path_limit:
                length = room
            pieces.append(Piece(i, depth, used, length))
            used += length
            depth += length
    if pieces:
        yield pieces


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix of two token arrays."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def shared_tokens(sequences: Iterable[Sequence[int]]) -> int:
    """Distinct tokens of some sequences as a prefix tree: what computing them costs where prefixes are shared.

    >>> shared_tokens([[1, 2, 3], [1, 2, 4], [1, 2, 3]])
    4
    """
    arrays = [
        np.frombuffer(key, dtype=">u4") for key in sorted({np.array(s, dtype=">u4").tobytes() for s in sequences})
    ]
    total, previous = 0, np.zeros(0, dtype=">u4")
    for array in arrays:
        total += len(array) - _common_prefix(previous, array)
        previous = array
    return total


def _keep(batch: Batch, depths: np.ndarray, offsets: np.ndarray) -> None:
    """Note that the stored path needs these depths of `batch`; contiguous stretches become one entry."""
    cuts = np.flatnonzero((np.diff(depths) != 1) | (np.diff(offsets[depths]) != 1)) + 1
    for stretch in np.split(depths, cuts):
        entry = (int(stretch[0]), int(offsets[stretch[0]]), len(stretch))
        if entry not in batch.keep:
            batch.keep.append(entry)


def _build_batch(sequences: Sequence[np.ndarray], pieces: Sequence[Piece]) -> Batch:
    """Tokens and positions of one batch."""
    return Batch(
        tokens=np.concatenate([sequences[p.sequence][p.depth : p.depth + p.length] for p in pieces]),
        positions=np.concatenate([np.arange(p.depth, p.depth + p.length) for p in pieces]),
        pieces=tuple(pieces),
    )


def divide_attention(pieces: Sequence[Piece], *, block: int = BLOCK, carry: int = CARRY) -> Parts:
    """Divide a batch's attention. Made when a batch is computed, not before: the masks of a long run fill memory.

    Args:
        pieces: the batch's pieces, in order.
        block: largest subtree that gets one tree mask.
        carry: most ancestor tokens that are repeated as keys of every block below instead of being one more span.
    """
    parts = Parts()
    for root in _build_trie(pieces):
        # a short stored path is repeated as keys of every block; a long one is one more span for the whole subtree
        stored = [-1 - d for d in range(root.depth)] if root.depth <= carry else []
        if root.depth > carry:
            above = parts.spans[-1] if parts.spans else None
            if above and above.stored and above.keys_end == root.depth and above.end == root.offset:
                parts.spans[-1] = Span(above.start, root.end, True, 0, root.depth)
            else:
                parts.spans.append(Span(root.offset, root.end, True, 0, root.depth))
        _divide(parts, root, stored, block, carry)
    return parts


def _build_trie(pieces: Sequence[Piece]) -> list[_Node]:
    """Radix trie of a batch's pieces; roots hang on the stored path."""
    roots: list[_Node] = []
    path: list[_Node] = []
    for p in pieces:
        while path and path[-1].depth >= p.depth:
            path.pop()
        node = _Node(p.depth, p.offset, p.length)
        if not path:
            roots.append(node)
        else:
            parent = path[-1]
            kept = p.depth - parent.depth
            if kept < parent.length:
                rest = _Node(p.depth, parent.offset + kept, parent.length - kept, parent.children)
                parent.length, parent.children = kept, [rest]
            parent.children.append(node)
        path.append(node)
    for root in roots:
        _close(root)
    return roots


def _close(root: _Node) -> None:
    """Set `end` of every node; iterative, since tries can be deep."""
    order = [root]
    for node in order:
        order.extend(node.children)
    for node in reversed(order):
        node.end = max([node.offset + node.length, *(child.end for child in node.children)])


def _divide(parts: Parts, root: _Node, above: list[int], block: int, carry: int) -> None:
    """Divide a subtree into blocks, runs and spans. `above`: keys that every query below sees."""
    stack = [(root, above)]
    while stack:
        node, carried = stack.pop()
        own = node.offset + node.length
        if node.end - node.offset <= block:
            parts.blocks.append(_block(node, carried))
            continue
        if len(carried) + node.length <= carry:
            parts.blocks.append(_block(_Node(node.depth, node.offset, node.length, [], own), carried))
            carried = [*carried, *range(node.offset, own)]
        else:
            _divide_edge(parts, node, carried, block)
            if node.end > own:
                parts.spans.append(Span(own, node.end, False, node.offset, own))
        stack.extend((child, carried) for child in reversed(node.children))


def _divide_edge(parts: Parts, node: _Node, carried: list[int], block: int) -> None:
    """A long edge on its own: causal blocks of `block` queries, or one run if nothing is carried into it."""
    own = node.offset + node.length
    if not carried:
        parts.runs.append((node.offset, own))
        return
    for start in range(node.offset, own, block):
        end = min(start + block, own)
        if start > node.offset:
            parts.spans.append(Span(start, end, False, node.offset, start))
        parts.blocks.append(_block(_Node(node.depth + start - node.offset, start, end - start, [], end), carried))


def _block(node: _Node, carried: list[int]) -> Block:
    """The subtree under `node` with its tree mask."""
    size, extra = node.end - node.offset, len(carried)
    mask = np.zeros((size, extra + size), bool)
    mask[:, :extra] = True
    stack = [node]
    while stack:
        edge = stack.pop()
        a, b = edge.offset - node.offset, edge.offset - node.offset + edge.length
        mask[a:b, extra + a : extra + b] = np.tri(edge.length, dtype=bool)
        mask[b : edge.end - node.offset, extra + a : extra + b] = True
        stack.extend(edge.children)
    return Block(node.offset, node.end, np.array([*carried, *range(node.offset, node.end)], np.int64), mask)
