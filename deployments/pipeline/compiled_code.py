"""What torch.compile made, kept in the store: a replica that starts takes what another has compiled.

Knows artifacts and where they lie; not what was compiled. They are code, and the store is trusted with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch._dynamo.utils import counters

from core.errors import NotFound
from core.telemetry import log, logger
from store.keys import compiled_file

_LOG = logger(__name__)


class Files(Protocol):
    """The part of ``store.blobs.Blobs`` that this needs."""

    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...


class CompiledCode:
    """The artifacts of one network on one kind of device.

    ``network`` is its configuration; a change of that, of PyTorch, of the device or of ``options`` (whatever
    else the code depends on) makes another file. Nothing here raises: without artifacts one compiles.
    """

    def __init__(
        self, files: Files, network: Mapping[str, Any], device: torch.device, options: Mapping[str, Any]
    ) -> None:
        named = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        facts = [torch.__version__, torch.version.cuda, named, dict(network), dict(options)]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        self._files, self._key = files, compiled_file(digest[:32])

    def load(self) -> bool:
        """Have the next compilations find what the store has. False where that is nothing of use."""
        try:
            found = self._files.read(self._key)
            if torch.compiler.load_cache_artifacts(found) is None:
                return False
        except NotFound:
            return False
        except Exception as error:  # a store that is down, a file that is torn
            self._warn("compiled code not loaded", error)
            return False
        log(_LOG, logging.INFO, "compiled code loaded", num_bytes=len(found))
        return True

    def save(self) -> bool:
        """Keep what was compiled since the process started. False where the store has all of it already."""
        if not counters["inductor"]["fxgraph_cache_miss"]:
            return False
        try:
            made = torch.compiler.save_cache_artifacts()
            if made is None:
                return False
            self._files.write(self._key, made[0])
        except Exception as error:
            self._warn("compiled code not kept", error)
            return False
        log(_LOG, logging.INFO, "compiled code kept", num_bytes=len(made[0]))
        return True

    def _warn(self, what: str, error: Exception) -> None:
        log(_LOG, logging.WARNING, what, error=type(error).__name__)
