"""What the load test asks of every system. A system is started, asked over HTTP, and ended."""

from __future__ import annotations

from typing import Protocol

from benchmarks.loadtest.client import Message
from benchmarks.loadtest.systems.trainings import Training
from benchmarks.loadtest.workload import Asked

# How much of an image-to-image and of a swap is drawn anew. Limner takes the fourth root of a swap's 0.6.
IMAGE_STRENGTH = 0.8
SWAP_STRENGTH = 0.6
SWAP_STRENGTH_DRAWN = SWAP_STRENGTH**0.25


class Service(Protocol):
    """A running system."""

    url: str

    def ask(self, asked: Asked) -> Message:
        """The request in this system's words."""

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far."""

    def counters(self) -> dict[str, float]:
        """Sums since the start: ``steps`` and ``row_steps`` of its UNet, and ``busy_s``.

        That is the time in UNet steps for Limner, and in whole pipeline calls for the others.
        """

    @property
    def training(self) -> Training:
        """The training that can run alongside."""

    def stop(self) -> None: ...
