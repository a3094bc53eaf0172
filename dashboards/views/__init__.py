"""A module a page. Streamlit runs each as a script; `dashboards/pages.py` lists them."""
