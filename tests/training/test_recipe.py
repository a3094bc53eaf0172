"""Recipes: the shipped ones load, arithmetic that cannot work is refused, every fault is told at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recipe import Recipe, Source, load_recipe, shipped_recipes
from workbench.errors import ConfigError


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_and_blends_general_data(name: str) -> None:
    recipe = load_recipe(shipped_recipes()[name])
    for annealing in (False, True):
        shares = recipe.shares(annealing=annealing)
        assert sum(shares.values()) == pytest.approx(1) and shares["general"] > 0
    assert recipe.evaluation.suites
    assert shipped_recipes()[name].read_text().startswith("# ")


def test_overrides_change_one_key_and_a_misspelt_one_is_refused() -> None:
    path = shipped_recipes()["sft"]
    assert load_recipe(path, ["schedule.learning_rate=3e-6"]).schedule.learning_rate == 3e-6
    with pytest.raises(ConfigError, match='did you mean "learning_rate"'):
        load_recipe(path, ["schedule.learning_rat=3e-6"])


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("recipe: r\nstart: s\nmethod: sftt\nmix:\n  - {name: a, data: d, shar: 1}\ntokens: -5\nseeed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    for fault in ("method", "mix[0].shar", "tokens", "seeed"):
        assert fault in str(caught.value)


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(lambda s: sum(s) > 0.01))
def test_shares_are_scaled_to_one(shares: list[float]) -> None:
    mix = tuple(Source(name=f"s{i}", data="d", share=share) for i, share in enumerate(shares))
    recipe = Recipe(recipe="r", start="s", method="sft", mix=mix, tokens=100_000)
    found = recipe.shares(annealing=True)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == pytest.approx([share / sum(shares) for share in shares])
