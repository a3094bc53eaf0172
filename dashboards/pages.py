"""The table of pages. To add one: write `dashboards/views/NAME.py` and a row here; nothing else knows its name.

A page is a module that Streamlit runs as a script on every interaction. It ends with

    if __name__ == "__main__":
        page()

asks `dashboards.access.person()` who is there, reads by `dashboards.data`, and shows by `dashboards.show`. Its first
element is `show.question(...)`: the question that the page answers, and the answer in a sentence.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "views"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRow:
    """One page of the dashboard."""

    name: str
    """Of its module in `views`, and in its address."""
    title: str
    section: str
    icon: str
    """A Material symbol, beside the title."""
    roles: frozenset[str] = frozenset()
    """Who may open it: any of these roles; empty: everybody who may come in."""

    @property
    def path(self) -> Path:
        """The module's file."""
        return FOLDER / f"{self.name}.py"


DECIDE, PEOPLE, MAKE = "Decide", "People", "Make"
PAGES: tuple[PageRow, ...] = (
    PageRow(name="overview", title="Overview", section=DECIDE, icon=":material/flag:"),
    PageRow(name="compare", title="Compare", section=DECIDE, icon=":material/balance:"),
    PageRow(name="items", title="Items", section=DECIDE, icon=":material/compare_arrows:"),
    PageRow(name="responsible", title="Responsible AI", section=DECIDE, icon=":material/health_and_safety:"),
    PageRow(name="gate", title="Gate", section=DECIDE, icon=":material/gavel:"),
    # Open to all who may come in: who may label is known to the queue, which the page asks.
    PageRow(name="review", title="Review", section=PEOPLE, icon=":material/rate_review:"),
    PageRow(name="queue", title="Queue health", section=PEOPLE, icon=":material/monitoring:"),
    PageRow(name="launch", title="Launch", section=MAKE, icon=":material/play_circle:", roles=frozenset({"ml"})),
    PageRow(name="training", title="Training", section=MAKE, icon=":material/show_chart:"),
    PageRow(name="lineage", title="Lineage", section=MAKE, icon=":material/account_tree:"),
    PageRow(name="studies", title="Studies", section=MAKE, icon=":material/science:"),
)
"""In the order of the navigation; the first one is the start."""


def existing_pages() -> tuple[PageRow, ...]:
    """The pages whose module is there."""
    return tuple(page for page in PAGES if page.path.is_file())
