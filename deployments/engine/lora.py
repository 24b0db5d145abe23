"""Adapters in a network's slots, so that every row of a batch may use its own.

Knows which adapter lies in which slot and which rows use it; does not know files, requests or the order
of service.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from core.errors import InvalidRequest
from deployments.engine.folded import Fold, merged_weight
from deployments.engine.lora_layers import Gate, LayerSlots, check_layer, is_target, switch
from deployments.engine.lora_rows import NO_SLOT, WIDTHS, LoraRows, laid_out
from deployments.engine.packed_layers import fold_layers, is_packed

# A layer's path -> (down [rank, in] or [rank, in, kh, kw], up [out, rank] or [out, rank, 1, 1]), CPU
# float32, alpha / rank already part of ``up``.
LoraFactors = Mapping[str, tuple[Tensor, Tensor]]


class LoraSlots:
    """Room on the device for ``num_slots`` adapters of up to ``max_rank``, beside one for none.

    Layers of ``network`` (Linear, Conv2d) are switched in place when an adapter first targets them; from
    then on the buffers of a layer never move. To be made once the network is in its final place and
    precision. ``rows``, ``acting`` and ``gather`` belong to one thread; the rest may be called from any.

    With ``steady_rows`` the factors of up to so many rows are gathered into the same place every time, so
    that a recorded call finds them there; ``version`` changes when that place does, or when more layers have
    one.
    """

    def __init__(self, network: nn.Module, num_slots: int, max_rank: int = 64, steady_rows: int = 0) -> None:
        self._targets = {path: layer for path, layer in network.named_modules() if is_target(layer)}
        self.num_slots, self.max_rank = num_slots, max_rank
        self._device = next((each.device for each in network.parameters()), torch.device("cpu"))
        self._layers: dict[str, LayerSlots] = {}
        self._network = network
        self.kept: frozenset[str] = frozenset()
        self._fold = Fold()
        self._gate = Gate()
        self._lock = threading.Lock()
        # Guarded by the lock, the least recently used first.
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        self._rank_of: dict[str, int] = {}
        self._forgotten: set[int] = set()
        self._free = list(range(num_slots, NO_SLOT, -1))
        self._live: weakref.WeakSet[LoraRows] = weakref.WeakSet()
        self._gathered: weakref.ref[LoraRows] | None = None
        self._steady_rows, self._num_lines = steady_rows, steady_rows * WIDTHS[1]
        # From the start, so that it never moves. Calls with more rows are not recorded.
        self._steady_kept = torch.zeros(steady_rows, 1, 1, device=self._device)
        self.version = self.num_loads = self.num_hits = 0

    def check(self, factors: LoraFactors) -> None:
        """Raise InvalidRequest (field ``adapters``) naming the first layer that does not fit the network."""
        for path, (down, up) in factors.items():
            if path not in self._targets:
                raise InvalidRequest(f"this model has no layer {path}", field="adapters")
            check_layer(path, self._targets[path], down, up, self.max_rank)

    def keep(self, adapter_id: str, factors: LoraFactors) -> None:
        """Have one adapter at hand that needs no slot; rows use it by its id. To be called once, at first.

        Layers with packed weights get a second set with it merged, for calls of which all rows use it with
        weight 1. Raises InvalidRequest as :meth:`check` does.
        """
        self.check(factors)
        with torch.inference_mode(False), torch.no_grad():
            for path, (down, up) in factors.items():
                self._layer(path).keep(down, up)
            if is_packed(self._network):
                merged = {
                    layer: merged_weight(cast("nn.Linear | nn.Conv2d", layer).weight, *factors[path])
                    for path, layer in self._targets.items()
                    if path in factors
                }
                self._fold = fold_layers(self._network, merged)
        self.kept = frozenset([adapter_id])

    def rows(
        self, rows: Sequence[Sequence[tuple[str, float]]], factors: Mapping[str, LoraFactors]
    ) -> LoraRows:
        """Bring the adapters of each row, ids and weights, into slots.

        Those that are not there yet come from ``factors``, in place of the ones used longest ago. Adapters
        without layers in this network and weights of 0 take no slot. Raises ValueError when the slots do
        not suffice beside those of other living rows (see :meth:`fits`), which have then stayed as they are.
        """
        acting = [
            [(name, weight) for name, weight in row if name not in self.kept and weight and factors[name]]
            for row in rows
        ]
        names = {name: None for row in acting for name, _ in row}
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            self._reclaim()
            if not self._fit(names):
                raise ValueError(f"{len(names)} adapters do not fit {self.num_slots} slots")
            # All are marked as used first, so that none of them makes way for another.
            for name in names:
                if name in self._slot_of:
                    self._slot_of.move_to_end(name)
                    self.num_hits += 1
            for name in names:
                if name not in self._slot_of:
                    self._load(name, factors[name])
            stacks = [[(self._slot_of[name], self._rank_of[name], w) for name, w in row] for row in acting]
            kept = [sum(weight for name, weight in row if name in self.kept) for row in rows]
            steady = self._steady_rows > 0
            made = laid_out(stacks, kept, self.max_rank, self._device, steady=steady)
            self._live.add(made)
            return made

    @contextmanager
    def acting(self, rows: LoraRows | None) -> Iterator[None]:
        """Calls of the network within have these rows. None and rows without adapters change nothing."""
        if not rows:
            yield
            return
        self.gather(rows)
        self._gate.open = True
        self._fold.on = isinstance(rows.kept, float)
        try:
            yield
        finally:
            self._gate.open = self._fold.on = False

    def gather(self, rows: LoraRows) -> None:
        """Have the factors of ``rows`` where calls of the network look for them."""
        if self._gathered is None or self._gathered() is not rows:
            with torch.inference_mode(False), torch.no_grad():
                if self._steady_rows:
                    self._gather_steadily(rows)
                else:
                    self._gather(rows)
            self._gathered = weakref.ref(rows, self._release)

    def fits(self, adapter_ids: Collection[str]) -> bool:
        """Whether these adapters can be in slots together, beside those of all living rows."""
        with self._lock:
            return self._fit(adapter_ids)

    def forget(self, adapter_id: str) -> None:
        """Free the adapter's slot; one in use serves its rows to their end. Nothing where it is not here."""
        with self._lock:
            slot = self._slot_of.pop(adapter_id, None)
            if slot is not None:
                del self._rank_of[adapter_id]
                self._forgotten.add(slot)

    @property
    def resident(self) -> frozenset[str]:
        """The adapters that are in slots."""
        with self._lock:
            return frozenset(self._slot_of)

    def _pinned(self) -> set[int]:
        return {slot for rows in self._live for slot in rows.slots}

    def _fit(self, names: Collection[str]) -> bool:
        pinned = self._pinned()
        new = {name for name in names if self._slot_of.get(name) not in pinned}
        return len(pinned) + len(new) <= self.num_slots

    def _reclaim(self) -> None:
        free = self._forgotten - self._pinned()
        self._forgotten -= free
        self._free += free

    def _load(self, name: str, factors: LoraFactors) -> None:
        slot = self._free.pop() if self._free else self._evict()
        try:
            for path, layer in self._layers.items():
                if path not in factors:
                    layer.clear(slot)
            for path, (down, up) in factors.items():
                layer = self._layer(path)
                is_new = not layer.has_slots
                layer.fill(slot, down, up)
                if is_new and self._steady_rows:
                    layer.room(self._num_lines)
                    self.version += 1
        except BaseException:
            self._free.append(slot)
            raise
        self._slot_of[name] = slot
        self._rank_of[name] = max(len(down) for down, _ in factors.values())
        self.num_loads += 1

    def _layer(self, path: str) -> LayerSlots:
        if path not in self._layers:
            layer = switch(self._targets[path], self.num_slots + 1, self.max_rank, self._gate)
            self._layers[path] = layer
        return self._layers[path]

    def _evict(self) -> int:
        pinned = self._pinned()
        name = next(name for name, slot in self._slot_of.items() if slot not in pinned)
        del self._rank_of[name]
        return self._slot_of.pop(name)

    def _gather(self, rows: LoraRows) -> None:
        for layer in self._layers.values():
            if layer.filled.isdisjoint(rows.slots):
                layer.release()
            else:
                layer.gather(rows.lines, rows.weights)
            layer.scale = rows.kept if layer.kept is not None else None

    def _gather_steadily(self, rows: LoraRows) -> None:
        """The same into the place that stays; in every layer that ever had an adapter, or in none."""
        num_lines = rows.lines.numel()
        if num_lines > self._num_lines:
            self._num_lines = num_lines
            for layer in self._layers.values():
                if layer.has_slots:
                    layer.room(num_lines)
            self.version += 1
        scale = self._steady_scale(rows)
        for layer in self._layers.values():
            if layer.has_slots and rows.slots:
                layer.gather(rows.lines, rows.weights)
            else:
                layer.release()
            layer.scale = scale if layer.kept is not None else None

    def _steady_scale(self, rows: LoraRows) -> Tensor | None:
        if rows.kept is None:
            return None
        assert isinstance(rows.kept, Tensor)
        if rows.num_rows > self._steady_rows:
            return rows.kept
        scale = self._steady_kept[: rows.num_rows]
        scale.copy_(rows.kept)
        return scale

    def _release(self, _: object) -> None:
        """Give the memory of the gathered factors back."""
        for layer in self._layers.values():
            layer.release()
