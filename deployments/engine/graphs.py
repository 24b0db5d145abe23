"""UNet calls recorded once for every shape and played back after that: CUDA graphs over buckets of rows.

A step of one request on a large GPU takes less time to compute than Python takes to ask for it. A graph is
asked for in one go. Knows shapes and adapters' slots; does not know requests, samplers or the UNet.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.telemetry import log, logger
from deployments.engine.conditioning import Layout
from deployments.engine.lora import LoraSlots
from deployments.engine.lora_rows import LoraRows

_LOG = logger(__name__)

# Libraries choose kernels and take their memory in the first calls, which must not happen in a recording.
_NUM_WARM_CALLS = 3
# A recording takes about as long as ten calls, so shapes that are seldom asked for are called as ever.
_WORTH_RECORDING = 10
_MAX_RECORDINGS = 64

Call = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor] | None], Tensor]
Play = Callable[[], Tensor]


class Record(Protocol):
    """Makes recordings of calls: whatever is played back reads ``inputs`` where they lie now."""

    def __call__(self, call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Play:
        """A recording of ``call(*inputs)``, whose output is good until anything is played again."""


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory, as only one of them is played at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Play:
        for _ in range(_NUM_WARM_CALLS):
            call(*inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = call(*inputs)
        self._pool = graph.pool()

        def play() -> Tensor:
            graph.replay()
            return output

        return play


def buckets(max_rows: int) -> list[int]:
    """The row counts that calls are padded to: from four on, at most half as many again as the one before."""
    counts = {max_rows, *(factor * 2**i for factor in (1, 3) for i in range(max_rows.bit_length()))}
    return sorted(count for count in counts if count <= max_rows)


class _Shape(NamedTuple):
    """What a recording is of. ``adapters``: the width of the rows' factors, and whether the kept one acts."""

    rows: int
    sample: torch.Size
    context: torch.Size
    added: tuple[tuple[str, torch.Size], ...]
    adapters: tuple[int, bool] | None


class _Recording:
    """One recorded call, and the places of its inputs."""

    def __init__(self, call: Call, record: Record, shape: _Shape, sample: Tensor, layout: Layout) -> None:
        self._sample = sample.new_zeros(shape.rows, *shape.sample).to(memory_format=torch.channels_last)
        self._timestep = torch.ones(shape.rows, device=sample.device)
        self._context = layout.context.new_zeros(shape.rows, *shape.context)
        self._added = {name: sample.new_zeros(shape.rows, *size) for name, size in shape.added}
        # What the conditioning in place belongs to.
        self._layout: weakref.ref[Layout] | None = None
        names = list(self._added)

        def called(sample: Tensor, timestep: Tensor, context: Tensor, *added: Tensor) -> Tensor:
            return call(sample, timestep, context, dict(zip(names, added, strict=True)) or None)

        self._play = record(called, [self._sample, self._timestep, self._context, *self._added.values()])

    def __call__(self, sample: Tensor, timestep: Tensor, layout: Layout) -> Tensor:
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
        return self._play()[:rows]


class GraphedCalls:
    """Calls of a UNet without branches, played back from recordings where their shape is asked for often.

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
        self._recordings: OrderedDict[_Shape, _Recording] = OrderedDict()
        self._num_calls: Counter[_Shape] = Counter()
        self._given_up: set[_Shape] = set()
        self._version = 0 if slots is None else slots.version

    def num_rows(self, num_rows: int) -> int:
        """How many rows a call of so many is padded to; calls beyond the last bucket are not."""
        return next((bucket for bucket in self.buckets if bucket >= num_rows), num_rows)

    def __call__(self, sample: Tensor, timestep: Tensor, layout: Layout, adapters: LoraRows | None) -> Tensor:
        """The UNet's output for the scaled latents ``sample`` ``[rows, channels, h, w]``.

        ``adapters``, if any act, are of as many rows as :meth:`num_rows` says.
        """
        self._drop_stale()
        shape = self._shape(sample, layout, adapters)
        recording = self._recordings.get(shape)
        if recording is None and self._is_worth_it(shape):
            recording = self._recorded(shape, sample, layout, adapters, self._call)
        if recording is None:
            return self._as_ever(sample, timestep, layout, adapters)
        self._recordings.move_to_end(shape)
        if adapters is not None and self._slots is not None:
            self._slots.gather(adapters)
        return recording(sample, timestep, layout)

    def prepare(self, sample: Tensor, layout: Layout, adapters: LoraRows | None) -> None:
        """Record this shape now, by the fast way if there is one."""
        self._drop_stale()
        shape = self._shape(sample, layout, adapters)
        if self._fast is None or self._recorded(shape, sample, layout, adapters, self._fast) is None:
            self._given_up.discard(shape)
            self._recorded(shape, sample, layout, adapters, self._call)

    @property
    def num_recordings(self) -> int:
        return len(self._recordings)

    def _drop_stale(self) -> None:
        """Recordings read factors where they lay."""
        if self._slots is not None and self._slots.version != self._version:
            self._version = self._slots.version
            for shape in [shape for shape in self._recordings if shape.adapters is not None]:
                del self._recordings[shape]
                self._num_calls[shape] = _WORTH_RECORDING

    def _shape(self, sample: Tensor, layout: Layout, adapters: LoraRows | None) -> _Shape:
        channels = sample.shape[1] + (0 if layout.extra is None else layout.extra.shape[1])
        added = tuple((name, value.shape[1:]) for name, value in sorted((layout.added or {}).items()))
        acting = (adapters.width if adapters.slots else 0, adapters.kept is not None) if adapters else None
        size = torch.Size((channels, *sample.shape[2:]))
        return _Shape(self.num_rows(len(sample)), size, layout.context.shape[1:], added, acting)

    def _is_worth_it(self, shape: _Shape) -> bool:
        self._num_calls[shape] += 1
        few = shape.rows <= self.buckets[-1]
        return few and self._num_calls[shape] > _WORTH_RECORDING and shape not in self._given_up

    def _recorded(
        self, shape: _Shape, sample: Tensor, layout: Layout, adapters: LoraRows | None, call: Call
    ) -> _Recording | None:
        acting = nullcontext() if self._slots is None else self._slots.acting(adapters)
        try:
            with acting:
                recording = _Recording(call, self._record, shape, sample, layout)
        except Exception as error:  # what compilers and drivers raise; the call itself still works
            self._given_up.add(shape)
            log(_LOG, logging.WARNING, "not recorded", error=type(error).__name__, detail=str(error)[:500])
            return None
        self._recordings[shape] = recording
        while len(self._recordings) > _MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording

    def _as_ever(self, sample: Tensor, timestep: Tensor, layout: Layout, adapters: LoraRows | None) -> Tensor:
        """Padded as well if the adapters' rows are."""
        widened = sample if layout.extra is None else torch.cat([sample, layout.extra], 1)
        if self._slots is None or adapters is None:
            return self._call(widened, timestep, layout.context, layout.added)
        missing = adapters.num_rows - len(sample)
        added = layout.added and {name: _padded(value, missing) for name, value in layout.added.items()}
        with self._slots.acting(adapters):
            output = self._call(
                _padded(widened, missing), _padded(timestep, missing), _padded(layout.context, missing), added
            )
        return output[: len(sample)]


def _padded(tensor: Tensor, num_rows: int) -> Tensor:
    """With ``num_rows`` more rows at the end, copies of the first."""
    return torch.cat([tensor, tensor[:1].expand(num_rows, *tensor.shape[1:])]) if num_rows else tensor
