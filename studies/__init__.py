"""Measurements behind the documents; long, so not part of `make test`. Each writes its own table."""
