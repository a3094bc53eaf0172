"""Many posts against many rules: who is asked what, and that nothing unscorable is ever safe."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.communities import Communities, read_rules, rule_id, with_rules
from safety.judges import build_judge
from safety.judges.model import ModelJudge
from safety.moderation import Moderator, Post
from safety.policy import load_policy
from tests.safety.judges.test_model_judge import TableEngine
from tests.tiny import save_tiny_checkpoint
from workbench.engines.prefix_tree import shared_tokens
from workbench.errors import ConfigError, UserError

PLATFORM = load_policy("communities")
SPOILERS = "No spoilers."


def moderator(table, **options):
    engine = TableEngine(table)
    judge = ModelJudge(engine=engine, nonce="x", swap=False, **options)
    communities = Communities(PLATFORM, rules={"books": [SPOILERS]})
    return Moderator(communities, judge), engine


def by_rule(answers):
    """Probability of Yes by a word of the rule; elsewhere No."""

    def table(prompt):
        p = next((p for word, p in answers.items() if word in prompt.split("Rule: ")[1]), 0.02)
        return {"Yes": p, "No": 0.99 - p}

    return table


def test_a_post_is_asked_about_the_rules_of_its_own_community():
    own, engine = moderator(by_rule({}))
    own.moderate(
        [Post(id="1", text="hello there", community="books"), Post(id="2", text="hello there", community="art")]
    )
    books = [prompt for prompt in engine.prompts if "community: books" in prompt]
    art = [prompt for prompt in engine.prompts if "community: art" in prompt]
    assert any(SPOILERS in prompt for prompt in books) and not any(SPOILERS in prompt for prompt in art)


def test_there_is_one_pass_for_each_text_and_rule():
    own, engine = moderator(by_rule({}))
    (found,) = own.moderate([Post(id="1", text="hello there", community="books")])
    asked = len(set(engine.prompts))
    read = {j.category for j in found.judgements if j.probability is not None}
    assert asked == len(read) > 10


def test_a_violated_rule_of_a_community_is_acted_on_as_its_policy_says():
    own, _ = moderator(by_rule({SPOILERS: 0.97}))
    (found,) = own.moderate([Post(id="1", text="He dies at the end.", community="books")])
    assert found.decision.category == f"rule.{rule_id(SPOILERS)}"
    assert found.decision.action == "review"
    assert found.probability == pytest.approx(0.97 / 0.99)


def test_an_answer_without_mass_is_unscorable_and_in_full_doubt():
    own, _ = moderator(lambda _: {"Yes": 0.01, "No": 0.5})
    (found,) = own.moderate([Post(id="1", text="hello there")])
    assert found.unscorable and found.doubt == 1.0
    assert found.decision.action == "hold"  # what the platform does where a severe rule cannot be scored


def test_a_blank_post_violates_nothing_and_asks_nobody():
    own, engine = moderator(by_rule({}))
    (found,) = own.moderate([Post(id="1", text=" \u200b\n")])
    assert found.decision.action == "allow" and not engine.prompts


def test_a_text_that_hides_another_is_judged_by_both_and_the_worst_counts():
    def table(prompt):
        text = prompt.split("Text:\n")[1].split("\nRule:")[0]
        p = 0.97 if "followers" in text and "Spam" in prompt else 0.02
        return {"Yes": p, "No": 0.99 - p}

    own, _ = moderator(table)
    hidden = "f\u200bollowers for s\u200bale"
    (found,) = own.moderate([Post(id="1", text=hidden)])
    assert {o.category for o in found.decision.outcomes if o.value == "violates"} == {"spam"}


def test_patterns_of_the_policy_are_asked_beside_the_model():
    own, _ = moderator(by_rule({}))
    (found,) = own.moderate([Post(id="1", text="write to jane@example.org")])
    assert {o.category for o in found.decision.outcomes if o.value == "violates"} == {"privacy"}


def test_an_attribute_that_the_platform_sets_changes_what_is_done():
    communities = Communities(load_policy("communities"), folder=load_path())
    judge = ModelJudge(engine=TableEngine(by_rule({"Spam": 0.97})), nonce="x", swap=False)
    own = Moderator(communities, judge)
    posts = [
        Post(id=str(n), text="weekly market thread", community="AskHistory", attributes={"is_moderator": moderates})
        for n, moderates in enumerate((False, True))
    ]
    plain, waived = own.moderate(posts)
    assert (plain.decision.action, waived.decision.action) == ("review", "log")


def load_path():
    from safety.resolve import FOLDER

    return FOLDER


def test_a_policy_whose_judges_may_not_be_replaced_is_refused():
    policy = load_policy("moderation")
    only_words = {name: one for name, one in policy.judges.items() if name == "private_data"}
    from dataclasses import replace

    with pytest.raises(ConfigError, match="nothing to say"):
        Moderator(Communities(replace(policy, judges=only_words)), ModelJudge(engine=TableEngine(by_rule({}))))


def test_the_layout_is_the_one_that_shares_more():
    own, _ = moderator(by_rule({}))
    short = [Post(id=str(n), text=f"text {n}") for n in range(40)]
    long = [Post(id=str(n), text=f"{n} " + f"word{n} " * 300) for n in range(8)]
    assert own.choose_layout(short)[0] == "rules_first"
    layout, costs = own.choose_layout(long)
    assert layout == "text_first" and costs["text_first"] < costs["rules_first"] / 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from workbench.engines.transformers_engine import TransformersEngine

    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("moderation") / "tiny")
    engine = TransformersEngine.load(str(folder), device="cpu", dtype="float32")
    yield engine, folder
    engine.close()


@pytest.mark.parametrize("layout", ["rules_first", "text_first"])
def test_probabilities_are_those_of_one_plain_pass_for_each_pair(tiny, layout):
    import torch
    from transformers import AutoModelForCausalLM

    engine, folder = tiny
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    judge = ModelJudge(engine=engine, nonce="x", layout=layout, swap=False, min_mass=1e-9)
    own = Moderator(Communities(PLATFORM), judge)
    posts = [Post(id=str(n), text=f"The market sold {n} apples", title="A title") for n in range(3)]
    for post, found in zip(posts, own.moderate(posts), strict=True):
        for name in ("hate", "spam"):
            prompt = judge.build_prompt(post.passage(), PLATFORM.categories[name])
            ids = engine.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = model(ids).logits[0, -1].double().numpy()
            words = {label: label_ids(engine.tokenizer, label) for label in ("Yes", "No")}
            share = plain_share(model, ids, logits, words)
            got = next(j.probability for j in found.judgements if j.category == name)
            assert got == pytest.approx(share, abs=2e-5)


def label_ids(tokenizer, label):
    forms = (label, f" {label}", label.lower(), f" {label.lower()}")
    return [tokenizer.encode(form, add_special_tokens=False) for form in forms]


def plain_share(model, ids, logits, words):
    """The share of Yes with every form of a word scored by a pass of its own, and no two of one first token."""
    import torch

    seen, mass = set(), {"Yes": 0.0, "No": 0.0}
    for label, forms in words.items():
        for form in forms:
            if form[0] in seen:
                continue
            seen.add(form[0])
            whole = torch.cat([ids, torch.tensor([form])], dim=1)
            with torch.inference_mode():
                rows = model(whole).logits[0].double().log_softmax(-1)
            start = ids.shape[1] - 1
            mass[label] += math.exp(sum(rows[start + k, token].item() for k, token in enumerate(form)))
    return mass["Yes"] / (mass["Yes"] + mass["No"])


def test_a_text_no_tokenizer_takes_does_not_take_others_with_it(tiny):
    engine, _ = tiny
    judge = ModelJudge(engine=engine, nonce="x", swap=False, min_mass=1e-9)
    broken, whole = Moderator(Communities(PLATFORM), judge).moderate(
        [Post(id="1", text="half a pair \ud83d here"), Post(id="2", text="a whole text")]
    )
    assert not whole.unscorable and not broken.unscorable


def test_an_engine_that_fails_ends_a_strict_run():
    def broken(_):
        raise RuntimeError("out of memory")

    own, _ = moderator(broken, strict=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        own.moderate([Post(id="1", text="hello there")])


def test_many_communities_inherit_and_share_what_they_have_in_common():
    communities = Communities(PLATFORM, rules={f"c{n}": ["Be kind.", f"Only posts about {n}."] for n in range(300)})
    first, second = communities.policy_of("c1"), communities.policy_of("c2")
    assert first.hash != second.hash and communities.policy_of("c1") is first
    assert first.categories["hate"] is second.categories["hate"]  # inherited, not copied
    same = f"rule.{rule_id('Be kind.')}"
    assert first.categories[same].hash == second.categories[same].hash


def test_a_community_of_which_nobody_knows_stands_under_the_platform():
    communities = Communities(PLATFORM, folder=load_path())
    for name in ("", "unheard-of", "../secrets", "a b", "x" * 200):
        assert communities.policy_of(name) is PLATFORM


def test_a_file_that_does_not_extend_the_platform_is_refused():
    with pytest.raises(ConfigError, match="does not extend"):
        Communities(PLATFORM, folder=load_path()).policy_of("security-testing")


def test_too_many_rules_and_empty_ones_are_refused():
    with pytest.raises(UserError, match="at most"):
        with_rules(PLATFORM, [f"rule {n}" for n in range(101)])


def test_faults_in_a_file_of_rules_are_told_by_line(tmp_path):
    file = tmp_path / "rules.jsonl"
    file.write_text('{"community": "a", "rules": ["x"]}\n{"community": "b"}\nno\n{"community": "a", "rules": []}\n')
    with pytest.raises(ConfigError) as caught:
        read_rules(file)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "3", "4"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12))
def test_shared_tokens_are_the_nodes_of_a_trie(sequences):
    nodes = {tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)}
    assert shared_tokens(sequences) == len(nodes)


def test_the_guard_decides_what_the_moderation_decides():
    import asyncio

    from safety.guard import Guard

    table = by_rule({"Spam": 0.97, SPOILERS: 0.5, "Insulting": 0.6})
    judge = ModelJudge(engine=TableEngine(table), nonce="x", swap=False)
    own = Moderator(Communities(PLATFORM), judge)
    posts = [
        Post(id="1", text="a plain text", title="A title"),
        Post(id="2", text="a plain text", rules=(SPOILERS,)),
        Post(id="3", text="mail jane@example.org"),
    ]
    words = {name: build_judge(name, "regex", PLATFORM.judges[name]["options"]) for name in ("private_data",)}
    guard = Guard(PLATFORM, {"harm": judge, "mod": judge} | words)

    async def ask(post):
        return await guard.with_rules(post.rules).check(post.text, "content", shown=post.passage().context)

    async def all_of_them():
        return [await ask(post) for post in posts]

    try:
        checks = asyncio.run(all_of_them())
    finally:
        guard.close()
    for check, found in zip(checks, own.moderate(posts), strict=True):
        assert check.decision.action == found.decision.action
        outcomes = {o.category: (o.value, o.probability) for o in check.decision.outcomes if o.value != "allowed"}
        assert outcomes == {
            o.category: (o.value, o.probability) for o in found.decision.outcomes if o.value != "allowed"
        }
    assert guard.with_rules([SPOILERS]) is guard.with_rules([SPOILERS])
    assert guard.with_rules([]) is guard
