"""Files checked against their listed size and SHA-256: once per process, or once per change of a file.

Hashing takes about a second per gigabyte, so a file that was found right is remembered in the weights
folder by size, modification time and hash, and not read again until one of them differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.settings import weights_folder
from weights.catalogue import Entry, write_json
from weights.errors import BrokenWeights
from weights.tensor_file import sha256_of

_STAMPS = ".verified"


def check_files(entry: Entry, names: Mapping[str, Mapping[str, Any]], *, thorough: bool = False) -> None:
    """Raise :class:`BrokenWeights` unless the files ``names`` of an installed model are the listed ones.

    ``thorough`` reads every byte, whatever is remembered.
    """
    assert entry.folder is not None
    stamps = {} if entry.embedded else _read_stamps(entry.model_id)
    for name, facts in names.items():
        path, sha256 = entry.folder / name, str(facts["sha256"])
        stamp = _stamp(path, sha256)
        if thorough:
            _check(path, int(facts["bytes"]), sha256)
        elif stamp is None or stamps.get(name) != stamp:
            check_file(path, int(facts["bytes"]), sha256, stamp[1] if stamp else 0)
        stamps[name] = stamp
    if not entry.embedded:
        _write_stamps(entry.model_id, stamps)


def forget(model_id: str) -> None:
    """Remember nothing of a model that was replaced or removed."""
    (weights_folder() / _STAMPS / f"{model_id}.json").unlink(missing_ok=True)
    check_file.cache_clear()


def _stamp(path: Path, sha256: str) -> list[Any] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns, sha256]


def _read_stamps(model_id: str) -> dict[str, Any]:
    try:
        stamps: dict[str, Any] = json.loads((weights_folder() / _STAMPS / f"{model_id}.json").read_text())
    except (OSError, ValueError):
        return {}
    return stamps


def _write_stamps(model_id: str, stamps: Mapping[str, Any]) -> None:
    if stamps == _read_stamps(model_id):
        return
    try:
        (weights_folder() / _STAMPS).mkdir(exist_ok=True)
        write_json(weights_folder() / _STAMPS / f"{model_id}.json", stamps)
    except OSError:
        # A read-only weights folder is fine: every process then hashes once itself.
        return


@cache
def check_file(path: Path, num_bytes: int, sha256: str, modified_ns: int) -> None:
    """Check a file once per process, and again when its modification time, in nanoseconds, is another."""
    _check(path, num_bytes, sha256)


def _check(path: Path, num_bytes: int, sha256: str) -> None:
    if not path.is_file():
        raise BrokenWeights(f"Model file {path} is missing.")
    if path.stat().st_size != num_bytes:
        raise BrokenWeights(f"Model file {path} has {path.stat().st_size} bytes, not {num_bytes}.")
    if sha256_of(path) != sha256:
        raise BrokenWeights(f"Model file {path} is corrupt: its SHA-256 is not the listed one.")
