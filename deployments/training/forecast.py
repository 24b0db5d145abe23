"""When a training will be done. Arithmetic over jobs and steps; knows no clock and no store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from core.training import Job, Progress

# Before the first training of a model. SD 1.5 at 512 x 512 on a GPU, the embedded model on two cores.
_SECONDS_PER_STEP = {"cuda": 0.2, "cpu": 0.7}
# A worker process, its imports, the model, and the photos as latents.
_START_S = 25.0
# The newest step counts for a fifth: a busy machine shows after a few steps, a hiccup hardly.
_NEWEST = 0.2


def step_seconds(measured: float | None, device: str) -> float:
    """Seconds per optimizer step: ``measured`` in earlier trainings, else the usual one of the device."""
    return _SECONDS_PER_STEP[device] if measured is None else measured


def finish_of(
    now: datetime, num_steps: int, ahead: Sequence[Job], step_s: float, max_concurrent: int
) -> datetime:
    """When a job of ``num_steps`` will be done that waits for those ``ahead``, at ``step_s`` each step.

    ``max_concurrent`` of them are trained at a time.
    """
    waiting_s = sum(_remaining_s(job.progress, step_s) for job in ahead) / max_concurrent
    return now + timedelta(seconds=waiting_s + _START_S + num_steps * step_s)


def _remaining_s(progress: Progress, step_s: float) -> float:
    start_s = 0.0 if progress.step else _START_S
    return start_s + (progress.num_steps - progress.step) * step_s


class Pace:
    """How fast a training goes: its steps, and the sample pictures between them.

    It begins with ``step_s``, which counts as much as one step that is measured.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s, self._sample_s = step_s, 0.0
        self._num_seen = 1
        self._stepped_s: float | None = None
        self._drew = False

    def sample_drawn(self) -> None:
        """The step that will be reported next took longer, by a sample picture."""
        self._drew = True

    def remaining_s(self, now_s: float, num_steps: int, num_samples: int) -> float:
        """Seconds for ``num_steps`` and ``num_samples`` more, with a step that ended at ``now_s``."""
        if self._stepped_s is not None:
            self._see(now_s - self._stepped_s)
        self._stepped_s = now_s
        self._drew = False
        return num_steps * self._step_s + num_samples * self._sample_s

    def _see(self, newest_s: float) -> None:
        if self._drew:
            self._sample_s = max(0.0, newest_s - self._step_s)
            return
        self._num_seen += 1
        self._step_s += max(_NEWEST, 1 / self._num_seen) * (newest_s - self._step_s)
