"""The tree of the repository, as the laws walk it."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workbench", "benchmarks", "safety", "training", "dashboards")


def source_files() -> list[Path]:
    """Python files of the five packages."""
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def repository_files() -> list[Path]:
    """Files that belong to the repository: known to git, or new and not ignored; without git, all but hidden ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        hidden = re.compile(r"(^|/)(\.|__pycache__)")
        names = [file for file in ROOT.rglob("*") if not hidden.search(str(file.relative_to(ROOT)))]
    else:
        names = [ROOT / name for name in done.stdout.split("\0") if name]
    return sorted(file for file in names if file.is_file())
