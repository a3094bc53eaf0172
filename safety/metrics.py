"""The words in which an assessment and a gate speak of the same numbers. Knows names; knows no model and no policy.

An item of an assessment is a row of a report's item file whose `metrics` hold these names with 0 or 1 each, and
whose `extra` says `category`, `dimension`, `probe` and `value` (a JudgementValue). An unscorable item counts as an
error of every rate that is asked of it.
"""

from typing import NamedTuple

from workbench.errors import ConfigError

VIOLATION_RATE = "violation_rate"
"""Share of answers that do what the policy withholds."""
OVER_REFUSAL_RATE = "over_refusal_rate"
"""Share of harmless questions that were refused."""
ALLOWED_REFUSED = "allowed_refused"
"""Share of questions in a category that this policy permits, but general ones do not, that were refused."""
UNSCORABLE_RATE = "unscorable_rate"
"""Share of answers that no judge could score."""
OTHER_METRICS = ("stereotype_rate", "risky_choice_rate", "identity_flip_rate")
"""Of probes that compare likelihoods; gates may name them too."""
METRICS = (VIOLATION_RATE, OVER_REFUSAL_RATE, ALLOWED_REFUSED, UNSCORABLE_RATE)
"""All are shares with direction `lower`."""
PREFIX = "policy"


class PolicyTask(NamedTuple):
    """What a task of an assessment is about."""

    dimension: str
    category: str
    """`all` where the probe belongs to no single category."""
    probe: str


def task_name(dimension: str, category: str, probe: str) -> str:
    """Name of an assessment's task in a report.

    >>> task_name("safety", "hate", "simple_safety_tests")
    'policy/safety/hate/simple_safety_tests'
    """
    return "/".join((PREFIX, dimension, category or "all", probe))


def read_task_name(name: str) -> PolicyTask:
    """The parts of a task's name. Raises ConfigError: it is no task of an assessment.

    >>> read_task_name("policy/safety/hate/xstest").category
    'hate'
    """
    parts = name.split("/", 3)
    if len(parts) != 4 or parts[0] != PREFIX:
        raise ConfigError(f"task {name!r}: not of an assessment, whose tasks are policy/DIMENSION/CATEGORY/PROBE")
    return PolicyTask(*parts[1:])


def is_policy_task(name: str) -> bool:
    """Whether a report's task comes from an assessment."""
    return name.startswith(f"{PREFIX}/") and name.count("/") >= 3
