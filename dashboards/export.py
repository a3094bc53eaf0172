"""What a page shows as one HTML file to be sent to somebody: the same page as `workbench gate --html` writes."""

import streamlit as st

from dashboards.items import flip_index, flips_at
from workbench.records import Comparison, Decision, Flip

FLIPS = 400
"""Answers that changed, at most, those that were lost first: a file to be read, not all of 100,000."""


def page_button(comparison: Comparison | None, decision: Decision | None = None) -> None:
    """A button that writes the page when it is pressed, not before. With a decision it is about that."""
    if comparison is None and decision is None:
        return
    kind, record = ("decision", decision) if decision is not None else ("comparison", comparison)
    assert record is not None
    st.download_button(
        "Download as one HTML page",
        data=lambda: whole_page(comparison, decision),
        file_name=f"{kind}-{record.id[:12]}.html",
        mime="text/html",
        key=f"html-{kind}",
        icon=":material/description:",
        type="tertiary",
        on_click="ignore",
    )


def whole_page(comparison: Comparison | None, decision: Decision | None) -> str:
    """The page: no script, no network, no other file; foreign text escaped."""
    from workbench.publish.html import comparison_html, decision_html

    flips = flips_of(comparison) if comparison is not None else []
    if decision is not None:
        return decision_html(decision, comparison, flips=flips)
    assert comparison is not None
    return comparison_html(comparison, flips=flips)


def flips_of(comparison: Comparison) -> list[Flip]:
    """The first answers that changed."""
    index = flip_index(comparison)
    return flips_at(comparison, index, list(range(min(FLIPS, len(index.task)))))
