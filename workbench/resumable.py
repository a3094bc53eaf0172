"""A JSONL file that a killed run goes on with: what stands in it is done. Knows lines and a header, not what they say.

The header (`FILE.run.json`) names what the lines came from. A run that would write other lines is refused; a line that
was torn by a crash is cut off. Lines are written in order, so the number of lines says how far a run came.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, RunError


class ResumableLines:
    """Lines of one run, appended and made durable in groups.

    Args:
        header: what the lines depend on, as plain data.

    Raises:
        ConfigError: the file holds lines of another run, or no header tells of what run.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path, self.header = path, json.loads(json.dumps(header))
        self._header_path = _header_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if restart:
                self._header_path.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            self._check()
            _cut_torn_line(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is done, in order. Raises ConfigError: a line that is no JSON."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    cure = "take the file away, or give --restart"
                    raise ConfigError(f"{self.path}:{number}: no JSON: {error}; {cure}") from None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write some lines; when this returns they outlast a crash. Raises RunError: the disk is full, or gone."""
        if not rows:
            return
        data = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        try:
            with self.path.open("ab") as file:
                file.write(data.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            told = f"{self.path}: cannot be written: {error.strerror or error}; what was written is kept"
            raise RunError(told) from None

    def _check(self) -> None:
        is_empty = not self.path.exists() or not self.path.stat().st_size
        # without a line there is nothing to go on with: whoever took the file away begins anew
        found = None if is_empty else read_header(self.path)
        if found is None:
            if not is_empty:
                raise ConfigError(
                    f"{self.path}: exists, and nothing tells what its lines came from; name another --output, or write "
                    "it anew with --restart"
                )
            partial = self._header_path.with_name(self._header_path.name + ".partial")
            partial.write_text(json.dumps(self.header, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            partial.replace(self._header_path)
            return
        other = sorted(k for k in {*found, *self.header} if found.get(k) != self.header.get(k))
        if other:
            told = "; ".join(f"{k} was {_short(found.get(k))} and is {_short(self.header.get(k))}" for k in other[:4])
            raise ConfigError(f"{self.path}: holds lines of another run: {told}; name another --output, or --restart")


def _header_path(output: Path) -> Path:
    return output.with_name(output.name + ".run.json")


def read_header(output: Path) -> dict[str, Any] | None:
    """What the lines of a file came from; None: nothing tells. Raises ConfigError: what should tell is no header."""
    path = _header_path(output)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: no header of a run; take it away, or give --restart")
    return found


def _cut_torn_line(path: Path) -> None:
    """A line is whole when it ends; what a crash tore is written again."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
