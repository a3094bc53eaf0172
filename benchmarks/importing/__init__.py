"""Logs of other evaluation tools, read into the workbench's own records. Knows files; knows no model and no store."""
