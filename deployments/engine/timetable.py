"""Who is served when, and what each of them was told. No torch, no requests, no clock of its own.

The engine's lock guards it; in a simulation it stands for the whole engine.
"""

from __future__ import annotations

from deployments.engine.accuracy import Accuracy
from deployments.engine.admission import Admission
from deployments.engine.arrivals import Arrivals
from deployments.engine.forecast import NO_STEP, Forecast, StepInFlight, forecast
from deployments.engine.scheduler import Scheduler
from deployments.engine.work import StepCost, Work

# An outlook older than this is made anew, so that progress events follow a drifting step time.
_OUTLOOK_AGE_S = 0.5


class Timetable:
    """The queue and the running set of one engine, with their admission and their predictions.

    A step goes like this: ``begin_step``, ``advance`` of every :class:`Work` in it, ``end_step``.
    """

    def __init__(self, cost: StepCost, *, max_rows: int, max_adapters: int, max_queued_requests: int) -> None:
        self.scheduler = Scheduler(cost, max_rows, max_adapters)
        self.accuracy, self.arrivals = Accuracy(), Arrivals()
        self._admission = Admission(self.scheduler, max_queued_requests)
        self._in_flight = NO_STEP
        self._outlook = Forecast({}, 0.0)

    def admit(self, work: Work, deadline_s: float | None, now: float) -> float:
        """Queue ``work``; returns in how many seconds it should be done. Raises as ``Admission`` does."""
        self._admission.admit(work, deadline_s, now, self._in_flight)
        # Only what came before counts: this arrival says nothing of the next one.
        self._look_ahead(now)
        self.arrivals.observe(work, now)
        self.scheduler.expected_load = self.arrivals.load(now)
        finish_at = self._outlook.finish_at[work.request_id]
        return (finish_at if work.promised_by is None else min(finish_at, work.promised_by)) - now

    def begin_step(self, now: float) -> list[Work]:
        """Whom the coming step advances; empty when idle."""
        run = self.scheduler.next_run(now, until=now)
        # It begins when the step before it is over.
        began_at = max(now, self._in_flight.ends_at)
        self._in_flight = NO_STEP if run is None else StepInFlight.of(run, began_at)
        return [] if run is None else run.batch

    def end_step(self, *, still_runs: bool = False) -> None:
        """The work in the step has advanced. It is over, or ``still_runs`` on the device."""
        self._in_flight = StepInFlight(ends_at=self._in_flight.ends_at) if still_runs else NO_STEP

    def end(self, work: Work) -> None:
        """Forget a request that ended, however it did, or that needs no further step."""
        if work.request_id in self.scheduler:
            self.scheduler.remove(work.request_id)

    def remaining_s(self, work: Work, now: float) -> float:
        """In how many seconds ``work`` should be done."""
        if now - self._outlook.made_at > _OUTLOOK_AGE_S or work.request_id not in self._outlook.finish_at:
            self._look_ahead(now)
        return max(self._outlook.finish_at[work.request_id] - now, 0.0)

    @property
    def work_s(self) -> float:
        """What is predicted to be left to compute."""
        return sum(work.remaining_ms for work in self.scheduler) / 1_000

    def _look_ahead(self, now: float) -> None:
        self._outlook = forecast(self.scheduler, now, self._in_flight, self.arrivals.expected(now))
