"""The runs of one gender swap, told as one: events renumbered, pictures gathered. Knows events alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from core.types import Accepted, Completed, Picture, PipelineEvent, Preview, Progress, Timings


@dataclass(slots=True, eq=False)
class Runs:
    """What has happened so far. ``began`` is the ``time.monotonic`` at which the request came."""

    began: float
    _prepared_s: float = 0.0
    _accepted: bool = False
    _steps_before: int = 0
    _step: int = 0
    _num_steps: int = 0
    _pictures: dict[int, Picture] = field(default_factory=dict)
    _timings: list[Timings] = field(default_factory=list)

    def prepared(self) -> None:
        """Perception has answered."""
        self._prepared_s = time.monotonic() - self.began

    @property
    def pictures(self) -> list[Picture]:
        """The latest picture of every index."""
        return [self._pictures[index] for index in sorted(self._pictures)]

    def told(self, event: PipelineEvent, index: int | None) -> PipelineEvent | None:
        """``event`` as the client sees it, None if it is not for the client.

        ``index`` is the one picture that the run paints again, None for the first run, which paints all.
        """
        match event:
            case Accepted():
                seen_before, self._accepted = self._accepted, True
                return None if seen_before else event
            case Progress(step=step, num_steps=num_steps):
                # A run that starts over on another replica does not go back in the client's eyes.
                self._step, self._num_steps = max(self._step, step), num_steps
                before = self._steps_before
                return replace(event, step=before + self._step, num_steps=before + num_steps)
            case Preview():
                return event if index is None else replace(event, index=index)
            case Completed(pictures=pictures, timings=timings):
                self._steps_before += self._num_steps
                self._step = self._num_steps = 0
                self._timings.append(timings)
                for picture in pictures:
                    kept = picture if index is None else replace(picture, index=index)
                    self._pictures[kept.index] = kept
                return None

    def completed(self, pictures: Sequence[Picture]) -> Completed:
        """The last event: ``pictures`` and the seconds of all runs together."""
        return Completed(
            tuple(pictures),
            Timings(
                encode_s=self._prepared_s + sum(run.encode_s for run in self._timings),
                denoise_s=sum(run.denoise_s for run in self._timings),
                decode_s=sum(run.decode_s for run in self._timings),
                total_s=time.monotonic() - self.began,
                engine_s=sum(run.engine_s for run in self._timings),
                file_s=sum(run.file_s for run in self._timings),
            ),
        )
