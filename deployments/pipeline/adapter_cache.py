"""Adapters in the host's memory: read once from the blob store, held while requests need them.

Knows files, hashes and who holds what; nothing of the networks that adapters act in. No ray, no HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from core.errors import BrokenAdapter, GenerationFailed, LimnerError, NotFound
from core.telemetry import log, logger
from deployments.engine.lora import LoraFactors
from store.blobs import Blobs
from store.keys import adapter_file
from weights.adapters import AdapterWeights, read_adapter

_LOG = logger(__name__)
# A store that hangs holds up threads of its own, never those that the rest of the replica needs.
_LOADS_AT_ONCE = 4
_LOAD_TIMEOUT_S = 60.0
_RETRY_AFTER_S = 5.0


class Reads(Protocol):
    """The part of ``store.blobs.Blobs`` that a cache needs; called from several threads."""

    def read(self, key: str) -> bytes: ...


class BlobsAtNeed:
    """The store at an fsspec URL, opened when it is first needed: without adapters it need not be there."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, key: str) -> bytes:
        """Raises what opening the store raises, and what ``Blobs.read`` does."""
        return self._blobs.read(key)

    def write(self, key: str, data: bytes) -> None:
        """Raises what opening the store raises, and what ``Blobs.write`` does."""
        self._blobs.write(key, data)

    @cached_property
    def _blobs(self) -> Blobs:
        return Blobs(self._url)


class Asked(Protocol):
    """What names an adapter in a request; an empty ``sha256`` takes the file as it is."""

    @property
    def adapter_id(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class CacheStats(NamedTuple):
    """Counts since the start, and what is resident now."""

    num_hits: int
    num_loads: int
    num_evictions: int
    num_resident: int
    num_bytes: int


class _Key(NamedTuple):
    adapter_id: str
    sha256: str


@dataclass(slots=True, eq=False)
class _Entry:
    """An adapter that is loaded or loading. ``num_bytes`` is 0 until it is there.

    A ``forgotten`` one lives on with those who hold it.
    """

    loading: asyncio.Task[LoraFactors]
    num_holders: int = field(default=0, init=False)
    num_bytes: int = field(default=0, init=False)
    forgotten: bool = field(default=False, init=False)


class AdapterCache:
    """The ``part`` of adapters that one replica's network needs, at most ``max_bytes`` of it if possible.

    What a request holds stays, however much that is; of the rest the least recently used goes first.
    Failures are not remembered. To be used from one event loop at a time.
    """

    def __init__(self, blobs: Reads, max_bytes: int, part: Callable[[AdapterWeights], LoraFactors]) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._part = part
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._loads: set[asyncio.Task[LoraFactors]] = set()
        self._executor = ThreadPoolExecutor(_LOADS_AT_ONCE, thread_name_prefix="adapters")
        self._num_hits = self._num_loads = self._num_evictions = self._num_bytes = 0

    @asynccontextmanager
    async def holding(self, adapters: Iterable[Asked]) -> AsyncGenerator[Mapping[str, LoraFactors], None]:
        """The factors of ``adapters`` by their ids, in memory until the context ends.

        Requests for one adapter share its load, which goes on when they are cancelled. Raises NotFound for
        an adapter whose file is gone, BrokenAdapter for one whose file is not what was stored, and
        GenerationFailed where the store cannot be read.
        """
        held: dict[str, _Entry] = {}
        try:
            for asked in adapters:
                if asked.adapter_id not in held:
                    held[asked.adapter_id] = self._taken(_Key(asked.adapter_id, asked.sha256))
            loading = [entry.loading for entry in held.values() if not entry.loading.done()]
            if loading:
                # Unlike gather, this leaves the loads alone when it is cancelled.
                await asyncio.wait(loading)
            yield {adapter_id: entry.loading.result() for adapter_id, entry in held.items()}
        finally:
            for entry in held.values():
                self._release(entry)
            self._evict()

    def forget(self, adapter_id: str) -> None:
        """Drop ``adapter_id``; requests that hold it finish with it, later ones ask the store again."""
        for key in [key for key in self._entries if key.adapter_id == adapter_id]:
            self._drop(key)

    @property
    def resident(self) -> frozenset[str]:
        """The ids of the adapters that are in memory or on their way."""
        return frozenset(key.adapter_id for key in self._entries)

    def stats(self) -> CacheStats:
        return CacheStats(
            self._num_hits, self._num_loads, self._num_evictions, len(self._entries), self._num_bytes
        )

    def close(self) -> None:
        """Let the threads end once their present loads have."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _taken(self, key: _Key) -> _Entry:
        """The entry of ``key`` with one holder more, its load begun."""
        entry = self._entries.get(key)
        if entry is None:
            self._num_loads += 1
            loading = asyncio.create_task(self._load(key))
            entry = self._entries[key] = _Entry(loading)
            self._loads.add(loading)
            loading.add_done_callback(lambda _: self._loaded(key, entry))
        else:
            self._num_hits += 1
            self._entries.move_to_end(key)
        entry.num_holders += 1
        return entry

    def _loaded(self, key: _Key, entry: _Entry) -> None:
        self._loads.discard(entry.loading)
        if entry.loading.cancelled() or entry.loading.exception() is not None:
            if not entry.forgotten:
                self._drop(key)
        elif entry.num_holders or not entry.forgotten:
            entry.num_bytes = _num_bytes(entry.loading.result())
            self._num_bytes += entry.num_bytes
            self._evict()

    def _release(self, entry: _Entry) -> None:
        entry.num_holders -= 1
        if entry.forgotten and not entry.num_holders:
            self._num_bytes -= entry.num_bytes

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key)
        entry.forgotten = True
        if not entry.num_holders:
            self._num_bytes -= entry.num_bytes

    def _evict(self) -> None:
        """Drop what is not held, the least recently used first, until the rest is within the bound."""
        for key, entry in list(self._entries.items()):
            if self._num_bytes <= self._max_bytes:
                return
            if not entry.num_holders and entry.num_bytes:
                self._drop(key)
                self._num_evictions += 1

    async def _load(self, key: _Key) -> LoraFactors:
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, key)
        except TimeoutError as error:
            raise _unreadable(error) from error

    def _read(self, key: _Key) -> LoraFactors:
        """In a thread: the file of ``key``, checked and prepared."""
        try:
            data = self._blobs.read(adapter_file(key.adapter_id))
        except NotFound:
            raise NotFound("The adapter has been deleted.", field="adapters") from None
        except Exception as error:
            # Stores have errors of their own kinds; to a request they are all the same.
            raise _unreadable(error) from error
        if key.sha256 and hashlib.sha256(data).hexdigest() != key.sha256:
            raise BrokenAdapter("The adapter's file is not the one that was stored.", field="adapters")
        try:
            return self._part(read_adapter(data))
        except LimnerError as error:
            raise BrokenAdapter(
                f"The adapter's file cannot be used: {error.message}", field="adapters"
            ) from error


def _unreadable(error: Exception) -> GenerationFailed:
    log(_LOG, logging.ERROR, "an adapter could not be read", cause=type(error).__name__)
    return GenerationFailed(
        "The adapter could not be read from the store.", field="adapters", retry_after_s=_RETRY_AFTER_S
    )


def _num_bytes(factors: LoraFactors) -> int:
    """Bytes of the memory behind ``factors``, counted once where tensors share it."""
    storages = (tensor.untyped_storage() for pair in factors.values() for tensor in pair)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
