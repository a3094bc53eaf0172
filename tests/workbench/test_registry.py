"""Named plug-ins: from the code, from installed packages, from --include-path."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ConfigError, UserError
from workbench.registry import Registry, load_include_path

REPOSITORY = Path(__file__).parents[2]
Reward = Callable[[str], float]

rewards: Registry[Reward] = Registry("reward")
"""What the files of the include-path tests register with."""


def half(_: str) -> float:
    return 0.5


def test_what_is_registered_is_found_by_its_name() -> None:
    registry: Registry[Reward] = Registry("reward")
    assert registry.register("half")(half) is half
    assert registry.get("half") is half
    assert "half" in registry
    assert list(registry) == registry.names() == ["half"]
    assert len(registry) == 1


def test_an_unknown_name_is_answered_with_near_names() -> None:
    registry: Registry[Reward] = Registry("reward")
    with pytest.raises(UserError, match=r"reward 'exact': unknown; none is known"):
        registry.get("exact")
    registry.register("exact_match")(half)
    registry.register("regex")(half)
    with pytest.raises(UserError, match=r"reward 'exact-match': unknown; did you mean \"exact_match\"\?"):
        registry.get("exact-match")
    with pytest.raises(UserError, match=r"unknown; known: exact_match, regex"):
        registry.get("zzz")


def test_a_name_is_taken_once_unless_it_is_replaced_on_purpose() -> None:
    registry: Registry[Reward] = Registry("reward")
    registry.register("half")(half)
    registry.register("half")(half)  # the same thing again: a module that is run twice
    with pytest.raises(UserError, match="registered already"):
        registry.register("half")(lambda _: 0.4)
    registry.register("half", replace=True)(other := lambda _: 0.4)
    assert registry.get("half") is other
    for name in ("", " half"):
        with pytest.raises(UserError, match="at least one character"):
            registry.register(name)(half)


def test_a_lazy_plugin_is_imported_when_it_is_asked_for_and_not_before() -> None:
    code = (
        "import sys; from workbench.registry import Registry; r = Registry('codec');"
        "r.register_lazy('turtle', 'colorsys:rgb_to_hsv'); print(r.names(), 'colorsys' in sys.modules);"
        "print(r.get('turtle')(0, 0, 0), 'colorsys' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert child.stdout == "['turtle'] False\n(0.0, 0.0, 0) True\n"


@pytest.mark.parametrize("target", ["no.such.module:x", "colorsys:no_such_name"])
def test_a_lazy_plugin_that_cannot_be_imported_is_one_clear_line(target: str) -> None:
    registry: Registry[Reward] = Registry("reward")
    registry.register_lazy("broken", target)
    with pytest.raises(UserError, match=f"reward 'broken': {target} cannot be imported"):
        registry.get("broken")
    with pytest.raises(UserError, match="registered already"):
        registry.register_lazy("broken", target)


def test_installed_packages_bring_plugins_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_rewards.py").write_text("def polite(answer): return 1.0\n")
    meta = tmp_path / "shop_rewards-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-rewards\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[workbench.test_rewards]\npolite = shop_rewards:polite\nbroken = shop_rewards:missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[Reward] = Registry("reward", group="workbench.test_rewards")
    assert registry.names() == ["broken", "polite"]
    assert registry.get("polite")("x") == 1.0
    with pytest.raises(
        UserError, match=r"reward 'broken' of package shop-rewards: .*; update or uninstall shop-rewards"
    ):
        registry.get("broken")
    assert isinstance(registry._installed()["polite"], EntryPoint)


def write_plugin(file: Path, name: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"from tests.workbench.test_registry import rewards\n\n@rewards.register({name!r})\ndef plugin(_): return 1.0\n"
    )
    return file


def test_files_and_folders_of_the_include_path_register_once(tmp_path: Path) -> None:
    from tests.workbench.test_registry import rewards as shared  # the module as the files see it

    one = write_plugin(tmp_path / "a" / "plugins.py", "from-a")
    two = write_plugin(tmp_path / "b" / "plugins.py", "from-b")  # the same file name in another folder
    (tmp_path / "tasks").mkdir()
    assert load_include_path([one, tmp_path / "b", tmp_path / "tasks"]) == [one, two]
    assert load_include_path([one]) == [one]
    assert shared.names() == ["from-a", "from-b"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1\ny = x / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("def f(:\n", ":1: SyntaxError"),
        ("import no_such_module\n", ":1: ModuleNotFoundError"),
    ],
)
def test_a_faulty_plugin_file_is_one_line_with_its_place(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(text)
    for _ in range(2):  # it is not taken for loaded the second time
        with pytest.raises(ConfigError) as error:
            load_include_path([file])
        assert str(error.value).startswith(f"{file}{fault}")


def test_an_include_path_that_does_not_exist_is_answered_with_near_names(tmp_path: Path) -> None:
    (tmp_path / "plugins.py").write_text("")
    with pytest.raises(ConfigError, match=r"no such folder or .py file; did you mean \"plugins.py\"\?"):
        load_include_path([tmp_path / "plugin.py"])


@given(st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), unique=True, max_size=8))
def test_names_are_sorted_and_each_leads_to_its_own_plugin(names: list[str]) -> None:
    registry: Registry[str] = Registry("word")
    for name in names:
        registry.register(name)(name)
    assert registry.names() == sorted(names)
    assert all(registry.get(name) == name for name in names)
