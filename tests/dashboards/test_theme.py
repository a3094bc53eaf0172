"""The colours can be read, light and dark: contrast as WCAG 2.2 computes it."""

import tomllib

import pytest

from dashboards.charts import TONES
from tests.laws.tree import ROOT
from workbench.publish.signs import DARK, LIGHT

THEME = tomllib.loads((ROOT / "dashboards" / "theme.toml").read_text(encoding="utf-8"))["theme"]
TEXTS = ("textColor", "linkColor", "greenTextColor", "orangeTextColor", "redTextColor", "grayTextColor")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WebAIM's example of just too little


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_can_be_read_on_both_grounds(scheme: str, name: str) -> None:
    colours = THEME[scheme]
    for ground in ("backgroundColor", "secondaryBackgroundColor"):
        assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["green", "orange", "red", "gray"])
def test_badges_can_be_read_on_their_own_ground(scheme: str, name: str) -> None:
    colours = THEME[scheme]
    assert contrast(colours[f"{name}TextColor"], colours[f"{name}BackgroundColor"]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_words_of_buttons_can_be_read(scheme: str) -> None:
    assert contrast(THEME[scheme]["primaryColor"], "#ffffff") >= 4.5


@pytest.mark.parametrize("colour", [*TONES.values(), *THEME["chartCategoricalColors"]])
def test_marks_of_charts_stand_out_on_both_grounds(colour: str) -> None:
    wanted = 3.0 if colour in TONES.values() else 2.2  # shapes and lines beside a legend are told by more than colour
    for scheme in ("light", "dark"):
        assert contrast(colour, THEME[scheme]["backgroundColor"]) >= wanted


def test_outcomes_have_the_same_colours_as_in_every_other_place() -> None:
    for scheme, tones in (("light", LIGHT), ("dark", DARK)):
        named = {"good": "green", "warn": "orange", "bad": "red", "dim": "gray"}
        assert {tone: THEME[scheme][f"{name}TextColor"] for tone, name in named.items()} == tones
