"""Strict YAML: every fault at once, each where it is, with the next step."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from workbench import config
from workbench.config import (
    ProjectConfig,
    StrictModel,
    apply_overrides,
    data_folder,
    load_yaml,
    resolve_env,
    validate,
)
from workbench.errors import ConfigError
from workbench.strict_yaml import YamlFault, parse_yaml


class Source(StrictModel):
    name: str
    weight: float = 1.0
    kind: Literal["domain", "general"] = "domain"


class Http(StrictModel):
    url: str


class Mix(StrictModel):
    mix: tuple[Source, ...] = ()
    seed: int = Field(default=0, ge=0)
    by_stage: dict[str, Source] = Field(default_factory=dict)
    reward: Source | Http | None = None
    chat: bool = False

    @field_validator("mix")
    @classmethod
    def _one_of_each(cls, mix: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in mix]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name; rename one")
        return mix


def faults_of(text: str, tmp_path: Path, model: type[StrictModel] = Mix) -> list[str]:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(file, model)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def test_a_good_file_becomes_a_frozen_model(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mix:\n- {name: a, weight: 1e-1}\nby_stage: {sft: {name: b, weight: 2}}\n")
    mix = load_yaml(tmp_path / "a.yaml", Mix)
    assert mix == Mix(mix=(Source(name="a", weight=0.1),), by_stage={"sft": Source(name="b", weight=2.0)})
    with pytest.raises(ValueError, match="frozen"):
        mix.seed = 2  # type: ignore[misc]


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = """
        mix:
        - name: a
          wieght: 0.5
        - weight: heavy
          kind: genral
        seed: -1
        sead: 2
        chat: yes
    """
    assert sorted(faults_of(text, tmp_path)) == [
        'chat: should be a valid boolean, got "yes" (text); write true or false',
        'mix[0].wieght: unknown key; did you mean "weight"?',
        "mix[1].kind: got \"genral\" (text), expected 'domain' or 'general'; did you mean \"general\"?",
        "mix[1].name: missing; this key is required",
        'mix[1].weight: should be a valid number, got "heavy" (text)',
        'sead: unknown key; did you mean "seed"?',
        "seed: should be greater than or equal to 0, got -1",
    ]


def test_an_unknown_key_far_from_all_names_what_is_known(tmp_path: Path) -> None:
    assert faults_of("zzz: 1", tmp_path) == ["zzz: unknown key; known: by_stage, chat, mix, reward, seed"]


def test_keys_below_mappings_and_unions_are_known_too(tmp_path: Path) -> None:
    assert faults_of("by_stage: {sft: {name: a, wait: 1}}", tmp_path) == [
        'by_stage.sft.wait: unknown key; did you mean "weight"?'
    ]
    lines = faults_of("reward: {ulr: http://localhost}", tmp_path)
    assert 'reward.ulr: unknown key; did you mean "url"?' in lines
    assert "reward.url: missing; this key is required" in lines


def test_a_models_own_check_is_told_in_its_own_words(tmp_path: Path) -> None:
    text = "mix: [{name: a}, {name: a}]"
    assert faults_of(text, tmp_path) == ["mix: two sources have the same name; rename one"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seed: 1\nseed: 2\n", 'line 2, column 1: key "seed" is given twice'),
        ("mix: [", "line 1, column 7"),
        ("- a\n- b\n", "a mapping (key: value) is expected, got list"),
        ("seed: !!python/object:os.system x\n", "could not determine a constructor"),
        ("seed: \x07\n", "special characters are not allowed"),
        ("mix: &a [*a]\n", "an anchor that holds itself"),
        ("a: &a {b: *a}\n", "an anchor that holds itself"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("a: b\n---\nc: d\n", "expected a single document"),
    ],
)
def test_text_that_is_no_plain_yaml_is_one_clear_line(text: str, fault: str, tmp_path: Path) -> None:
    (line,) = faults_of(text, tmp_path)
    assert fault in line


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(ConfigError, match=r'recipes.yaml: no such file; did you mean "recipe.yaml"\?'):
        load_yaml(tmp_path / "recipes.yaml", Mix)
    (tmp_path / "latin.yaml").write_bytes("name: Käse".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8; save the file as UTF-8 text"):
        load_yaml(tmp_path / "latin.yaml", Mix)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path, Mix)
    assert load_yaml(tmp_path / "recipe.yaml", Mix) == Mix()


def test_the_surprises_of_yaml_1_1_are_gone() -> None:
    text = "a: no\nb: on\nc: 010\nd: 2024-01-01\ne: 12:30\nf: 1e-4\ng: 0x1F\nh: .inf\ni: ~\n1: x\nyes: y\nj: 1_000\n"
    assert parse_yaml(text) == {
        "a": "no", "b": "on", "c": 10, "d": "2024-01-01", "e": "12:30", "f": 1e-4, "g": 31, "h": math.inf,
        "i": None, "1": "x", "yes": "y", "j": "1_000",
    }  # fmt: skip


def test_anchors_and_merge_keys_work_and_may_be_overridden() -> None:
    assert parse_yaml("base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\n")["mine"] == {"x": 1, "y": 3}


Key = st.text(max_size=60)  # YAML ends a key without a question mark after 1,024 characters
Plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Key, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(Key, Plain, max_size=4))
def test_json_is_yaml(data: dict[str, Any]) -> None:
    assert parse_yaml(json.dumps(data)) == data


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@`?,\n\t 01.~<"), max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        parse_yaml(text)
    except YamlFault as fault:
        assert str(fault)
        assert "\n" not in str(fault)


Words = st.sampled_from(["mix", "name", "weight", "kind", "seed", "by_stage", "reward", "url", "chat", "seeed", "x y"])
Tree = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | Words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Words, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(Words, Tree, max_size=5))
def test_any_data_is_valid_or_each_line_names_a_place_in_it(data: dict[str, Any]) -> None:
    try:
        model = validate(data, Mix, where="file")
    except ConfigError as error:
        for line in str(error).splitlines():
            where, path, what = line.split(": ", 2)
            assert where == "file"
            assert path.split(".")[0].split("[")[0] in {*data, *Mix.model_fields}
            assert what
    else:
        assert set(data) <= set(Mix.model_fields)
        assert validate(model.model_dump(mode="json"), Mix, where="again") == model


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12).filter(lambda name: name not in Mix.model_fields))
def test_no_unknown_key_is_ever_accepted(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        validate({name: 1}, Mix, where="file")


def test_overrides_reach_into_lists_and_make_what_is_missing() -> None:
    data: dict[str, Any] = {"mix": [{"name": "a", "weight": 1}, {"name": "b"}], "empty": None}
    changed = apply_overrides(
        data, ["mix[0].weight=1e-3", "mix.1.name=c", "train.lr.peak=0.1", "empty.x=[1, 2]", "text=a=b", "none="]
    )
    assert changed == {
        "mix": [{"name": "a", "weight": 1e-3}, {"name": "c"}],
        "empty": {"x": [1, 2]},
        "train": {"lr": {"peak": 0.1}},
        "text": "a=b",
        "none": None,
    }
    assert data["mix"][0]["weight"] == 1


def test_all_faulty_overrides_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        apply_overrides({"mix": [1], "seed": 3}, ["seed", "mix[4]=1", "seed.x=1", "=2", "a..b=1", "a=[", "mix.x=2"])
    lines = str(error.value).splitlines()
    assert lines[0] == "override 'seed': key=value is expected, such as train.seed=7 or mix[0].weight=0.5"
    assert lines[1] == "override 'mix[4]=1': the list has indices 0 to 0, got 4"
    assert lines[2] == "override 'seed.x=1': 'x' stands below a plain value"
    assert [line.split(": ")[0] for line in lines[3:]] == [
        "override '=2'",
        "override 'a..b=1'",
        "override 'a=['",
        "override 'mix.x=2'",
    ]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.integers() | st.booleans(), min_size=1))
def test_overriding_each_leaf_gives_the_new_values(leaves: dict[str, Any]) -> None:
    overrides = [f"top.{name}={yaml.safe_dump(value).splitlines()[0]}" for name, value in leaves.items()]
    assert apply_overrides({"top": {"a": 0}}, overrides)["top"] == {"a": 0} | leaves


def test_a_secret_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_URL", "postgresql://x")
    assert resolve_env("env:MY_URL", where="store") == "postgresql://x"
    assert resolve_env("sqlite:///a", where="store") == "sqlite:///a"
    monkeypatch.delenv("MY_URL")
    with pytest.raises(ConfigError, match=r"^store: environment variable MY_URL is not set"):
        resolve_env("env:MY_URL", where="store")


def test_data_is_found_by_environment_then_config_then_beside_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("env", "configured", "checkout/workbench", "shared/data"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "env"))
    configured = ProjectConfig(data=Path("configured"))
    assert data_folder(configured, root=tmp_path) == tmp_path / "env"
    monkeypatch.delenv("WORKBENCH_DATA")
    assert data_folder(configured, root=tmp_path) == tmp_path / "configured"
    monkeypatch.setattr(config, "__file__", str(tmp_path / "checkout" / "workbench" / "config.py"))
    assert data_folder() == tmp_path / "shared" / "data"
    assert data_folder(ProjectConfig()) == tmp_path / "shared" / "data"
    (tmp_path / "shared" / "data").rmdir()
    assert data_folder() is None


def test_a_data_folder_that_is_named_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"environment variable WORKBENCH_DATA: .*nowhere is no folder"):
        data_folder()
    monkeypatch.delenv("WORKBENCH_DATA")
    with pytest.raises(ConfigError, match=r"workbench.yaml: data: .*nowhere is no folder"):
        data_folder(ProjectConfig(data=tmp_path / "nowhere"))


def test_endpoints_are_hosts(tmp_path: Path) -> None:
    (line,) = faults_of('allowed_endpoints: ["https://api.example.org/v1"]', tmp_path, ProjectConfig)
    assert line.startswith("allowed_endpoints: got ")
    assert "expected a host such as" in line
