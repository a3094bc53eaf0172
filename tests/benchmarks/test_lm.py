"""EngineLM against lm-eval's own HFLM, and its dealings with the ledger."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks.lm import EngineLM
from benchmarks.progress import ProgressReport
from tests.reference import ReferenceEngine
from tests.tiny import tiny_model, tiny_tokenizer
from workbench.engines.causal_model import CausalModel
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import ConfigError, RunError, TaskError
from workbench.store import Project
from workbench.store.ledger import Ledger

PAIRS = [
    ("The heart pumps blood through the", " arteries"),
    ("The heart pumps blood through the", " veins and the liver"),
    ("The heart pumps blood through the ", "arteries"),  # trailing space moves to the continuation
    ("", "The lung"),
    ("", " late"),
    ("Answer:", " B"),
    ("Question: Which gas? Answer: carbon", " dioxide.\n"),
    ("<s>The heart", " pumps"),  # opens with the prefix token
    ("心臓は", "血液を"),
    ("x " * 300, "apples"),  # longer than the window
]
TEXTS = ["The heart pumps blood.", "He went to the market because the bread was gone. " * 20, "", "é ü 心"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(window=128)


@pytest.fixture
def engine(model: Any) -> ReferenceEngine:
    return ReferenceEngine(model, tiny_tokenizer())


@pytest.fixture
def oracle(model: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tiny_tokenizer(), batch_size=1, logits_cache=False)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    project = Project.init(tmp_path / "project")
    yield project.store.ledger
    project.store.close()


def build_lm(engine: Any, ledger: Ledger | None = None, **options: Any) -> EngineLM:
    return EngineLM(engine, ledger=ledger, **{"fingerprint": "f" * 64, "tokenizer_digest": "t" * 64, **options})


def score_instances(pairs: list[tuple[str, str]], task: str = "t") -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, 0, (task, i, 1)) for i, pair in enumerate(pairs)]


def generate_instances(prompts: list[str], repeats: int = 1, **kwargs: Any) -> list[Instance]:
    instances = [Instance("generate_until", {}, (p, dict(kwargs)), 0, ("g", i, 1)) for i, p in enumerate(prompts)]
    return [instance for instance in instances for _ in range(repeats)]


def test_scores_equal_hflm(engine: ReferenceEngine, oracle: HFLM) -> None:
    ours = build_lm(engine).loglikelihood(score_instances(PAIRS))
    theirs = oracle.loglikelihood(score_instances(PAIRS), disable_tqdm=True)
    assert [o[0] for o in ours] == pytest.approx([t[0] for t in theirs], abs=1e-4)
    assert [o[1] for o in ours] == [t[1] for t in theirs]


def test_rolling_equals_hflm_over_several_windows(engine: ReferenceEngine, oracle: HFLM) -> None:
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0, ("r", i, 1)) for i, text in enumerate(TEXTS)]
    lm = build_lm(engine)
    assert lm.loglikelihood_rolling(requests) == pytest.approx(
        oracle.loglikelihood_rolling(requests, disable_tqdm=True), abs=1e-3
    )
    counts = [lm.facts[("r", i)].tokens if ("r", i) in lm.facts else 0 for i in range(len(TEXTS))]
    # as HFLM: a text is predicted whole from the prefix token
    assert counts == [len(tiny_tokenizer().encode(text)) for text in TEXTS]
    assert counts[1] > 2 * 128


@pytest.mark.parametrize(
    "kwargs",
    [
        {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        {"until": "e", "max_new_tokens": 20, "temperature": 0.0},
        {"until": [], "max_gen_toks": 5},
    ],
)
def test_greedy_generation_equals_hflm(engine: ReferenceEngine, oracle: HFLM, kwargs: dict[str, Any]) -> None:
    prompts = ["The heart pumps", "Question: Which gas do plants take in? Answer:", "word " * 200]
    ours = build_lm(engine).generate_until(generate_instances(prompts, **kwargs))
    theirs = oracle.generate_until(generate_instances(prompts, **kwargs), disable_tqdm=True)
    assert ours == theirs


def test_chat_template_equals_hflm(engine: ReferenceEngine, oracle: HFLM) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    for generation_prompt in (True, False):
        assert build_lm(engine).apply_chat_template(turns, generation_prompt) == oracle.apply_chat_template(
            turns, generation_prompt
        )
    assert build_lm(engine).chat_template(True) == oracle.chat_template(True)


def test_a_tokenizer_without_chat_template_is_one_clear_line(engine: ReferenceEngine) -> None:
    from copy import copy

    bare = copy(tiny_tokenizer())
    bare.chat_template = None
    engine.tokenizer = bare
    with pytest.raises(ConfigError, match="no chat template; leave it out"):
        build_lm(engine).apply_chat_template([{"role": "user", "content": "Why?"}])


def test_cut_prompts_are_counted_per_item(engine: ReferenceEngine) -> None:
    lm = build_lm(engine)
    lm.loglikelihood(score_instances(PAIRS))
    cut = {item: facts.truncated for item, facts in lm.facts.items() if facts.truncated}
    whole = len(tiny_tokenizer().encode("x " * 300 + "apples"))
    assert cut == {("t", len(PAIRS) - 1): whole - 128 - 1}
    lm.generate_until(generate_instances(["word " * 200], max_gen_toks=8))
    assert lm.facts[("g", 0)].truncated == len(tiny_tokenizer().encode("word " * 200)) - (128 - 8)


def test_identical_requests_are_computed_once(engine: ReferenceEngine) -> None:
    lm = build_lm(engine)
    answers = lm.loglikelihood(score_instances([*PAIRS, *PAIRS]))
    assert engine.asked == lm.computed == len(PAIRS) - 1  # "the " + "arteries" is "the" + " arteries"
    assert answers[: len(PAIRS)] == answers[len(PAIRS) :]


def test_a_paid_item_is_never_computed_again_and_keeps_every_bit(engine: ReferenceEngine, ledger: Ledger) -> None:
    first = build_lm(engine, ledger).loglikelihood(score_instances(PAIRS))
    paid = engine.asked
    again = build_lm(engine, ledger)
    assert again.loglikelihood(score_instances(PAIRS)) == first
    assert engine.asked == paid
    assert (again.computed, again.reused) == (0, len(PAIRS) - 1)
    larger = build_lm(engine, ledger)
    larger.loglikelihood(score_instances([*PAIRS, ("A new", " question")]))
    assert engine.asked == paid + 1


@pytest.mark.parametrize("other", [{"fingerprint": "e" * 64}, {"tokenizer_digest": "u" * 64}])
def test_other_weights_or_tokenizer_never_get_a_stored_number(
    engine: ReferenceEngine, ledger: Ledger, other: dict[str, str]
) -> None:
    build_lm(engine, ledger).loglikelihood(score_instances(PAIRS))
    paid = engine.asked
    build_lm(engine, ledger, **other).loglikelihood(score_instances(PAIRS))
    assert engine.asked == 2 * paid


def test_another_scorer_never_gets_a_stored_number(engine: ReferenceEngine, ledger: Ledger) -> None:
    build_lm(engine, ledger).loglikelihood(score_instances(PAIRS))
    paid = engine.asked
    engine.scorer = "reference-2"
    build_lm(engine, ledger).loglikelihood(score_instances(PAIRS))
    assert engine.asked == 2 * paid


def test_an_interrupted_run_keeps_its_tiles_and_ends_with_the_same_numbers(
    model: Any, engine: ReferenceEngine, ledger: Ledger
) -> None:
    undisturbed = build_lm(engine).loglikelihood(score_instances(PAIRS))
    dying = ReferenceEngine(model, tiny_tokenizer(), tile=2)
    dying.die_after = 5
    with pytest.raises(KeyboardInterrupt):
        build_lm(dying, ledger).loglikelihood(score_instances(PAIRS))
    assert ledger.count() == 4  # two whole tiles; the third was not finished
    dying.die_after = None
    resumed = build_lm(dying, ledger)
    assert resumed.loglikelihood(score_instances(PAIRS)) == undisturbed
    assert (resumed.reused, resumed.computed) == (4, len(PAIRS) - 1 - 4)


def few_shot_pairs(questions: int) -> list[tuple[str, str]]:
    """Questions of one task behind the same shots; sorted by tokens, old and new ones lie mixed."""
    shots = "Answer: B\n\nThe following are questions. " * 3
    return [
        (f"{shots}{chr(97 + i * 7 % 26)}{i} Which organ?", choice) for i in range(questions) for choice in (" A", " B")
    ]


def sharing_engine() -> TransformersEngine:
    model = CausalModel(tiny_model(window=512), device=torch.device("cpu"), weights="float32", arithmetic="float32")
    return TransformersEngine(model, tiny_tokenizer(), batch_tokens=128)


def test_a_larger_limit_pays_for_the_new_items_only(ledger: Ledger) -> None:
    lm = build_lm(sharing_engine(), ledger)
    lm.loglikelihood(score_instances(few_shot_pairs(10)))
    larger = build_lm(sharing_engine(), ledger)
    larger.loglikelihood(score_instances(few_shot_pairs(30)))
    new_alone = build_lm(sharing_engine())
    new_alone.loglikelihood(score_instances(few_shot_pairs(30)[20:]))
    assert (larger.reused, larger.computed) == (20, 40)
    assert larger.usage.prompt_tokens == new_alone.usage.prompt_tokens


def test_a_killed_run_of_shared_prefixes_resumes_to_the_same_bits(ledger: Ledger) -> None:
    pairs = few_shot_pairs(40)
    undisturbed = build_lm(sharing_engine()).loglikelihood(score_instances(pairs))

    def die(report: ProgressReport) -> None:
        if report.done >= 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_lm(sharing_engine(), ledger, on_progress=die).loglikelihood(score_instances(pairs))
    resumed = build_lm(sharing_engine(), ledger)
    assert resumed.loglikelihood(score_instances(pairs)) == undisturbed
    assert resumed.reused > 0


class EagerEngine(ReferenceEngine):
    """Computes everything, whatever is in `skip`, and gets slightly other numbers each time."""

    def score(self, requests: Any, *, skip: Any = ()) -> Iterator[Any]:
        from dataclasses import replace

        for tile in super().score(requests):
            yield [(i, replace(score, logprob=score.logprob - self.asked * 1e-9)) for i, score in tile]


def test_a_stored_number_wins_over_a_computed_one(model: Any, ledger: Ledger) -> None:
    engine = EagerEngine(model, tiny_tokenizer())
    first = build_lm(engine, ledger).loglikelihood(score_instances(PAIRS[:4]))
    second = build_lm(engine, ledger).loglikelihood(score_instances(PAIRS))
    assert second[:4] == first


def test_a_number_that_another_process_wrote_meanwhile_is_the_number(model: Any, ledger: Ledger) -> None:
    class Overtaken(EagerEngine):
        def score(self, requests: Any, *, skip: Any = ()) -> Iterator[Any]:
            other = EagerEngine(self.model, self.tokenizer)
            other.asked = 1000
            build_lm(other, ledger).loglikelihood(score_instances(PAIRS))
            yield from super().score(requests, skip=skip)

    raced = build_lm(Overtaken(model, tiny_tokenizer()), ledger).loglikelihood(score_instances(PAIRS))
    assert raced == build_lm(ReferenceEngine(model, tiny_tokenizer()), ledger).loglikelihood(score_instances(PAIRS))


def test_a_log_probability_that_is_no_number_names_its_item(ledger: Ledger) -> None:
    import torch

    broken = tiny_model(window=128)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tiny_tokenizer().encode("Answer")[0]] = math.nan

    class Careless(ReferenceEngine):
        """Hands out NaN instead of refusing it."""

        def _score_one(self, request: Any) -> Any:
            from workbench.engines.base import Score

            try:
                return super()._score_one(request)
            except RunError:
                return Score(logprob=math.nan, is_greedy=False, tokens=1)

    lm = build_lm(Careless(broken, tiny_tokenizer()), ledger)
    with pytest.raises(RunError, match=r"task t, item 5: the log-probability is no number"):
        lm.loglikelihood(score_instances(PAIRS))
    assert ledger.count() == 4  # the tile before the broken one


def test_an_item_that_cannot_be_encoded_is_named(engine: ReferenceEngine) -> None:
    with pytest.raises(TaskError, match=r"task t, item 1: .*1 to 128 tokens"):
        build_lm(engine).loglikelihood(score_instances([PAIRS[0], ("ok", " far" * 400)]))


def test_a_task_that_writes_more_than_the_window_holds_is_named(engine: ReferenceEngine) -> None:
    with pytest.raises(TaskError, match="task g: it may write 500 tokens, but the model's window is 128"):
        build_lm(engine).generate_until(generate_instances(["hello"], max_gen_toks=500))


def test_repeats_sample_afresh_and_the_same_seed_repeats_them(engine: ReferenceEngine, ledger: Ledger) -> None:
    options = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 6, "until": []}
    requests = generate_instances(["The heart"], repeats=3, **options)
    answers = build_lm(engine).generate_until(requests)
    assert len(set(answers)) == 3
    assert build_lm(engine, ledger).generate_until(requests) == answers
    assert build_lm(engine, ledger).generate_until(requests) == answers
    assert build_lm(engine, seed=1).generate_until(requests) != answers


def test_greedy_repeats_are_computed_once(engine: ReferenceEngine) -> None:
    answers = build_lm(engine).generate_until(generate_instances(["The heart"], repeats=4, max_gen_toks=3))
    assert len(set(answers)) == 1
    assert engine.asked == 1


def test_options_that_engines_lack_are_said_once(engine: ReferenceEngine) -> None:
    lm = build_lm(engine)
    lm.generate_until(generate_instances(["a", "b"], max_gen_toks=2, num_beams=5, repetition_penalty=1.0))
    assert lm.usage.notes == ["task g: generation options left out: num_beams=5"]


def test_progress_counts_items_not_requests(engine: ReferenceEngine, ledger: Ledger) -> None:
    pairs = [("Question one? Answer:", f" {c}") for c in "ABCD"] + [("Question two? Answer:", f" {c}") for c in "ABCD"]
    requests = [Instance("loglikelihood", {}, pair, i % 4, ("t", i // 4, 1)) for i, pair in enumerate(pairs)]
    build_lm(engine, ledger).loglikelihood(requests[:4])
    reports: list[ProgressReport] = []
    build_lm(engine, ledger, on_progress=reports.append).loglikelihood(requests)
    assert [(r.done, r.total, r.reused) for r in reports] == [(1, 2, 1), (2, 2, 1)]
    assert reports[-1].rate is not None
    assert reports[-1].seconds_left == 0


def test_generation_and_score_of_the_same_text_do_not_share_a_key(engine: ReferenceEngine, ledger: Ledger) -> None:
    build_lm(engine, ledger).loglikelihood(score_instances([("The heart", " pumps")]))
    build_lm(engine, ledger).generate_until(generate_instances(["The heart"], max_gen_toks=2))
    assert ledger.count() == 2


def test_no_requests_cost_nothing(engine: ReferenceEngine) -> None:
    lm = build_lm(engine)
    assert lm.loglikelihood([]) == lm.loglikelihood_rolling([]) == lm.generate_until([]) == []
    assert engine.asked == 0
