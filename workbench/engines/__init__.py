"""One way to ask any model."""
