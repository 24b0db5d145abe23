"""Safetensors in memory, read with suspicion: sizes, offsets, dtypes and values are checked before use.

Knows nothing of adapters. See :mod:`weights.tensor_file` for files that are too large for that.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

from core.errors import InvalidRequest
from weights.errors import RefusedWeights
from weights.tensor_file import START_BYTES, check_start

MAX_FILE_BYTES = 450_000_000
# Some trainers write every caption of their data into the header.
MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 6_000
MAX_NAME_CHARS = 500
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert sys.byteorder == "little", "tensors are read as they lie in the file"


def read_container(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; the tensors own their memory.

    Raises :class:`InvalidRequest` (field "file") for anything else: a pickle, a file that is too large, cut
    short or at odds with its header, a dtype that adapters do not use, and values that are not finite.
    """
    if len(data) > MAX_FILE_BYTES:
        raise refusal(f"The file has over {MAX_FILE_BYTES} bytes.", limit=MAX_FILE_BYTES)
    try:
        check_start(data[:START_BYTES], "The file")
    except RefusedWeights as error:
        raise refusal(error.message) from error
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise refusal(f"The file's header has over {MAX_HEADER_BYTES} bytes.", limit=MAX_HEADER_BYTES)
    if len(data) < 8 + header_bytes:
        raise refusal("The file is truncated: it ends within its header.")
    described = _header(data[8 : 8 + header_bytes])
    metadata = described.pop("__metadata__", {})
    if len(described) > MAX_TENSORS:
        raise refusal(f"The file has over {MAX_TENSORS} tensors.", limit=MAX_TENSORS)
    body = memoryview(data)[8 + header_bytes :]
    _check_layout(described, len(body))
    tensors = {name: _tensor(name, facts, body) for name, facts in described.items()}
    if not isinstance(metadata, dict):
        raise refusal("The file's metadata cannot be read.")
    return tensors, {key: value for key, value in metadata.items() if isinstance(value, str)}


def write_container(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. The same tensors and metadata make the same bytes, whatever their order."""
    # Wide items first keeps every tensor aligned to its own size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **dict(sorted(metadata.items()))}}
    offset = 0
    for name in names:
        stop = offset + tensors[name].nbytes
        header[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *(_bytes(tensors[name]) for name in names)))


def refusal(message: str, *, limit: Any = None) -> InvalidRequest:
    """The error for a file that is not taken."""
    return InvalidRequest(message, field="file", limit=limit)


def shown(name: str) -> str:
    """A name out of a file, short and printable enough for a message."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name[:120])
    return printable if len(name) <= 120 else f"{printable[:117]}…"


def _header(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise refusal("The file's header names a tensor twice.")
        return members

    try:
        described = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise refusal("The file's safetensors header cannot be read.") from error
    if not isinstance(described, dict):
        raise refusal("The file's safetensors header cannot be read.")
    return described


def _check_layout(described: Mapping[str, Any], body_bytes: int) -> None:
    """Every tensor's bytes follow those of the one before it, and the last one's end the file."""
    spans: list[tuple[int, int]] = []
    for name, facts in described.items():
        if len(name) > MAX_NAME_CHARS:
            raise refusal(f"{shown(name)} has over {MAX_NAME_CHARS} characters.", limit=MAX_NAME_CHARS)
        if not _is_tensor(facts):
            raise refusal(f"The file's header cannot be read at {shown(name)}.")
        if facts["dtype"] not in _DTYPES:
            raise refusal(
                f"{shown(name)} is {shown(facts['dtype'])}; adapters are float32, float16 or bfloat16.",
                limit=["F32", "F16", "BF16"],
            )
        start, stop = facts["data_offsets"]
        if stop - start != math.prod(facts["shape"]) * _DTYPES[facts["dtype"]].itemsize:
            raise refusal(
                f"The file is broken: {shown(name)} has {stop - start} bytes, not those of its shape."
            )
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise refusal("The file is broken: its tensors overlap or leave gaps.")
        end = stop
    if end != body_bytes:
        raise refusal(f"The file is truncated or has a tail: it has {body_bytes} of {end} bytes of tensors.")


def _is_tensor(facts: Any) -> bool:
    if not isinstance(facts, dict) or not isinstance(facts.get("dtype"), str):
        return False
    shape, offsets = facts.get("shape"), facts.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 8:
        return False
    return all(type(number) is int and 0 <= number < 2**48 for number in (*shape, *offsets))


def _tensor(name: str, facts: Mapping[str, Any], body: memoryview) -> torch.Tensor:
    start, stop = facts["data_offsets"]
    if stop == start:
        raise refusal(f"{shown(name)} is empty.")
    # A copy of the tensor's own: views would keep the whole file in memory.
    tensor = torch.frombuffer(bytearray(body[start:stop]), dtype=_DTYPES[facts["dtype"]])
    tensor = tensor.reshape(facts["shape"])
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise refusal(f"{shown(name)} has values that are not finite (NaN or infinity).")
    return tensor


def _bytes(tensor: torch.Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw
