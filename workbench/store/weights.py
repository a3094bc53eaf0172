"""Are these weight files whole? Knows the safetensors and GGUF headers; reads no tensor.

Formats: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data) and
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import hashlib
import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError

_MAX_HEADER = 100_000_000
"""Bytes; the limit of safetensors' own reader."""


def check_safetensors(file: Path) -> None:
    """Compare the header with the file's size.

    Raises:
        CheckpointError: empty, truncated, too long, or no safetensors file at all.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{file}: {size} bytes are no safetensors file; fetch or save it again")
        length = struct.unpack("<Q", start)[0]
        if length > min(_MAX_HEADER, size):
            raise CheckpointError(
                f"{file}: no safetensors file, or a truncated one ({size} bytes); fetch or save it again"
            )
        text = stream.read(length)
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if not all(isinstance(one, int) for one in ends):
            raise ValueError("an offset is no number")
        end = max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise CheckpointError(f"{file}: its safetensors header cannot be read; fetch or save it again") from None
    expected = 8 + length + end
    if size != expected:
        what = "truncated" if size < expected else "too long"
        raise CheckpointError(f"{file}: {what}: {size} bytes, its header says {expected}; fetch or save it again")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    architecture: str
    tokenizer: str
    """SHA-256 hex over all `tokenizer.*` keys and values (vocabulary, merges, special tokens, chat template)."""


def read_gguf_header(file: Path) -> GgufHeader:
    """Read keys and tensor list, and compare them with the file's size.

    Raises:
        CheckpointError: no GGUF file, truncated, or without a tokenizer.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _GgufReader(data, file).header()
    except (struct.error, ValueError, IndexError, OverflowError):  # ValueError: an empty file cannot be mapped
        raise CheckpointError(f"{file}: no GGUF file, or a truncated one; fetch it again") from None


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class _GgufReader:
    def __init__(self, data: mmap.mmap, file: Path) -> None:
        self.data, self.file, self.at = data, file, 0

    def header(self) -> GgufHeader:
        magic, version, tensors, keys = self._take("4sIQQ")
        if magic != b"GGUF":
            raise CheckpointError(f"{self.file}: no GGUF file (it does not begin with GGUF)")
        if version not in (2, 3):
            raise CheckpointError(
                f"{self.file}: GGUF version {version} is not supported, only 2 and 3; convert it again"
            )
        scalars: dict[str, Any] = {}
        tokenizer = hashlib.sha256()
        has_tokens = False
        for _ in range(keys):
            start = self.at
            key = self._string().decode("utf-8", "replace")
            value = self._value(self._take("I")[0])
            if value is not None:
                scalars[key] = value
            if key.startswith("tokenizer."):
                tokenizer.update(self.data[start : self.at])
                has_tokens = has_tokens or key == "tokenizer.ggml.tokens"
        self._check_tensors(tensors, scalars)
        if not has_tokens:
            raise CheckpointError(
                f"{self.file}: this GGUF file has no tokenizer; use one that was made from a whole model"
            )
        return GgufHeader(architecture=str(scalars.get("general.architecture", "")), tokenizer=tokenizer.hexdigest())

    def _check_tensors(self, count: int, scalars: dict[str, Any]) -> None:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        end = 0
        for _ in range(count):
            name = self._string().decode("utf-8", "replace")
            dimensions = self._take(f"{self._take('I')[0]}Q")
            kind, offset = self._take("IQ")
            try:
                block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            except (KeyError, ValueError):
                raise CheckpointError(
                    f"{self.file}: tensor {name} has the unknown type {kind}; pip install -U gguf"
                ) from None
            end = max(end, offset + math.prod(dimensions) // block * block_bytes)
        alignment = int(scalars.get("general.alignment", 32))
        expected = -(-self.at // alignment) * alignment + end
        if len(self.data) < expected:
            raise CheckpointError(
                f"{self.file}: truncated: {len(self.data)} bytes, its header says {expected}; fetch it again"
            )

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def _string(self) -> bytes:
        length = self._take("Q")[0]
        self._need(length)
        self.at += length
        return self.data[self.at - length : self.at]

    def _value(self, kind: int) -> Any:
        """The value if it is a number or text; None for an array, which is only stepped over."""
        if kind == _STRING:
            return self._string().decode("utf-8", "replace")
        if kind != _ARRAY:
            return self._take(_layout(kind))[0]
        member, count = self._take("IQ")
        if member in _SCALARS:
            length = count * struct.calcsize(f"<{_SCALARS[member]}")
            self._need(length)
            self.at += length
        else:
            self._need(count)
            for _ in range(count):
                self._value(member)
        return None

    def _need(self, length: int) -> None:
        if self.at + length > len(self.data):
            raise ValueError("a length points past the end of the file")


def _layout(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"unknown type {kind}")
    return _SCALARS[kind]
