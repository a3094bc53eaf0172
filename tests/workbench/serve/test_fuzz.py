"""A small part of `make fuzz`: no status 500, no answer without its audit row, no denied prompt answered."""

from studies.serve_fuzz import run


def test_fuzzed_requests_end_in_errors_or_guarded_answers():
    tally = run(60, 60, seed=1, with_schemathesis=False)
    assert tally.faults == []
    assert tally.answered
