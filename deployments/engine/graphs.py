"""Calls of the UNet played back from recordings, over buckets of rows.

Knows shapes, adapters' slots and residuals; does not know requests, samplers or the UNet.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from deployments.engine.branch import NO_RESIDUALS, BranchSum
from deployments.engine.conditioning import Layout
from deployments.engine.lora import LoraSlots
from deployments.engine.lora_rows import LoraRows
from deployments.engine.recordings import Record, Recordings, bucket_of, buckets, padded, room_for

Call = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor] | None, BranchSum], Tensor]
_Sizes = tuple[torch.Size, ...]


class _Shape(NamedTuple):
    """What a recording is of. ``adapters``: the width of the rows' factors, and whether the kept one acts."""

    rows: int
    sample: torch.Size
    context: torch.Size
    added: tuple[tuple[str, torch.Size], ...]
    adapters: tuple[int, bool] | None
    residuals: tuple[_Sizes | None, _Sizes | None]


class _Recording:
    """One recorded call, and the places of its inputs; ``residuals`` are places already."""

    def __init__(
        self, call: Call, record: Record, shape: _Shape, sample: Tensor, layout: Layout, residuals: BranchSum
    ) -> None:
        self._sample = sample.new_zeros(shape.rows, *shape.sample).to(memory_format=torch.channels_last)
        self._timestep = torch.ones(shape.rows, device=sample.device)
        self._context = layout.context.new_zeros(shape.rows, *shape.context)
        self._added = {name: sample.new_zeros(shape.rows, *size) for name, size in shape.added}
        self._residuals = residuals
        # What the conditioning in place belongs to.
        self._layout: weakref.ref[Layout] | None = None
        names = list(self._added)

        def called(sample: Tensor, timestep: Tensor, context: Tensor, *others: Tensor) -> Tensor:
            added = dict(zip(names, others[: len(names)], strict=True))
            return call(sample, timestep, context, added or None, residuals.holding(others[len(names) :]))

        inputs = [self._sample, self._timestep, self._context, *self._added.values(), *residuals.tensors]
        self._play = record(called, inputs)

    def __call__(self, sample: Tensor, timestep: Tensor, layout: Layout, residuals: BranchSum) -> Tensor:
        rows, channels = len(sample), sample.shape[1]
        if self._layout is None or self._layout() is not layout:
            self._context[:rows].copy_(layout.context)
            for name, place in self._added.items():
                place[:rows].copy_((layout.added or {})[name])
            if layout.extra is not None:
                self._sample[:rows, channels:].copy_(layout.extra)
            self._layout = weakref.ref(layout)
        self._sample[:rows, :channels].copy_(sample)
        self._timestep[:rows].copy_(timestep)
        for place, value in zip(self._residuals.tensors, residuals.tensors, strict=True):
            place[:rows].copy_(value)
        return self._play()[:rows]


