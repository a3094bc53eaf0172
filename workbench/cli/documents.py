"""Comparisons and decisions as files: Markdown for a pull request, one HTML page, JUnit for a CI job. Knows paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from workbench.cli.output import say
from workbench.errors import ConfigError
from workbench.records import Comparison, Decision, Flip

Form = Literal["markdown", "html", "junit"]


def write_documents(
    files: Mapping[Form, Path | None],
    *,
    comparison: Comparison | None,
    decision: Decision | None = None,
    flips: Sequence[Flip] = (),
    reproduce: Sequence[str] = (),
) -> None:
    """Write the files that have a path; an existing one is replaced. With a decision they are about that.

    Raises ConfigError: a file cannot be written.
    """
    for form, path in files.items():
        if path is None:
            continue
        try:
            path.write_text(_render(form, comparison, decision, flips, reproduce), encoding="utf-8")
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(f"{path}: cannot be written: {why}; name a file in a folder that exists") from None
        say(f"wrote {path}")


def _render(
    form: Form,
    comparison: Comparison | None,
    decision: Decision | None,
    flips: Sequence[Flip],
    reproduce: Sequence[str],
) -> str:
    from workbench.publish.html import comparison_html, decision_html
    from workbench.publish.junit import comparison_junit, decision_junit
    from workbench.publish.markdown import comparison_markdown, decision_markdown

    if decision is not None:
        if form == "junit":
            return decision_junit(decision, comparison)
        write = decision_markdown if form == "markdown" else decision_html
        return write(decision, comparison, flips=flips, reproduce=reproduce)
    if comparison is None:
        raise ValueError("nothing to write: neither a decision nor a comparison")
    if form == "junit":
        return comparison_junit(comparison)
    compare = comparison_markdown if form == "markdown" else comparison_html
    return compare(comparison, flips=flips, reproduce=reproduce)
