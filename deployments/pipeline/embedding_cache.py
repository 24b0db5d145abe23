"""Least-recently-used cache, bounded by the bytes of its entries. Knows nothing of what they mean."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A tensor, or several."""

    @property
    def nbytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Sized)


class EmbeddingCache(Generic[Key, Value]):
    """Holds at most ``max_bytes`` of entries; the one unused for longest goes first.

    Entries are shared, so nobody may write to them. To be used from one thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The entry of ``key``, now the most recently used, or None."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def drop(self, chosen: Callable[[Key], bool]) -> None:
        """Forget every entry whose key is ``chosen``."""
        for key in [key for key in self._entries if chosen(key)]:
            self.num_bytes -= self._entries.pop(key).nbytes

    def put(self, key: Key, value: Value) -> None:
        """Remember ``value``, unless it alone is over the bound."""
        if value.nbytes > self._max_bytes:
            return
        old = self._entries.pop(key, None)
        if old is not None:
            self.num_bytes -= old.nbytes
        self._entries[key] = value
        self.num_bytes += value.nbytes
        while self.num_bytes > self._max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.num_bytes -= dropped.nbytes