class GraphedCalls:
    """Calls of a UNet, played back from recordings where their shape is asked for often.

    ``call`` is the UNet's; ``fast``, where given, another way to the same that is slow at first and used for
    those shapes alone that :meth:`prepare` was told of. Calls are padded to the next of :func:`buckets`, and
    the rows of ``slots`` with them, whose factors have to be steady. For one thread.
    """

    def __init__(
        self,
        call: Call,
        record: Record,
        max_rows: int,
        slots: LoraSlots | None = None,
        fast: Call | None = None,
    ) -> None:
        self.buckets = buckets(max_rows)
        self._call, self._fast, self._record, self._slots = call, fast, record, slots
        self._recordings: Recordings[_Shape, _Recording] = Recordings()
        # Residuals are large, and only one recording is played at a time: all of them read the same places.
        self._places: dict[tuple[_Sizes | None, _Sizes | None], BranchSum] = {}
        self._version = 0 if slots is None else slots.version

    def num_rows(self, num_rows: int) -> int:
        """How many rows a call of so many is padded to; calls beyond the last bucket are not."""
        return bucket_of(self.buckets, num_rows)

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        layout: Layout,
        adapters: LoraRows | None,
        residuals: BranchSum = NO_RESIDUALS,
    ) -> Tensor:
        """The UNet's output for the scaled latents ``sample`` ``[rows, channels, h, w]``.

        ``adapters``, if any act, are of as many rows as :meth:`num_rows` says, ``residuals`` of ``sample``'s.
        """
        self._drop_stale()
        recording = None
        if len(sample) <= self.buckets[-1]:
            shape = self._shape(sample, layout, adapters, residuals)
            make = partial(self._make, self._call, shape, sample, layout, adapters, residuals)
            recording = self._recordings.often(shape, make)
        if recording is None:
            return self._as_ever(sample, timestep, layout, adapters, residuals)
        if adapters is not None and self._slots is not None:
            self._slots.gather(adapters)
        return recording(sample, timestep, layout, residuals)

    def prepare(self, sample: Tensor, layout: Layout, adapters: LoraRows | None) -> None:
        """Record this shape now, by the fast way if there is one."""
        self._drop_stale()
        shape = self._shape(sample, layout, adapters, NO_RESIDUALS)
        for call in (self._fast, self._call):
            if call is not None:
                make = partial(self._make, call, shape, sample, layout, adapters, NO_RESIDUALS)
                if self._recordings.now(shape, make) is not None:
                    return

    @property
    def num_recordings(self) -> int:
        return len(self._recordings)

    def _drop_stale(self) -> None:
        """Recordings read factors where they lay."""
        if self._slots is not None and self._slots.version != self._version:
            self._version = self._slots.version
            self._recordings.drop(lambda shape: shape.adapters is not None)

    def _shape(
        self, sample: Tensor, layout: Layout, adapters: LoraRows | None, residuals: BranchSum
    ) -> _Shape:
        channels = sample.shape[1] + (0 if layout.extra is None else layout.extra.shape[1])
        added = tuple((name, value.shape[1:]) for name, value in sorted((layout.added or {}).items()))
        acting = (adapters.width if adapters.slots else 0, adapters.kept is not None) if adapters else None
        size = torch.Size((channels, *sample.shape[2:]))
        rows = self.num_rows(len(sample))
        return _Shape(rows, size, layout.context.shape[1:], added, acting, _sizes(residuals))

    def _make(
        self,
        call: Call,
        shape: _Shape,
        sample: Tensor,
        layout: Layout,
        adapters: LoraRows | None,
        residuals: BranchSum,
    ) -> _Recording:
        with nullcontext() if self._slots is None else self._slots.acting(adapters):
            places = self._places_of(residuals, shape.rows)
            return _Recording(call, self._record, shape, sample, layout, places)

    def _places_of(self, residuals: BranchSum, num_rows: int) -> BranchSum:
        whole = self._places.get(_sizes(residuals))
        if whole is None:
            whole = residuals.holding(room_for(each, self.buckets[-1]) for each in residuals.tensors)
            self._places[_sizes(residuals)] = whole
        return whole.holding(each[:num_rows] for each in whole.tensors)

    def _as_ever(
        self,
        sample: Tensor,
        timestep: Tensor,
        layout: Layout,
        adapters: LoraRows | None,
        residuals: BranchSum,
    ) -> Tensor:
        """Padded as well if the adapters' rows are."""
        widened = sample if layout.extra is None else torch.cat([sample, layout.extra], 1)
        if self._slots is None or adapters is None:
            return self._call(widened, timestep, layout.context, layout.added, residuals)
        missing = adapters.num_rows - len(sample)
        added = layout.added and {name: padded(value, missing) for name, value in layout.added.items()}
        with self._slots.acting(adapters):
            output = self._call(
                padded(widened, missing),
                padded(timestep, missing),
                padded(layout.context, missing),
                added,
                residuals.holding(padded(each, missing) for each in residuals.tensors),
            )
        return output[: len(sample)]


def _sizes(residuals: BranchSum) -> tuple[_Sizes | None, _Sizes | None]:
    skip, stream = (
        None if each is None else tuple(tensor.shape[1:] for tensor in each.tensors) for each in residuals
    )
    return skip, stream
