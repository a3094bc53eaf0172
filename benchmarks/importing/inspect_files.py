"""The two file formats of Inspect logs, `.eval` and `.json`: header and samples as plain values. Knows no score.

An `.eval` file is a zip whose members newer versions compress with Zstandard, which Python's zipfile cannot read; the
members are then read directly and unpacked by pyarrow. The `inspect_ai` package is not needed.
"""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.importing.run import read_json
from workbench.errors import LogError

_ZSTD = 93
"""Number of Zstandard in the zip format (APPNOTE 6.3.8, section 4.4.5)."""
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
NEWEST = 2
"""Version of the log format that this was written for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectLog:
    """One log as plain values."""

    header: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...]
    """In the order of the file."""


def read_inspect_file(file: Path) -> InspectLog:
    """Header and samples of a log; raises LogError: damaged, unfinished, newer than known, or without samples."""
    log = _read_zip(file) if file.suffix == ".eval" else _read_whole(file)
    version = log.header.get("version")
    if not isinstance(version, int) or not isinstance(log.header.get("eval"), dict):
        raise LogError(f"{file}: no Inspect log (it names no version and no evaluation)")
    if version > NEWEST:
        raise LogError(
            f"{file}: written in version {version} of Inspect's log format, and {NEWEST} is the newest known here; "
            "convert it with an older inspect_ai, or update the workbench"
        )
    return log


def _read_whole(file: Path) -> InspectLog:
    data = read_json(file)
    if not isinstance(data, dict):
        raise LogError(f"{file}: no Inspect log (a JSON object is expected, got {type(data).__name__})")
    samples = data.pop("samples", None) or []
    return InspectLog(header=data, samples=tuple(samples))


def _read_zip(file: Path) -> InspectLog:
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
            members = {member.filename: member for member in archive.infolist()}
            if "header.json" not in members:
                started = any(name.startswith("_journal/") for name in members)
                reason = "the run was not finished; finish it with inspect eval-retry" if started else "no Inspect log"
                raise LogError(f"{file}: no header.json in it: {reason}")
            header = _member(file, archive, stream, members["header.json"])
            names = [name for name in members if name.startswith("samples/") and name.endswith(".json")]
            samples = tuple(_member(file, archive, stream, members[name]) for name in names)
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: a member that says it is encrypted
        raise LogError(f"{file}: cut off, damaged or no .eval file ({error}); copy it again") from None
    except OSError as error:
        raise LogError(f"{file}: cannot be read: {error.strerror or error}") from error
    if not isinstance(header, dict):
        raise LogError(f"{file}: header.json: a JSON object is expected, got {type(header).__name__}")
    return InspectLog(header=header, samples=samples)


def _member(file: Path, archive: zipfile.ZipFile, stream: BinaryIO, member: zipfile.ZipInfo) -> Any:
    try:
        data = _unpack(stream, member) if member.compress_type == _ZSTD else archive.read(member)
        return json.loads(data)
    except (ValueError, OSError, zlib.error, NotImplementedError, struct.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise LogError(f"{file}: {member.filename} in it is damaged ({reason}); copy the log again") from None


def _unpack(stream: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    import pyarrow as pa

    stream.seek(member.header_offset)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    stream.seek(name_length + extra_length, 1)
    packed = stream.read(member.compress_size)
    try:
        data = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    if zlib.crc32(data) != member.CRC:
        raise ValueError("its checksum is wrong")
    return data
