"""Strict YAML to a frozen pydantic model. Knows files, key paths and environment variables; knows no command.

Every fault of a file is told at once, one line each: where, what, what was got, the next step.

    suites/shop.yaml: tasks[0].wieght: unknown key; did you mean "weight"?

Nothing else in the workbench reads environment variables.
"""

import copy
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workbench.config_faults import fault_lines
from workbench.errors import ConfigError, did_you_mean
from workbench.strict_yaml import Document, Limits, YamlFault, parse_document, parse_yaml

PROJECT_FILE = "workbench.yaml"


class StrictModel(BaseModel):
    """Base of everything read from YAML: no unknown keys, no silent conversions, frozen. Docstrings describe fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def load_yaml(path: str | Path, model: type[M]) -> M:
    """Read one YAML file into `model`.

    Raises:
        ConfigError: one line per fault, each beginning with the file's path.
    """
    file = Path(path)
    return validate(read_yaml(file), model, where=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file as plain values; an empty file is an empty mapping.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, or not a mapping.
    """
    return _as_mapping(path, _parsed(path, parse_yaml))


def read_document(path: str | Path, limits: Limits | None = None) -> Document:
    """The mapping in a YAML file with the line of each key, read within limits; an empty file is an empty mapping.

    Raises:
        ConfigError: as `read_yaml`, and a file beyond the limits.
    """
    document = _parsed(path, lambda text: parse_document(text, limits))
    return replace(document, data=_as_mapping(path, document.data))


