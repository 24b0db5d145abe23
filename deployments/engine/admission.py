"""Whether a request is taken, what it is promised, and when a refused one would be taken.

Knows work and its cost; no torch, no requests, no clock of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.errors import DeadlineUnmeetable, QueueFull
from deployments.engine.forecast import NO_STEP, StepInFlight, advance, forecast
from deployments.engine.promises import PROMISABLE, Plan
from deployments.engine.scheduler import Scheduler
from deployments.engine.work import Work

# A refused request that comes back comes just after a step began,
_MOMENT_S = 0.001
# and this much later than it could, in parts of the time it waits.
_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Offer:
    """The request is taken. ``plan`` keeps its promise; None for a request without a deadline."""

    plan: Plan | None = None


class Admission:
    """The rules of one scheduler.

    At most ``max_queued_requests`` wait. A request with a deadline is taken if it would meet it under the
    policy as one without a promise, so that a deadline is no way past those who came before, and if a plan
    is found that keeps all promises whatever comes after it. Work that moved is taken in any case, without a
    promise if that cannot be kept: another engine accepted it.
    """

    def __init__(self, scheduler: Scheduler, max_queued_requests: int) -> None:
        self._scheduler, self._max_queued_requests = scheduler, max_queued_requests

    def admit(
        self, work: Work, deadline_s: float | None, now: float, in_flight: StepInFlight = NO_STEP
    ) -> None:
        """Queue ``work``, which becomes a promise to be done within ``deadline_s``.

        Raises QueueFull, or DeadlineUnmeetable, which has no ``retry_after_s`` when even an idle engine would
        be too slow. Both would be taken after ``retry_after_s`` if nothing else arrived.
        """
        offer = self._offer(self._scheduler, work, deadline_s, now, in_flight)
        if offer is None:
            raise self._refusal(work, deadline_s, now, in_flight)
        if offer.plan is None:
            self._scheduler.add(work)
        else:
            self._scheduler.promise(work, offer.plan)

    def _offer(
        self, scheduler: Scheduler, work: Work, deadline_s: float | None, now: float, in_flight: StepInFlight
    ) -> Offer | None:
        """What ``scheduler`` can offer at ``now``; None where it has to refuse. Sets the promised time."""
        if scheduler.num_queued >= self._max_queued_requests and not work.moved:
            return None
        if deadline_s is None:
            return Offer()
        work.promised_by = now + deadline_s
        settled = scheduler.copy()
        begins_at = in_flight.finish(settled, now)
        plan = settled.plan_with(work, begins_at)
        if plan is None or self._finish(settled, work, begins_at) > work.promised_by:
            if not work.moved:
                return None
            # Its promise cannot be kept any more; what was accepted once is still worth trying.
            plan = work.promised_by = None
        return Offer(plan)

    def _finish(self, scheduler: Scheduler, work: Work, now: float) -> float:
        """When ``work`` would be done without a promise if nothing else arrived. ``scheduler`` keeps it."""
        scheduler.add(work.copy())
        return forecast(scheduler, now).finish_at[work.request_id]

    def _refusal(
        self, work: Work, deadline_s: float | None, now: float, in_flight: StepInFlight
    ) -> DeadlineUnmeetable | QueueFull:
        alone_s = work.num_steps * self._scheduler.cost.step_ms(work.key, work.peak_rows) / 1_000 / PROMISABLE
        hopeless = deadline_s is not None and alone_s > deadline_s
        retry_after_s = None if hopeless else self._retry_after_s(work, deadline_s, now, in_flight)
        num_queued = self._scheduler.num_queued
        if num_queued >= self._max_queued_requests and not hopeless:
            return QueueFull(
                f"{num_queued} requests are waiting",
                limit=self._max_queued_requests,
                retry_after_s=retry_after_s,
            )
        return DeadlineUnmeetable(
            f"the picture takes {alone_s:.1f} s on an idle engine, and there is other work to do",
            field="deadline_s",
            limit=deadline_s,
            retry_after_s=retry_after_s,
        )

    def _retry_after_s(
        self, work: Work, deadline_s: float | None, now: float, in_flight: StepInFlight
    ) -> float:
        """A time from now after which ``work`` would be taken if nothing else arrived; about the least."""
        refused_at, (_, taken_at) = now, self._play(now, in_flight, until=math.inf)
        while taken_at - refused_at > max(_TOLERANCE * (taken_at - now), _MOMENT_S):
            future, began_at = self._play(now, in_flight, until=(refused_at + taken_at) / 2)
            if began_at >= taken_at:
                break
            if self._takes(future, work, deadline_s, began_at):
                taken_at = began_at
            else:
                refused_at = began_at
        return taken_at + _MOMENT_S - now

    def _takes(self, future: Scheduler, work: Work, deadline_s: float | None, began_at: float) -> bool:
        """Whether ``future`` would take ``work`` just after it began a step."""
        run = future.next_run(began_at, until=began_at)
        step = NO_STEP if run is None else StepInFlight.of(run, began_at)
        again = work.copy()
        again.arrived_at = began_at + _MOMENT_S
        return self._offer(future, again, deadline_s, again.arrived_at, step) is not None

    def _play(self, now: float, in_flight: StepInFlight, until: float) -> tuple[Scheduler, float]:
        """The scheduler at the first end of a step that is not before ``until``, and the time of that."""
        future = self._scheduler.copy()
        now = in_flight.finish(future, now)
        while now < until and (run := future.next_run(now, until=until)):
            now += run.num_steps * run.step_ms / 1_000
            advance(future, run.batch, run.num_steps)
        return future, now
