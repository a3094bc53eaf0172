"""Named plug-ins: rewards, judges, engines, rankers. Knows names and how to import, not what is registered.

    rewards: Registry[Reward] = Registry("reward", group="workbench.rewards")

    @rewards.register("exact")
    def exact(answer: str, target: str) -> float: ...

A plug-in comes from the code itself, from an installed package's entry point, or from a Python file of
`--include-path`. The first two are imported only when they are asked for.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar, cast

from workbench.errors import ConfigError, UserError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Name -> plug-in of one kind. `kind` is the singular noun of error messages."""

    def __init__(self, kind: str, *, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._loaded: dict[str, T] = {}
        self._lazy: dict[str, str] = {}
        self._entry_points: dict[str, EntryPoint] | None = None

    def register(self, name: str, *, replace: bool = False) -> Callable[[T], T]:
        """Decorator that files what it decorates under `name`.

        Raises:
            UserError: the name is taken by something else and `replace` is not set.
        """

        def decorate(plugin: T) -> T:
            self._claim(name, replace=replace, same=plugin)
            self._lazy.pop(name, None)
            self._loaded[name] = plugin
            return plugin

        return decorate

    def register_lazy(self, name: str, target: str) -> None:
        """File `"module:attribute"`, imported on first use: for plug-ins that bring heavy libraries along."""
        self._claim(name, replace=False, same=None)
        self._lazy[name] = target

    def get(self, name: str) -> T:
        """The plug-in of this name.

        Raises:
            UserError: unknown (with near names), or its module cannot be imported.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._lazy:
            plugin = self._import(name, self._lazy[name])
        elif name in self._installed():
            plugin = self._load_entry_point(self._installed()[name])
        else:
            raise UserError(f"{self.kind} {name!r}: unknown; {did_you_mean(name, self.names())}")
        self._loaded[name] = plugin
        return plugin

    def names(self) -> list[str]:
        """All known names, sorted; imports nothing."""
        return sorted({*self._loaded, *self._lazy, *self._installed()})

    def __contains__(self, name: str) -> bool:
        return name in self._loaded or name in self._lazy or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _claim(self, name: str, *, replace: bool, same: T | None) -> None:
        if not name or name != name.strip():
            raise UserError(f"{self.kind} {name!r}: a name has at least one character and no blanks around it")
        taken = name in self._lazy or (name in self._loaded and self._loaded[name] is not same)
        if taken and not replace:
            raise UserError(f"{self.kind} {name!r}: registered already; choose another name or pass replace=True")

    def _import(self, name: str, target: str) -> T:
        module, _, attribute = target.partition(":")
        try:
            return cast("T", getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.kind} {name!r}: {target} cannot be imported: {error}") from error

    def _installed(self) -> dict[str, EntryPoint]:
        if self._entry_points is None:
            found = entry_points(group=self.group) if self.group else ()
            self._entry_points = {entry.name: entry for entry in found}
        return self._entry_points

    def _load_entry_point(self, entry: EntryPoint) -> T:
        try:
            return cast("T", entry.load())
        except Exception as error:
            package = entry.dist.name if entry.dist else "?"
            raise UserError(
                f"{self.kind} {entry.name!r} of package {package}: {entry.value} cannot be imported: "
                f"{type(error).__name__}: {error}; update or uninstall {package}"
            ) from error


def load_include_path(paths: Iterable[str | Path]) -> list[Path]:
    """Run the Python files of `--include-path` once, so that their decorators register; return those files.

    A path is a `.py` file or a folder, whose own `.py` files are run in name order (a folder with none is fine: it
    may hold task files only).

    Raises:
        ConfigError: a path that does not exist, or a file that fails, with the file and line of the fault.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given).expanduser().resolve()
        if path.is_dir():
            files += sorted(p for p in path.glob("*.py") if p.name != "__init__.py")
        elif path.suffix == ".py" and path.is_file():
            files.append(path)
        else:
            known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ConfigError(f"include path {given}: no such folder or .py file; {did_you_mean(path.name, known)}")
    for file in files:
        _run_file(file)
    return files


def _run_file(file: Path) -> None:
    # The name holds the path's digest: two folders may both bring a `rewards.py`.
    name = f"workbench_include_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}_{file.stem}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"include path {file}: Python cannot load it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{file}:{_line_in(file, error)}: {type(error).__name__}: {error}") from error


def _line_in(file: Path, error: BaseException) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
