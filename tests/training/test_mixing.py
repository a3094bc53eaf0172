"""The mix is exact in tokens, keeps order, says what each row holds, and goes on with the same rows after a kill."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.mixing import IGNORED, Document, Mixer, PackedRow
from workbench.errors import ConfigError


class Made:
    """Documents of given lengths; document k of source s holds the numbers s·1,000,000 + k·1,000 + place."""

    def __init__(self, number: int, lengths: list[int], *, prompt: int = 0, splits: bool = True) -> None:
        self.number, self.lengths, self.prompt, self.splits = number, lengths, prompt, splits

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, row: int) -> Document:
        tokens = self.number * 1_000_000 + row * 1_000 + np.arange(self.lengths[row], dtype=np.int64)
        return Document(tokens, np.arange(self.lengths[row]) >= self.prompt)


def mixer(*, length: int = 64, seed: int = 0, **sources: Made) -> Mixer:
    return Mixer(sources=sources, length=length, seed=seed)


def long_and_short(*, splits: bool = True) -> dict[str, Made]:
    return {
        "domain": Made(1, [600, 900, 750], splits=splits),
        "general": Made(2, [20, 35, 11, 50, 8] * 10, splits=splits),
    }


def draw(mix: Mixer, count: int, **shares: float) -> list[PackedRow]:
    return [mix.next_row(shares) for _ in range(count)]


def test_shares_are_of_tokens_however_long_the_rows_are() -> None:
    mix = mixer(**long_and_short())
    for asked in ({"domain": 0.75, "general": 0.25}, {"domain": 0.1, "general": 0.9}):
        before = {name: cursor.given for name, cursor in mix.cursors.items()}
        rows = draw(mix, 400, **asked)
        given_now = {name: cursor.given - before[name] for name, cursor in mix.cursors.items()}
        total = sum(row.loss_tokens for row in rows)
        assert sum(given_now.values()) == total
        # each phase has its own shares, whatever the one before gave
        assert all(abs(given_now[name] - share * total) <= mix.length for name, share in asked.items())


@settings(deadline=None, max_examples=40)
@given(
    share=st.floats(0.02, 0.98),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    other=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    rows=st.integers(1, 120),
)
def test_the_error_is_below_one_row_at_every_step(
    share: float, lengths: list[int], other: list[int], rows: int
) -> None:
    mix = mixer(domain=Made(1, [n + 1 for n in lengths]), general=Made(2, other))
    asked = {"domain": share, "general": 1 - share}
    for _ in range(rows):
        mix.next_row(asked)
        total = sum(cursor.given for cursor in mix.cursors.values())
        for name, cursor in mix.cursors.items():
            assert abs(cursor.given - asked[name] * total) <= mix.length


def test_a_source_without_a_share_is_not_read() -> None:
    mix = mixer(**long_and_short())
    rows = draw(mix, 30, domain=1.0, general=0.0)
    assert {span.source for row in rows for span in row.spans} == {"domain"}


def test_a_pass_holds_every_token_once_and_the_given_order_is_kept() -> None:
    sources = {"a": Made(1, [30, 100, 7, 64, 3])}
    mix = Mixer(sources=sources, length=32, seed=0, orders={"a": "given"})
    tokens = np.concatenate([row.tokens for row in draw(mix, 7, a=1.0)])[:204]
    assert tokens.tolist() == np.concatenate([sources["a"].document(i).tokens for i in range(5)]).tolist()
    assert mix.cursors["a"].epoch == 1


def test_each_pass_is_shuffled_anew_and_alike_for_the_same_seed() -> None:
    def order(seed: int) -> list[int]:
        mix = mixer(length=16, seed=seed, a=Made(1, [10] * 20, splits=False))
        return [row.spans[0].row for row in draw(mix, 40, a=1.0)]

    first = order(0)
    assert sorted(first[:20]) == sorted(first[20:]) == list(range(20))
    assert first[:20] != first[20:] and first[:20] != list(range(20))
    assert first == order(0) != order(1)


def test_documents_of_a_row_start_at_position_0_and_their_first_token_carries_no_loss() -> None:
    (row,) = draw(mixer(length=32, a=Made(1, [10, 10, 10], splits=False)), 1, a=1.0)
    assert row.positions.tolist() == [*range(10)] * 3 + [0, 1]
    assert [i for i in range(30) if row.labels[i] == IGNORED] == [0, 10, 20]
    assert (row.labels[30:] == IGNORED).all()
    assert row.loss_tokens == 27


def test_prompts_carry_no_loss_and_conversations_are_never_split() -> None:
    mix = mixer(length=32, a=Made(1, [20, 20, 20], prompt=12, splits=False))
    rows = draw(mix, 3, a=1.0)
    assert [len(row.spans) for row in rows] == [1, 1, 1]
    assert [row.loss_tokens for row in rows] == [8, 8, 8]
    assert all((row.labels[:12] == IGNORED).all() for row in rows)


def test_spans_say_exactly_what_a_row_holds() -> None:
    sources = long_and_short()
    for row in draw(mixer(**sources), 50, domain=0.5, general=0.5):
        held = [sources[s.source].document(s.row).tokens[s.start : s.end] for s in row.spans]
        assert np.concatenate(held).tolist() == row.tokens[: sum(len(part) for part in held)].tolist()


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(0, 60), splits=st.booleans(), seed=st.integers(0, 5))
def test_a_mixer_restored_from_its_state_goes_on_with_the_same_rows(cut: int, splits: bool, seed: int) -> None:
    asked = {"domain": 0.6, "general": 0.4}

    def fresh() -> Mixer:
        return mixer(length=1000, seed=seed, **long_and_short(splits=splits))

    whole = draw(fresh(), 80, **asked)
    first = fresh()
    draw(first, cut, **asked)
    second = fresh()
    second.restore(json.loads(json.dumps(first.state())))
    rest = draw(second, 80 - cut, **asked)
    assert [row.spans for row in rest] == [row.spans for row in whole[cut:]]
    assert all(
        (a.tokens == b.tokens).all() and (a.labels == b.labels).all() for a, b in zip(rest, whole[cut:], strict=True)
    )


def test_a_document_that_cannot_fit_is_skipped_and_counted() -> None:
    mix = mixer(length=32, a=Made(1, [10, 33, 10], splits=False))
    rows = draw(mix, 4, a=1.0)
    assert 1 not in {span.row for row in rows for span in row.spans}
    assert mix.skipped["a"] >= 1
    counted = Counter(span.row for row in rows for span in row.spans)
    assert max(counted.values()) - min(counted.values()) <= 1


def test_a_source_of_which_nothing_fits_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match="raise sequence_length"):
        draw(mixer(length=32, a=Made(1, [40, 50], splits=False)), 1, a=1.0)
    with pytest.raises(ConfigError, match="holds no rows"):
        mixer(a=Made(1, []))


def test_a_state_of_other_sources_is_refused() -> None:
    one, other = mixer(a=Made(1, [5])), mixer(b=Made(1, [5]))
    with pytest.raises(ConfigError, match="start a new run"):
        other.restore(one.state())


def test_a_document_weighs_as_much_in_a_packed_row_as_alone() -> None:
    class Two:
        splits = False

        def __len__(self) -> int:
            return 2

        def document(self, row: int) -> Document:
            return Document(np.arange(4), np.ones(4, bool), weight=(1.0, 0.5)[row])

    row = Mixer(sources={"s": Two()}, length=10, seed=0, orders={"s": "given"}).next_row({"s": 1.0})
    assert row.weights is not None
    assert row.weights.tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1]
