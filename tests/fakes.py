"""Fakes for tests: small real things that behave, not mocks that record."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class VirtualClock:
    """A clock that moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TinyUNet(nn.Module):
    """A UNet of ten lines: its output depends on sample, timestep and context of its own row alone.

    A context that holds 13.0 in its first place raises, and one that holds 666.0 gives NaN.
    Every call moves ``clock``, if there is one, by ``row_s`` per row.
    """

    def __init__(self, context_dim: int = 8, clock: VirtualClock | None = None, row_s: float = 0.01) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            in_channels=4, out_channels=4, sample_size=8, cross_attention_dim=context_dim
        )
        self.clock, self.row_s = clock, row_s
        self.rows_seen: list[int] = []

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: object
    ) -> tuple[Tensor]:
        self.rows_seen.append(len(sample))
        if self.clock is not None:
            self.clock.advance(self.row_s * len(sample))
        marks = encoder_hidden_states[:, 0, 0]
        if bool((marks == 13.0).any()):
            raise RuntimeError("the model does not like this picture")
        tone = encoder_hidden_states.mean((1, 2)) + torch.where(marks == 666.0, torch.nan, 0.0)
        scale = 0.5 + timestep.to(sample) / 2_000
        return ((sample * scale[:, None, None, None]).tanh() + tone[:, None, None, None],)
