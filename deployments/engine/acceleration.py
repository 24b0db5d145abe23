"""What a device does to make steps faster than a plain call of the UNet. Knows switches, no requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core.types import CompileMode
from deployments.engine.recordings import CudaGraphs, Record

# The host's part of a step is about a millisecond.
_AHEAD_BELOW_MS = 50.0


@dataclass(frozen=True)
class Acceleration:
    """Three things that change the time a step takes and nothing else.

    With ``record`` calls of the UNet are recorded and played back (:class:`GraphedCalls`). With ``compile``
    what is recorded at warm-up are calls that ``torch.compile`` made. The device is given a step while it
    still computes the one before, so that it never waits for the host, if a step should take less than
    ``ahead_below_ms``: a request that comes then waits for two steps instead of one, and of a long step the
    host's part is small.
    """

    record: Record | None = None
    compile: CompileMode = "off"
    ahead_below_ms: float = 0.0

    @classmethod
    def of(
        cls, device: torch.device | str, *, graphs: bool = True, compile: CompileMode = "off"
    ) -> Acceleration:
        """What is right for ``device``: on a CPU nothing, where calls are long and waiting costs none."""
        if torch.device(device).type != "cuda":
            return PLAIN
        return cls(CudaGraphs() if graphs else None, compile, _AHEAD_BELOW_MS)

    def compiled(self, forward: Callable[..., Any]) -> Callable[..., Any] | None:
        """``forward`` compiled, at its first call for each shape; None where it should not be.

        After two numbers of rows the compiler makes a version for any.
        """
        if self.compile == "off":
            return None
        mode = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}[self.compile]
        return torch.compile(forward, fullgraph=True, mode=mode)


PLAIN = Acceleration()
