"""What a call of the UNet is given, all rows of it or some. Knows tensors; computes nothing but sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from deployments.engine.branch import Residuals


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one call is given, every tensor row by row."""

    sample: Tensor
    timestep: Tensor
    context: Tensor
    added: Mapping[str, Tensor] | None
    skips: Sequence[Tensor] | None
    mid: Tensor | None
    stream: Residuals | None

    def rows(self, part: slice) -> Inputs:
        stream = self.stream and Residuals(
            tuple(each[part] for each in self.stream.down),
            self.stream.mid[part],
            tuple(each[part] for each in self.stream.up),
        )
        return Inputs(
            self.sample[part],
            self.timestep.expand(len(self.sample))[part],
            self.context[part],
            self.added and {name: each[part] for name, each in self.added.items()},
            self.skips and [each[part] for each in self.skips],
            None if self.mid is None else self.mid[part],
            stream,
        )


class Stream:
    """The residuals of a stream, one place after the other."""

    def __init__(self, residuals: Residuals | None) -> None:
        self._residuals = residuals
        self._down = list(reversed(residuals.down)) if residuals else []
        self._up = list(reversed(residuals.up)) if residuals else []

    def down(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else self._added(hidden, self._down)

    def up(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else self._added(hidden, self._up)

    def mid(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else hidden + self._residuals.mid

    def check(self) -> None:
        if self._down or self._up:
            raise ValueError("there are more residuals than places in the UNet")

    @staticmethod
    def _added(hidden: Tensor, left: list[Tensor]) -> Tensor:
        if not left:
            raise ValueError("there are fewer residuals than places in the UNet")
        return hidden + left.pop()
