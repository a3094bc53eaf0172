"""The clock of the store: UTC, ISO 8601 with microseconds, so that text order is time order."""

from datetime import UTC, datetime


def now() -> str:
    """The time as it is stored, e.g. `2026-01-31T09:30:00.000000+00:00`."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
