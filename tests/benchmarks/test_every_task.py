"""Every shipped task through the runner: two questions each, from prompt to headline with its clusters."""

import pytest

from benchmarks import catalog
from benchmarks.lm import EngineLM
from benchmarks.rows import find_file
from benchmarks.runner import build_plan, run_plan
from tests.reference import ReferenceEngine
from tests.tiny import tiny_model, tiny_tokenizer
from workbench.config import data_folder
from workbench.engines.base import Generation, Score


class QuickEngine(ReferenceEngine):
    """Answers without a network: likelihood by length, and one sentence for every question."""

    def __init__(self) -> None:
        super().__init__(tiny_model(window=40_000), tiny_tokenizer())

    def _score_one(self, request):
        tokens = len(request.continuation_ids)
        return Score(logprob=-0.5 * tokens, is_greedy=False, tokens=tokens)

    def generate(self, requests, *, skip=()):
        yield [
            (i, Generation(text=" The answer is 42.", tokens=5, finish="stop"))
            for i in range(len(requests))
            if i not in skip
        ]


@pytest.fixture(scope="module")
def lm():
    return EngineLM(QuickEngine(), fingerprint="f" * 64, tokenizer_digest="t" * 64)


@pytest.mark.parametrize("name", catalog.shipped_tasks())
def test_task_gives_its_headline(name, lm):
    spec, _ = catalog.shipped_entries()[name]
    if find_file(catalog.load_manifest().sets[spec.set].test, data_folder()) is None:
        pytest.skip("its file is not in the data folder; set WORKBENCH_DATA")
    outcome = run_plan(lm, build_plan(tasks=[name], limit=2))
    (result,) = outcome.results
    card = catalog.shipped_card(name)
    assert result.metric == card.metric
    assert result.headline.direction == card.direction
    assert result.n == len(outcome.items) >= 2
    assert len({item.item for item in outcome.items}) == len(outcome.items)
    assert all(card.metric in item.metrics for item in outcome.items)
    if card.direction == "higher":
        assert all(0 <= item.metrics[card.metric] <= 1 for item in outcome.items)
    if card.cluster:
        assert all(item.group != item.item for item in outcome.items), "the cluster's column is missing"
