"""The tree of errors. Knows nothing else.

WorkbenchError
├── UserError            the user can mend it: one line (where, what, got, next step), exit code 2
│   ├── ConfigError      a YAML file or an option
│   ├── TaskError        an unknown task, a faulty question file
│   ├── CheckpointError  what was named is no model, or its parts do not fit together
│   ├── EngineError      an engine that is not installed, or cannot do what was asked
│   ├── LogError         a log of another evaluation tool that cannot be read
│   ├── ReviewError      what the review queue refuses: no right, a lost lease, a key used twice
│   └── StoreError       the project folder or its database
└── RunError             the run itself failed (NaN logits, a full disk, an endpoint that is down): exit code 4
"""

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one line, fit for a terminal."""

    exit_code = 4


class UserError(WorkbenchError):
    """What a user did wrong: the message says where, what, what was got and the next step."""

    exit_code = 2


class ConfigError(UserError):
    """A YAML file or a command-line option is not valid."""


class TaskError(UserError):
    """A task, suite or question file is unknown or faulty."""


class CheckpointError(UserError):
    """What was named is no checkpoint, or its parts do not fit together."""


class EngineError(UserError):
    """An engine is not installed, or cannot do what was asked of it."""


class LogError(UserError):
    """A log of another evaluation tool is damaged, incomplete, or none at all."""


class StoreError(UserError):
    """The project folder or its database cannot be used."""


class ReviewError(UserError):
    """The review queue refuses an act; `code` is the reason as a word for programs."""

    def __init__(self, message: str, code: str = "invalid") -> None:
        super().__init__(message)
        self.code = code


class RunError(WorkbenchError):
    """A run failed for a reason outside its inputs; what was computed before is kept."""


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """The end of an error line: near names if there are any, else what is known.

    >>> did_you_mean("wieght", ["weight", "name"])
    'did you mean "weight"?'
    >>> did_you_mean("x", ["weight", "name"])
    'known: name, weight'
    """
    names = sorted(set(known))
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(got.casefold(), folded, n=3, cutoff=0.6)
    if near:
        best = _likeness(got.casefold(), near[0])
        near = [name for name in near if _likeness(got.casefold(), name) > best - 0.1]
        return "did you mean " + " or ".join(f'"{folded[name]}"' for name in near) + "?"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"known: {shown}" if names else "none is known"


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
