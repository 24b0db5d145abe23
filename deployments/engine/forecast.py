"""When requests will be finished: the scheduler itself, played forward. No torch, no clock of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from deployments.engine.scheduler import Run, Scheduler
from deployments.engine.work import Work


@dataclass(frozen=True, slots=True)
class Forecast:
    """Clock times at which requests are expected to finish, as seen at ``made_at``."""

    finish_at: dict[str, float]
    made_at: float


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """The step that is being computed: who has yet to advance by it, and when it should be over."""

    ids: Sequence[str] = ()
    ends_at: float = 0.0

    @classmethod
    def of(cls, run: Run, began_at: float) -> Self:
        """The first step of ``run``."""
        return cls([work.request_id for work in run.batch], began_at + run.step_ms / 1_000)

    def finish(self, future: Scheduler, now: float) -> float:
        """Bring ``future``, a copy of the scheduler, to the end of this step; returns that clock time."""
        advance(future, [future[each] for each in self.ids if each in future], 1)
        return max(now, self.ends_at)


NO_STEP = StepInFlight()


def advance(scheduler: Scheduler, batch: Sequence[Work], num_steps: int) -> list[str]:
    """Serve ``batch`` for ``num_steps`` of average cost each; returns who finished and is forgotten."""
    finished = []
    for work in batch:
        work.row_steps -= work.row_steps * num_steps / work.num_steps
        work.num_steps -= num_steps
        if not work.num_steps:
            finished.append(work.request_id)
            scheduler.remove(work.request_id)
    return finished


def forecast(
    scheduler: Scheduler,
    now: float,
    in_flight: StepInFlight = NO_STEP,
    arrivals: Iterable[Work] = (),
) -> Forecast:
    """Play the current work forward under the scheduler's own policy.

    Nothing else arrives but ``arrivals``, in the order of their ``arrived_at``. Goes from one change of the
    batch to the next, so it costs about one scheduling decision per request.
    """
    future, made_at, coming = scheduler.copy(), now, iter(arrivals)
    newcomer = next(coming, None)
    known = {work.request_id for work in future}
    now = in_flight.finish(future, now)
    finish_at = {each: now for each in in_flight.ids if each in known and each not in future}
    while len(finish_at) < len(known):
        while newcomer is not None and newcomer.arrived_at <= now:
            future.add(newcomer)
            newcomer = next(coming, None)
        run = future.next_run(now, until=math.inf if newcomer is None else newcomer.arrived_at)
        assert run is not None
        now += run.num_steps * run.step_ms / 1_000
        for request_id in advance(future, run.batch, run.num_steps):
            if request_id in known:
                finish_at[request_id] = now
    return Forecast(finish_at, made_at)
