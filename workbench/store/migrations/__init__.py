"""Steps from one schema to the next, run by `workbench.store.database` when a store is opened."""
