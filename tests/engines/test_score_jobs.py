"""Jobs answer every request from as few prompts as can be."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.engines._score_jobs import Job, pending_tiles, plan_jobs
from workbench.engines.base import ScoreRequest


def ask(context: str, continuation: str, tile: str = "") -> ScoreRequest:
    """A request whose token ids are its characters'."""
    return ScoreRequest(
        context=context,
        continuation=continuation,
        context_ids=tuple(map(ord, context)),
        continuation_ids=tuple(map(ord, continuation)),
        tile=tile,
    )


def plan(requests: list[ScoreRequest], tile_tokens: int = 10_000, max_lasts: int = 100) -> list[list[Job]]:
    return plan_jobs(requests, tile_tokens=tile_tokens, max_lasts=max_lasts)


def test_letters_of_a_question_are_one_prompt() -> None:
    ((job,),) = plan([ask("question", letter) for letter in "ABCD"])
    assert job.ids == tuple(map(ord, "question"))
    assert job.start == len(job.ids)
    assert sorted(map(chr, job.lasts)) == list("ABCD")


def test_a_continuation_that_begins_another_costs_nothing() -> None:
    ((job,),) = plan([ask("q", "yes"), ask("q", "yes sir"), ask("q", "ye")])
    assert job.ids == tuple(map(ord, "qyes si"))
    assert job.start == 1
    assert sorted(job.requests) == [0, 1, 2]


def test_the_same_text_split_elsewhere_is_one_prompt_scored_from_the_earlier_split() -> None:
    ((job,),) = plan([ask("The capital of", " France"), ask("The capital", " of France")])
    assert job.start == len("The capital")
    assert sorted(job.requests) == [0, 1]


def test_tiles_hold_no_more_tokens_than_asked_and_never_two_tasks() -> None:
    requests = [ask(f"context {i}", " word", tile=f"task{i % 2}") for i in range(20)]
    tiles = plan(requests, tile_tokens=60)
    assert len(tiles) > 4
    for tile in tiles:
        assert sum(len(job.ids) for job in tile) <= 60
        assert len({requests[i].tile for job in tile for i in job.requests}) == 1


def test_only_tiles_with_something_to_do_are_left() -> None:
    tiles = plan([ask(f"{i:04}", " x") for i in range(10)], tile_tokens=10)
    done = {index for job in tiles[1] for index in job.requests}
    assert list(pending_tiles(tiles, done)) == [tiles[0], *tiles[2:]]
    assert list(pending_tiles(tiles, range(10))) == []


def test_a_prompt_is_sent_once_whatever_stands_between_its_answers() -> None:
    (jobs,) = plan([ask("q", letter) for letter in ("D", "C", "B", "Cx")])
    assert sorted(len(job.ids) for job in jobs) == [1, 2]


TEXTS = st.text(alphabet="ab", min_size=1, max_size=5)


@given(
    st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["", "t"])), max_size=30), st.integers(1, 40), st.integers(1, 3)
)
def test_every_request_is_answered_once_from_a_job_that_holds_its_tokens(
    asked: list[tuple[str, str, str]], tile_tokens: int, max_lasts: int
) -> None:
    requests = [ask(*one) for one in asked]
    tiles = plan(requests, tile_tokens, max_lasts)
    jobs = [job for tile in tiles for job in tile]
    assert sorted(index for job in jobs for index in job.requests) == list(range(len(requests)))
    for job in jobs:
        assert 1 <= len(job.lasts) <= max_lasts
        for index in job.requests:
            whole = requests[index].context_ids + requests[index].continuation_ids
            assert job.start <= len(requests[index].context_ids)
            assert any((*job.ids, last)[: len(whole)] == whole for last in job.lasts)
    distinct = {(r.tile, r.context_ids + r.continuation_ids[:-1]) for r in requests}
    assert max_lasts < 2 or len(jobs) <= len(distinct)
