"""The record of what exists: projects, checkpoints, reports, items, the ledger."""
