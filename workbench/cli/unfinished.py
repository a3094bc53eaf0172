"""A note in the project of the evaluation that is under way, so that `--resume` can go on with it. Knows one file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.pipeline import EvaluationRequest

FILE = "unfinished-eval.json"


def write_unfinished(
    root: Path, checkpoints: Sequence[str], baseline: str | None, request: "EvaluationRequest"
) -> None:
    """Note what is about to be evaluated."""
    from workbench.store import to_plain
    from workbench.store.files import write_file

    note = {
        "checkpoints": [_absolute(one) for one in checkpoints],
        "baseline": None if baseline is None else _absolute(baseline),
        "request": asdict(request)
        | {"include_path": [_absolute(str(path)) for path in request.include_path]}
        | {"environments": [_absolute(str(path)) for path in request.environments]},
    }
    write_file(root / FILE, json.dumps(to_plain(note), indent=2) + "\n")


def read_unfinished(root: Path) -> tuple[list[str], str | None, "EvaluationRequest"]:
    """Checkpoints, baseline and request of the evaluation that did not come to its end.

    Raises ConfigError: there is none.
    """
    from workbench.pipeline import EvaluationRequest

    try:
        note: dict[str, Any] = json.loads((root / FILE).read_text(encoding="utf-8"))
        return note["checkpoints"], note["baseline"], EvaluationRequest(**note["request"])
    except FileNotFoundError:
        raise ConfigError(f"--resume: no evaluation in {root} was interrupted; name a checkpoint and a suite") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{root / FILE}: cannot be read ({error}); delete it and name checkpoint and suite") from None


def clear_unfinished(root: Path) -> None:
    """It came to its end."""
    (root / FILE).unlink(missing_ok=True)


def _absolute(reference: str) -> str:
    """Paths hold from any folder; names and hub ids stay what they are."""
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.exists() else reference