def _parsed(path: str | Path, parse: Callable[[str], T]) -> T:
    file = Path(path)
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file; {did_you_mean(file.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except YamlFault as fault:
        raise ConfigError(f"{path}: {fault}") from None


def _as_mapping(path: str | Path, data: Any) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping (key: value) is expected, got {type(data).__name__}")
    return data


def validate(data: dict[str, Any], model: type[M], *, where: str) -> M:
    """Plain values (of YAML or JSON) to a model; `where` begins each line of the ConfigError."""
    try:
        # By way of JSON: pydantic's strict mode then takes a list for a tuple and text for a path, but no "1" for a 1.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in fault_lines(error, model, data)]
        raise ConfigError("\n".join(lines)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: an anchor that holds itself cannot be used ({error})") from None


_STEP = re.compile(r"\.?([^.\[\]=]+)|\[(\d+)\]")


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b[0].c=value` applied in order; values are read as YAML, missing mappings are made.

    Raises:
        ConfigError: one line per faulty override.

    >>> apply_overrides({"mix": [{"weight": 1}]}, ["mix[0].weight=0.5", "train.seed=7"])
    {'mix': [{'weight': 0.5}], 'train': {'seed': 7}}
    """
    result = copy.deepcopy(data)
    faults: list[str] = []
    for override in overrides:
        try:
            _apply(result, override)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return result


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    steps = [m[1] if m[1] is not None else int(m[2]) for m in _STEP.finditer(key)]
    whole = "".join(m[0] for m in _STEP.finditer(key))
    if not equals or not steps or whole != key or key.startswith("."):
        raise ConfigError(f"override {override!r}: key=value is expected, such as train.seed=7 or mix[0].weight=0.5")
    try:
        value = parse_yaml(text)
    except YamlFault as fault:
        raise ConfigError(f"override {override!r}: {fault}") from None
    here: Any = data
    for position, step in enumerate(steps):
        is_last = position == len(steps) - 1
        if isinstance(here, list):
            here = _step_into_list(here, step, value if is_last else _NOTHING, override)
        elif isinstance(here, dict):
            name = str(step)
            if is_last:
                here[name] = value
            elif here.get(name) is None:
                here[name] = {}
            here = here[name]
        else:
            raise ConfigError(f"override {override!r}: {step!r} stands below a plain value")


_NOTHING = object()


def _step_into_list(items: list[Any], step: str | int, value: Any, override: str) -> Any:
    index = int(step) if str(step).isdecimal() else None
    if index is None or index >= len(items):
        raise ConfigError(f"override {override!r}: the list has indices 0 to {len(items) - 1}, got {step!r}")
    if value is not _NOTHING:
        items[index] = value
    return items[index]


def resolve_env(value: str, *, where: str) -> str:
    """`env:NAME` is the environment variable NAME, so that no secret stands in a file; anything else is itself.

    Raises:
        ConfigError: the variable is not set or empty.
    """
    if not value.startswith("env:"):
        return value
    name = value.removeprefix("env:")
    found = os.environ.get(name, "")
    if not found:
        raise ConfigError(f"{where}: environment variable {name} is not set; set it, or write the value itself")
    return found


class ProjectConfig(StrictModel):
    """What `workbench.yaml` says. All keys are optional."""

    store: str = "sqlite:///workbench.sqlite"
    """The store: sqlite:///FILE (relative to this folder), postgresql://USER@HOST/DATABASE, or env:NAME to read the
    URL from an environment variable, so that no password stands here."""

    store_connections: int = Field(default=5, ge=1, le=1000)
    """PostgreSQL: connections that each process keeps open; it takes as many again for moments when all are in use."""

    storage: str | None = None
    """Object storage (s3://BUCKET/FOLDER, or env:NAME) for reports and trained checkpoints, so that all machines of a
    project read them; null keeps them in this folder. Credentials come from the environment, never from here."""

    data: Path | None = None
    """Folder of data sets; the environment variable WORKBENCH_DATA goes first."""

    baseline: str | None = None
    """Checkpoint that others are compared with unless --baseline says otherwise."""

    engine: str = "transformers"
    """Engine that asks the models: transformers, vllm or openai."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights while they compute; auto takes the checkpoint's own."""

    include_path: tuple[Path, ...] = ()
    """Folders of task files, and Python files whose plug-ins are loaded; relative to this folder."""

    override_signers: Path | None = None
    """File of those who may override a gate's rule (ALLOWED SIGNERS in ssh-keygen(1)), relative to this folder; without
    it any key may, and its fingerprint is recorded."""

    allowed_endpoints: tuple[str, ...] = ()
    """Hosts (host or host:port) that prompts may be sent to; none unless named here, this machine always."""

    dashboard_roles: dict[str, tuple[str, ...]] = {}
    """Who may do what in the dashboard: e-mail (or name in local mode) -> viewer, reviewer, senior, policy_editor,
    policy_approver, ml, admin, auditor. Who is not named is a viewer; without a list, local mode may do everything."""

    @field_validator("allowed_endpoints")
    @classmethod
    def _hosts_only(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "/" in host or "@" in host or not host.strip():
                raise ValueError(f'got "{host}", expected a host such as api.example.org or localhost:8000')
        return hosts


def load_project_config(folder: Path) -> ProjectConfig:
    """`workbench.yaml` of a project folder; all defaults where there is none."""
    file = folder / PROJECT_FILE
    return load_yaml(file, ProjectConfig) if file.exists() else ProjectConfig()


def data_folder(config: ProjectConfig | None = None, *, root: Path | None = None) -> Path | None:
    """Where data sets are: WORKBENCH_DATA, else `data` of the project, else `../shared/data` beside the repository.

    `root` is the project folder, which a relative `data` starts from. None: there is no such folder.

    Raises:
        ConfigError: WORKBENCH_DATA or `data` names a folder that does not exist.
    """
    named = os.environ.get("WORKBENCH_DATA", "")
    if named:
        return _existing(Path(named), "environment variable WORKBENCH_DATA")
    if config is not None and config.data is not None:
        return _existing((root or Path()) / config.data.expanduser(), f"{PROJECT_FILE}: data")
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return beside if beside.is_dir() else None


def _existing(folder: Path, where: str) -> Path:
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"{where}: {folder} is no folder; name an existing one or leave it out")
    return folder


def cache_folder() -> Path:
    """The user's own cache folder of the workbench (WORKBENCH_CACHE, else XDG_CACHE_HOME, else ~/.cache)."""
    own = os.environ.get("WORKBENCH_CACHE", "")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workbench"
    return Path(own).expanduser() if own else base
