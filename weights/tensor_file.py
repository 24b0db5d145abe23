"""Safetensors files without torch: what a header says, which files are refused, and streaming conversion.

A file is read and written tensor by tensor, so memory stays at a few dozen megabytes whatever its size.
Format: 8 bytes of little-endian header length, the header as JSON, then the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weights.errors import RefusedWeights

# Bytes that :func:`check_start` needs to tell a safetensors file from another.
START_BYTES = 64
_MAX_HEADER_BYTES = 100_000_000
_CHUNK_BYTES = 1 << 24
_ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_FLOATS: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
# What a file that is not safetensors is likely to be.
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a pickle (a zip written by torch.save), which can run code when it is opened"),
    (b"\x80\x02", "a pickle, which can run code when it is opened"),
    (b"\x80\x03", "a pickle, which can run code when it is opened"),
    (b"\x80\x04", "a pickle, which can run code when it is opened"),
    (b"\x80\x05", "a pickle, which can run code when it is opened"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer: the large file itself was not downloaded"),
    (b"<", "a web page"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file, or some of its rows. ``start`` and ``stop`` are offsets into it.

    One that is ``transposed`` lies there with its two sides, ``shape``, exchanged.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    transposed: bool = False

    def part(self, index: int, count: int) -> Tensor:
        """The rows of part ``index`` of ``count`` equal ones."""
        assert self.shape[0] % count == 0
        assert not self.transposed
        size = (self.stop - self.start) // count
        start = self.start + index * size
        return replace(self, shape=(self.shape[0] // count, *self.shape[1:]), start=start, stop=start + size)

    def transpose(self) -> Tensor:
        """The transposed matrix."""
        rows, columns = self.shape
        return replace(self, shape=(columns, rows), transposed=not self.transposed)


def check_start(first: bytes, name: str) -> None:
    """Raise :class:`RefusedWeights` unless ``first``, the first 64 bytes, can begin a safetensors file."""
    header_bytes = int.from_bytes(first[:8], "little")
    if len(first) > 8 and first[8:9] == b"{" and header_bytes <= _MAX_HEADER_BYTES:
        return
    found = next((what for magic, what in _OTHER_FORMATS if first.startswith(magic)), "of an unknown format")
    raise RefusedWeights(f"{name} is refused: it is {found}. Weights have to be a .safetensors file.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises :class:`RefusedWeights` for a pickle (whatever the
    file's name says), a truncated file, or a broken header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(START_BYTES)
        check_start(first, path.name)
        header_bytes = int.from_bytes(first[:8], "little")
        if size < 8 + header_bytes:
            raise RefusedWeights(f"{path.name} is truncated: it ends within its header, at {size} bytes.")
        file.seek(8)
        header = file.read(header_bytes)
    try:
        described = json.loads(header)
        tensors = {
            name: _tensor(path, 8 + header_bytes, facts)
            for name, facts in described.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedWeights(f"{path.name} is refused: its safetensors header cannot be read.") from error
    expected = max((tensor.stop for tensor in tensors.values()), default=8 + header_bytes)
    if size < expected:
        raise RefusedWeights(f"{path.name} is truncated: it has {size} of {expected} bytes.")
    if size > expected:
        raise RefusedWeights(f"{path.name} is refused: {size - expected} bytes follow its last tensor.")
    return tensors


def _tensor(path: Path, data_start: int, facts: Mapping[str, object]) -> Tensor:
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise TypeError("not a tensor's facts")
    start, stop = (int(offset) for offset in offsets)
    sides = tuple(int(side) for side in shape)
    if start < 0 or any(side < 0 for side in sides) or stop - start != math.prod(sides) * _ITEM_BYTES[dtype]:
        raise ValueError("a tensor's bytes do not match its shape")
    return Tensor(path, dtype, sides, data_start + start, data_start + stop)


def write_float16(target: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Stream ``tensors`` into a new safetensors file, floats as float16, each with the shape of ``shapes``.

    Raises :class:`RefusedWeights` for a dtype without a float16 equivalent or a value beyond its range.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    names, offset = sorted(tensors), 0
    for name in names:
        num_bytes = math.prod(shapes[name]) * 2
        header[name] = {
            "dtype": "F16",
            "shape": list(shapes[name]),
            "data_offsets": [offset, offset + num_bytes],
        }
        offset += num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for values in _float16(name, tensors[name]):
                file.write(values)
        file.flush()
        os.fsync(file.fileno())


def _float16(name: str, tensor: Tensor) -> Iterator[bytes]:
    if tensor.dtype not in (*_FLOATS, "BF16"):
        raise RefusedWeights(f"{tensor.path.name} is refused: {name} is {tensor.dtype}, not a float.")
    if tensor.transposed:
        rows, columns = tensor.shape
        whole = np.concatenate(list(_halves(name, tensor))).reshape(columns, rows)
        yield np.ascontiguousarray(whole.T).tobytes()
    else:
        for values in _halves(name, tensor):
            yield values.tobytes()


def _halves(name: str, tensor: Tensor) -> Iterator[npt.NDArray[np.float16]]:
    left = tensor.stop - tensor.start
    with tensor.path.open("rb") as source:
        source.seek(tensor.start)
        while left:
            part = source.read(min(left, _CHUNK_BYTES))
            if not part:
                raise RefusedWeights(f"{tensor.path.name} is truncated within {name}.")
            left -= len(part)
            yield _half(name, tensor, part)


def _half(name: str, tensor: Tensor, part: bytes) -> npt.NDArray[np.float16]:
    if tensor.dtype == "BF16":
        # The upper half of a float32.
        values = (np.frombuffer(part, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(part, _FLOATS[tensor.dtype])
    with np.errstate(over="ignore"):
        half: npt.NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(half).all() and np.isfinite(values).all():
        raise RefusedWeights(f"{tensor.path.name} is refused: {name} has values beyond float16.")
    return half


def sha256_of(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
