"""The tree of errors. Knows nothing else.

WorkbenchError
├── UserError            the user can mend it: one line (where, what, got, next step), exit code 2
│   ├── ConfigError      a YAML file or an option
│   ├── TaskError        an unknown task, a faulty question file
│   ├── CheckpointError  what was named is no model, or its parts do not fit together
│   ├── EngineError      an engine that is not installed, or cannot do what was asked
│   └── StoreError       the project folder or its database
└── RunError             the run itself failed (NaN logits, a full disk, an endpoint that is down): exit code 4
"""


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


class StoreError(UserError):
    """The project folder or its database cannot be used."""


class RunError(WorkbenchError):
    """A run failed for a reason outside its inputs; what was computed before is kept."""
