"""Replay by category: presets become sources of the mix."""

from pathlib import Path

import pytest
import yaml

from training.presets import load_preset, shipped_presets
from training.recipe import load_recipe
from workbench.errors import ConfigError


def recipe(tmp_path: Path, **replay: object) -> Path:
    path = tmp_path / "r.yaml"
    mix = [
        {"name": "a", "data": "a.jsonl", "share": 3, "anneal_share": 1},
        {"name": "b", "data": "b.jsonl", "share": 1},
    ]
    for source in mix:
        source["share"] /= 4  # type: ignore[operator]
    fields = {"preset": "plain", "share": 0.2, "sources": {"text": "t.jsonl", "math": "m.jsonl"}} | replay
    rest = {"recipe": "r", "start": "s", "method": "sft", "tokens": 100_000}
    path.write_text(yaml.safe_dump(rest | {"mix": mix, "replay": fields}))
    return path


@pytest.mark.parametrize("name", shipped_presets())
def test_a_preset_adds_up_to_one_and_says_where_it_is_from(name: str) -> None:
    assert sum(load_preset(name).values()) == pytest.approx(1)
    assert shipped_presets()[name].read_text().startswith("# ")


def test_categories_without_data_give_their_share_to_the_others(tmp_path: Path) -> None:
    found = load_recipe(recipe(tmp_path))
    shares = found.shares(annealing=False)
    assert shares == pytest.approx({"a": 0.6, "b": 0.2, "replay-text": 0.16, "replay-math": 0.04})
    assert {(s.name, s.role, s.category) for s in found.mix[2:]} == {
        ("replay-text", "replay", "text"),
        ("replay-math", "replay", "math"),
    }


def test_the_replay_has_its_share_in_the_annealing_phase_too(tmp_path: Path) -> None:
    found = load_recipe(recipe(tmp_path, anneal_share=0.5)).shares(annealing=True)
    assert found["replay-text"] + found["replay-math"] == pytest.approx(0.5)
    assert found["a"] / found["b"] == pytest.approx(4)  # 1 to 0.25
    same = load_recipe(recipe(tmp_path)).shares(annealing=True)
    assert same["replay-text"] + same["replay-math"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        ({"preset": "forge-ctp"}, 'did you mean "forge-cpt"'),
        ({"sources": {"maths": "m.jsonl"}}, 'did you mean "math"'),
        ({"share": 1.5}, "replay.share"),
        ({"sources": {}}, "replay.sources"),
        ({"shares": 1}, "replay.shares: unknown key"),
    ],
)
def test_a_faulty_replay_is_refused(tmp_path: Path, replay: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe(tmp_path, **replay))
    assert message in str(caught.value)
