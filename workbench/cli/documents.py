"""Comparisons and decisions as files: Markdown for a pull request, one HTML page, JUnit for a CI job. Knows paths."""

from collections.abc import Sequence
from pathlib import Path

from workbench.cli.output import say
from workbench.errors import ConfigError
from workbench.records import Comparison, Decision, Flip


def write_documents(
    *,
    comparison: Comparison | None,
    decision: Decision | None,
    flips: Sequence[Flip],
    reproduce: Sequence[str],
    markdown: Path | None = None,
    html: Path | None = None,
    junit: Path | None = None,
) -> None:
    """Write what was asked for; an existing file is replaced. With a decision it is about that, else the comparison."""
    for path, text in (
        (markdown, lambda: _markdown(comparison, decision, flips, reproduce)),
        (html, lambda: _html(comparison, decision, flips, reproduce)),
        (junit, lambda: _junit(comparison, decision)),
    ):
        if path is not None:
            _write(path, text())


def _markdown(
    comparison: Comparison | None, decision: Decision | None, flips: Sequence[Flip], reproduce: Sequence[str]
) -> str:
    from workbench.publish.markdown import comparison_markdown, decision_markdown

    if decision is not None:
        return decision_markdown(decision, comparison, flips=flips, reproduce=reproduce)
    assert comparison is not None
    return comparison_markdown(comparison, flips=flips, reproduce=reproduce)


def _html(
    comparison: Comparison | None, decision: Decision | None, flips: Sequence[Flip], reproduce: Sequence[str]
) -> str:
    from workbench.publish.html import comparison_html, decision_html

    if decision is not None:
        return decision_html(decision, comparison, flips=flips, reproduce=reproduce)
    assert comparison is not None
    return comparison_html(comparison, flips=flips, reproduce=reproduce)


def _junit(comparison: Comparison | None, decision: Decision | None) -> str:
    from workbench.publish.junit import comparison_junit, decision_junit

    if decision is not None:
        return decision_junit(decision, comparison)
    assert comparison is not None
    return comparison_junit(comparison)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name a file in a folder that exists") from None
    say(f"wrote {path}")
