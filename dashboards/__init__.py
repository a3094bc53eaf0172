"""What people look at before they ship, in a browser: the pages of `workbench dashboard`, on Streamlit."""
