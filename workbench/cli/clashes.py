"""Find foreign packages that took the place of ours. Knows names and folders; imports none of them.

Our top-level names are plain words, and other distributions bear them: `pip install safety` (a vulnerability scanner)
overwrites our `safety` folder in the same environment, or hides it when we are installed as editable.
"""

from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import workbench
from workbench.errors import ConfigError

PACKAGES = ("workbench", "benchmarks", "safety", "training", "dashboards")


@dataclass(frozen=True, kw_only=True)
class Clash:
    """One package of ours that Python would not import, or whose files were overwritten."""

    package: str
    found: str
    """Where the rival lives."""

    def __str__(self) -> str:
        return (
            f'package "{self.package}": {self.found} took the place of ours; use an environment of its own for the '
            f"workbench, or: pip uninstall -y {self.package} && pip install --force-reinstall --no-deps model-workbench"
        )


def find_clashes(root: Path | None = None) -> list[Clash]:
    """Foreign packages with one of our names. `root` is the folder that holds ours (default: beside `workbench`)."""
    root = root or Path(workbench.__file__).resolve().parent.parent
    clashes = []
    for package in PACKAGES:
        rival = next(root.glob(f"{package}-*.dist-info"), None)  # installed over ours, in the same folder
        origin = _folder_of(package)
        if rival is not None:
            clashes.append(Clash(package=package, found=str(rival)))
        elif origin is not None and origin != root / package:
            clashes.append(Clash(package=package, found=str(origin)))
    return clashes


def check_clashes() -> None:
    """Raise ConfigError for the first clash: running with a stranger's code would fail later and darker."""
    for clash in find_clashes():
        raise ConfigError(str(clash))


def _folder_of(package: str) -> Path | None:
    # PathFinder and not find_spec: what is already imported must not hide what a new process would find.
    spec = PathFinder.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return Path(spec.origin).resolve() if spec and spec.origin else None
    return Path(next(iter(spec.submodule_search_locations))).resolve()
