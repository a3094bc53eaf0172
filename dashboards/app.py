"""The dashboard's entry, run by Streamlit: who is there, which pages they may open, the one that is open."""

import streamlit as st

from dashboards.access import sign_in
from dashboards.data import project
from dashboards.pages import FOLDER, existing_pages
from workbench.errors import WorkbenchError


def main() -> None:
    """Show one page."""
    st.set_page_config(page_title="Workbench", page_icon=str(FOLDER.parent / "icon.png"), layout="wide")
    try:
        root = project().root
        found = sign_in()
        if found is None:
            return
        with st.sidebar:
            st.caption("Project")
            st.text(root.name)
        sections: dict[str, list[st.Page]] = {}
        for number, row in enumerate(page for page in existing_pages() if found.may(page.roles)):
            shown = st.Page(row.path, title=row.title, icon=row.icon, url_path=row.name, default=number == 0)
            sections.setdefault(row.section, []).append(shown)
        st.navigation(sections).run()
    except WorkbenchError as error:
        # What a command would print in one line; anything else is a fault of ours and goes to the log.
        st.error("This cannot be shown. What was computed is kept.", icon=":material/error:")
        st.text(str(error))


main()
