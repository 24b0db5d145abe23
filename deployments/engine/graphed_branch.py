"""Calls of a branch played back from recordings, over buckets of rows. Knows shapes, not its users."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deployments.engine.branch import Branch, Residuals
from deployments.engine.recordings import Record, Recordings, bucket_of, buckets, room_for

_MAIN = ("sample", "timestep", "context", "conditioning")


class _BranchShape(NamedTuple):
    rows: int
    inputs: tuple[tuple[str, torch.Size], ...]


class GraphedBranch:
    """A branch whose calls are played back from recordings, padded to the next of :func:`buckets`.

    Its residuals are good until anything is played again. For one thread.
    """

    def __init__(self, branch: Branch, record: Record, max_rows: int) -> None:
        self.style: Literal["skip", "stream"] = branch.style
        self.conditioning_channels = branch.conditioning_channels
        self.conditioning_factor = branch.conditioning_factor
        self.context_dim = branch.context_dim
        self._branch, self._record, self._buckets = branch, record, buckets(max_rows)
        self._recordings: Recordings[_BranchShape, _BranchRecording] = Recordings()

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None,
    ) -> Residuals:
        """As :class:`Branch` says."""
        main = (sample, timestep, context, conditioning)
        inputs = dict(zip(_MAIN, main, strict=True)) | (added or {})
        sizes = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        shape = _BranchShape(bucket_of(self._buckets, len(sample)), sizes)
        recording = None
        if len(sample) <= self._buckets[-1]:
            make = partial(_BranchRecording, self._branch, self._record, shape.rows, inputs)
            recording = self._recordings.often(shape, make)
        if recording is None:
            return self._branch(sample, timestep, context, conditioning, added)
        return recording(inputs)


class _BranchRecording:
    """One recorded call of a branch, and the places of its inputs by name."""

    def __init__(self, branch: Branch, record: Record, num_rows: int, inputs: dict[str, Tensor]) -> None:
        self._places = {name: room_for(value, num_rows) for name, value in inputs.items()}
        names = list(inputs)

        def called(*given: Tensor) -> tuple[Tensor, ...]:
            own = dict(zip(names, given, strict=True))
            sample, timestep, context, conditioning = (own.pop(name) for name in _MAIN)
            residuals = branch(sample, timestep, context, conditioning, own or None)
            self._num_down = len(residuals.down)
            return residuals.tensors

        self._play = record(called, list(self._places.values()))

    def __call__(self, inputs: dict[str, Tensor]) -> Residuals:
        rows = len(inputs["sample"])
        for name, place in self._places.items():
            place[:rows].copy_(inputs[name])
        return Residuals.of([each[:rows] for each in self._play()], self._num_down)
