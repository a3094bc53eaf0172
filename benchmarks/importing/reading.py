"""Files and folders -> the runs in them, whatever tool wrote them. Knows which importer reads which file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.importing.inspect_logs import is_inspect_log, read_inspect_log
from benchmarks.importing.lm_eval_logs import is_lm_eval_results, read_lm_eval_log, results_beside
from benchmarks.importing.run import ImportedRun, read_json
from workbench.errors import LogError


def read_runs(paths: Sequence[str | Path], *, cluster: str | None = None) -> list[ImportedRun]:
    """All runs in files and folders, in the order of the paths, then of their names (which begin with dates).

    `cluster` names a column of the documents (lm-eval) or of the samples' metadata (Inspect): items with the same value
    are one group. Raises LogError: no log, a damaged one, or one without the answers to each question.
    """
    files = list(dict.fromkeys(file for path in paths for file in _find(Path(path).expanduser())))
    return [_read(file, cluster) for file in files]


def _find(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = [file for file in sorted(path.glob("**/*")) if file.suffix in (".eval", ".json") and _is_log(file)]
        if not found:
            raise LogError(
                f"{path}: no log of lm-eval (results_*.json) or Inspect (*.eval, *.json) in it; name the folder that "
                "was given to --output_path or --log-dir"
            )
        yield from found
    elif not path.is_file():
        raise LogError(f"{path}: no such file or folder; name an lm-eval output folder or an Inspect log")
    elif path.suffix == ".jsonl":
        yield results_beside(path)
    elif path.suffix in (".eval", ".json"):
        yield path
    else:
        raise LogError(f"{path}: a log ends in .json, .jsonl (lm-eval) or .eval (Inspect), got {path.suffix!r}")


def _is_log(file: Path) -> bool:
    """By its name, or by how its text begins: folders hold other JSON too."""
    if file.suffix == ".eval" or file.name.startswith("results_"):
        return file.is_file()
    with file.open("rb") as stream:
        head = stream.read(400).decode(errors="replace")
    is_inspect = all(f'"{key}"' in head for key in ("version", "status", "eval"))
    return is_inspect or re.match(r'\s*{\s*"results"\s*:', head) is not None


def _read(file: Path, cluster: str | None) -> ImportedRun:
    try:
        if file.suffix == ".eval":
            return read_inspect_log(file, cluster=cluster)
        data = read_json(file)
        if is_lm_eval_results(data):
            return read_lm_eval_log(file, data, cluster=cluster)
        if is_inspect_log(data):
            return read_inspect_log(file, cluster=cluster)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        # Valid JSON of another shape: some other version, or a file mended by hand.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise LogError(f"{file}: not built as the versions known here build it ({reason}); was it edited?") from error
    raise LogError(
        f"{file}: no log of lm-eval (a results_*.json) or Inspect (.eval or .json); name one, or the folder of one"
    )
