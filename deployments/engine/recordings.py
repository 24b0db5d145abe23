"""Calls recorded once and played back after that: CUDA graphs, kept by shape. Knows tensors alone.

A step of one request on a large GPU takes less time to compute than Python takes to ask for it. A graph is
asked for in one go.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from core.telemetry import log, logger

_LOG = logger(__name__)
Output = TypeVar("Output")
Shape = TypeVar("Shape", bound=Hashable)
Made = TypeVar("Made")

# Libraries choose kernels and take their memory in the first calls, which must not happen in a recording.
_NUM_WARM_CALLS = 3
# A recording takes about as long as ten calls, so shapes that are seldom asked for are called as ever.
_WORTH_RECORDING = 10
_MAX_RECORDINGS = 64


class Record(Protocol):
    """Makes recordings of calls: whatever is played back reads ``inputs`` where they lie now."""

    def __call__(self, call: Callable[..., Output], inputs: Sequence[Tensor]) -> Callable[[], Output]:
        """A recording of ``call(*inputs)``, whose output is good until anything is played again."""


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory, as only one of them is played at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, call: Callable[..., Output], inputs: Sequence[Tensor]) -> Callable[[], Output]:
        for _ in range(_NUM_WARM_CALLS):
            call(*inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = call(*inputs)
        self._pool = graph.pool()

        def play() -> Output:
            graph.replay()
            return output

        return play


def buckets(max_rows: int) -> list[int]:
    """The row counts that calls are padded to: from four on, at most half as many again as the one before."""
    counts = {max_rows, *(factor * 2**i for factor in (1, 3) for i in range(max_rows.bit_length()))}
    return sorted(count for count in counts if count <= max_rows)


def bucket_of(counts: Sequence[int], num_rows: int) -> int:
    """The least of ``counts``, which ascend, that holds ``num_rows``; ``num_rows`` itself beyond the last."""
    return next((count for count in counts if count >= num_rows), num_rows)


def room_for(value: Tensor, num_rows: int) -> Tensor:
    """Zeros for ``num_rows`` rows like those of ``value``, maps in the order of channels_last."""
    room = value.new_zeros(num_rows, *value.shape[1:])
    return room.to(memory_format=torch.channels_last) if room.ndim == 4 else room


def padded(tensor: Tensor, num_rows: int) -> Tensor:
    """With ``num_rows`` more rows at the end, copies of the first."""
    return torch.cat([tensor, tensor[:1].expand(num_rows, *tensor.shape[1:])]) if num_rows else tensor


class Recordings(Generic[Shape, Made]):
    """Recordings by shape, the ones used last: what cannot be recorded is tried once."""

    def __init__(self) -> None:
        self._made: OrderedDict[Shape, Made] = OrderedDict()
        self._num_asked: Counter[Shape] = Counter()
        self._given_up: set[Shape] = set()

    def __len__(self) -> int:
        return len(self._made)

    def often(self, shape: Shape, make: Callable[[], Made]) -> Made | None:
        """The recording of ``shape``, made now if that is asked for often by now; None if there is none."""
        made = self._made.get(shape)
        if made is not None:
            self._made.move_to_end(shape)
            return made
        self._num_asked[shape] += 1
        if self._num_asked[shape] <= _WORTH_RECORDING or shape in self._given_up:
            return None
        return self.now(shape, make)

    def now(self, shape: Shape, make: Callable[[], Made]) -> Made | None:
        """A new recording of ``shape``; None if it cannot be made."""
        try:
            made = make()
        except Exception as error:  # what compilers and drivers raise; the call itself still works
            self._given_up.add(shape)
            log(_LOG, logging.WARNING, "not recorded", error=type(error).__name__, detail=str(error)[:500])
            return None
        self._given_up.discard(shape)
        self._made[shape] = made
        while len(self._made) > _MAX_RECORDINGS:
            self._made.popitem(last=False)
        return made

    def drop(self, is_stale: Callable[[Shape], bool]) -> None:
        """Forget the stale recordings; they are made again when asked for."""
        for shape in [shape for shape in self._made if is_stale(shape)]:
            del self._made[shape]
            self._num_asked[shape] = _WORTH_RECORDING
