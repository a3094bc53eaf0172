"""Studies: what was measured about the workbench itself? The pages of `docs/studies`, where the checkout has them.

These texts are the project's own, so they are shown as the Markdown that they are; their plots are images, in which
nothing runs.
"""

import streamlit as st

from dashboards import show, study_pages
from dashboards.show import Command
from dashboards.study_pages import Part, Study

QUESTION = "What was measured about the workbench itself?"
REPEAT = Command(why="All of them, with the time that each takes:", line="make studies")


def page() -> None:
    """Draw the page."""
    folder = study_pages.FOLDER
    studies = study_pages.read_studies(folder)
    if not studies:
        show.question(QUESTION, "The studies are pages of the source, which an installed package does not bring along.")
        show.empty(
            "They lie in docs/studies of the repository, their numbers in studies/results.",
            Command(why="Which version of the source belongs to this package:", line="workbench --version"),
        )
        return
    asked = st.query_params.get("study", "")
    chosen = next((one for one in studies if one.page and one.name == asked), None)
    if chosen is None:
        _list(studies)
    else:
        _study(chosen, study_pages.read_parts(folder / chosen.page))


def _list(studies: list[Study]) -> None:
    own = [one for one in studies if one.page]
    unfinished = sum(one.is_open for one in studies)
    told = f"; {unfinished} of them {'is' if unfinished == 1 else 'are'} not finished" if unfinished else ""
    show.question(QUESTION, f"{len(studies)} studies are listed, {len(own)} of them with a page here{told}.")
    systems = study_pages.read_table(study_pages.FOLDER, "system")
    if systems:
        st.header("System by system", anchor=False)
        rows = [{name: study_pages.told(cell) for name, cell in row.items() if name != "page"} for row in systems]
        show.table(rows, name="systems", alt=f"{len(rows)} systems: what each needed and what is shown of it")
        st.header("Study by study", anchor=False)
    for one in studies:
        with st.container(border=True):
            st.markdown(f"**{one.name}**: {study_pages.as_shown(one.asks)}")
            st.markdown(study_pages.as_shown(study_pages.capital(one.found)))
            if one.page:
                show.link("studies", f"Read {one.name}", ":material/article:", study=one.name)
            elif one.elsewhere:
                st.caption(f"Written down in {one.elsewhere}")
    show.next_step(REPEAT)


def _study(study: Study, parts: list[Part]) -> None:
    show.question(study_pages.asked_of(study.asks), study_pages.without_markup(study.found))
    show.link("studies", "All studies", ":material/arrow_back:")
    for part in parts:
        if part.plot is None:
            st.markdown(part.text)
        else:
            st.image(str(part.plot), caption=part.text or None, width="stretch")
    show.next_step(Command(why="Run it again:", line=f"make study-{study.name}"))


if __name__ == "__main__":
    page()
