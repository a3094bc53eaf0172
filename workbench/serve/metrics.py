"""Counters and histograms in Prometheus' format. Knows names and labels; no text and no key ever is a label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from workbench.serve.backend import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_JUDGING = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """What one server counts."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "workbench_requests",
            "Requests by path, status and tenant.",
            ["path", "status", "tenant"],
            registry=registry,
        )
        self.seconds = Histogram(
            "workbench_request_seconds", "Time of a request, streams to their end.", ["path"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.first = Histogram(
            "workbench_first_text_seconds", "Time to the first text that left.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter("workbench_tokens", "Tokens read and written.", ["kind"], registry=registry)
        self.decisions = Counter(
            "workbench_guard_decisions",
            "Decisions of the guard.",
            ["surface", "action", "category", "policy"],
            registry=registry,
        )
        self.judging = Histogram(
            "workbench_guard_seconds",
            "Time of one check of the guard.",
            ["surface"],
            buckets=_JUDGING,
            registry=registry,
        )
        self.unscorable = Counter(
            "workbench_guard_unscorable", "Judgements that could not be made.", ["judge"], registry=registry
        )
        self.reviews = Counter("workbench_review_items", "Texts sent to people.", ["source"], registry=registry)
        running = Gauge("workbench_answers_running", "Answers that are being written.", registry=registry)
        running.set_function(lambda: load().running)
        waiting = Gauge("workbench_answers_waiting", "Prompts that wait for room.", registry=registry)
        waiting.set_function(lambda: load().waiting)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
