"""Streamlit pages; the only place that imports streamlit."""
