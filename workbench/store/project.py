"""The project folder: workbench.yaml, the store, the reports. Knows folders; knows no model and no task."""

import json
import textwrap
from functools import cached_property
from pathlib import Path

from workbench.config import PROJECT_FILE, ProjectConfig, load_project_config, resolve_env
from workbench.errors import StoreError
from workbench.records import Checkpoint
from workbench.store.catalog import Store
from workbench.store.checkpoints import local_path, model_files, storage_name
from workbench.store.faults import explained_files
from workbench.store.files import write_file
from workbench.store.storage import CHECKPOINTS, Storage

FOLDERS = ("reports", "tasks", "suites")


class Project:
    """An open project. The store is opened, made or upgraded at its first use."""

    def __init__(self, root: Path, config: ProjectConfig) -> None:
        self.root = root
        self.config = config

    @classmethod
    def init(cls, folder: str | Path, *, store_url: str | None = None) -> "Project":
        """Make a project in `folder`: a commented workbench.yaml, empty folders, the store. Again: changes nothing.

        Raises:
            StoreError: a workbench.yaml that says something else than `store_url`, or no right to write.
        """
        root = Path(folder).expanduser().resolve()
        file = root / PROJECT_FILE
        if file.exists():
            config = load_project_config(root)
            _refuse_other_store(file, config, store_url)
        else:
            config = ProjectConfig(store=store_url) if store_url else ProjectConfig()
        with explained_files(root):
            root.mkdir(parents=True, exist_ok=True)
            project = cls(root, config)
            _ = project.store  # a wrong URL shows before it is written down
            if not file.exists():
                write_file(file, project_yaml(store_url))
            for name in FOLDERS:
                (root / name).mkdir(exist_ok=True)
        return project

    @classmethod
    def find(cls, start: str | Path | None = None) -> "Project":
        """The project that `start` (default: the working folder) lies in.

        Raises:
            StoreError: there is no workbench.yaml here or in any folder above.
            ConfigError: workbench.yaml is faulty.
        """
        here = Path(start or Path.cwd()).expanduser().resolve()
        for folder in (here, *here.parents):
            if (folder / PROJECT_FILE).is_file():
                return cls(folder, load_project_config(folder))
        raise StoreError(f"{here}: no {PROJECT_FILE} here or in any folder above; run workbench init")

    @classmethod
    def open_or_init(cls, folder: str | Path | None = None) -> "Project":
        """The project that `folder` (default: the working folder) lies in, or a new one in that folder."""
        try:
            return cls.find(folder)
        except StoreError:
            return cls.init(folder or Path.cwd())

    @cached_property
    def store(self) -> Store:
        """The record of this project."""
        url = resolve_env(self.config.store, where=f"{self.root / PROJECT_FILE}: store")
        return Store.open(url, folder=self.root, storage=self.storage, pool_size=self.config.store_connections)

    @cached_property
    def storage(self) -> Storage | None:
        """Where reports and trained checkpoints lie for other machines too; None: on this disk alone."""
        if self.config.storage is None:
            return None
        return Storage(resolve_env(self.config.storage, where=f"{self.root / PROJECT_FILE}: storage"))

    def share(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint that was made here where other machines find it, if the project has such a place."""
        if self.storage is not None:
            folder = local_path(checkpoint)
            self.storage.at(f"{CHECKPOINTS}/{storage_name(checkpoint)}").put(folder, model_files(folder))

    def close(self) -> None:
        """Close the store's connections, if it was opened."""
        if "store" in self.__dict__:
            self.store.close()

    def __enter__(self) -> "Project":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reports_folder(self) -> Path:
        """Where reports are written."""
        return self.root / "reports"


def project_yaml(store_url: str | None = None) -> str:
    """A workbench.yaml with every key of ProjectConfig, its meaning and its default; only the store is set."""
    lines = ["# A project of the workbench. Every key is optional; the values below are the defaults.", ""]
    for name, field in ProjectConfig.model_fields.items():
        words = " ".join((field.description or "").split())
        lines += _wrap(words)
        if name == "store":
            lines.append(f"store: {_as_yaml(store_url or field.default)}")
        else:
            lines.append(f"# {name}: {_as_yaml(field.default)}")
        lines.append("")
    return "\n".join(lines)


def _as_yaml(value: object) -> str:
    return "null" if value is None else "[]" if value == () else json.dumps(value) if value != "" else '""'


def _wrap(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 100)]


def _refuse_other_store(file: Path, config: ProjectConfig, store_url: str | None) -> None:
    if store_url is not None and store_url != config.store:
        raise StoreError(
            f"{file}: exists already with another store; change its line `store:` by hand, or choose another folder"
        )
