"""Who is in the engine, in what order they are served, and what a step means to each of them.

Knows requests, work and its cost; does not know how a step is computed. The engine's lock guards it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from core.errors import DeadlineExceeded, LimnerError
from deployments.engine.cost import CostModel
from deployments.engine.ledger import Ledger, LiveRequest, OnEvent
from deployments.engine.pricing import cost_rows, work_of
from deployments.engine.request import (
    Cancelled,
    DenoiseRequest,
    Done,
    Failed,
    HandedBack,
    Previewed,
    Progressed,
    TerminalEvent,
)
from deployments.engine.timetable import Timetable
from deployments.engine.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step left of one request: ``latents`` once it is finished, CPU float32."""

    live: LiveRequest
    steps_done: int
    fault: LimnerError | None = None
    latents: Tensor | None = None
    preview: npt.NDArray[np.uint8] | None = None


class Roster:
    """The live requests with their queue; every end and every event of theirs is made here."""

    def __init__(
        self, cost: CostModel, *, max_rows: int, max_adapters: int, max_queued_requests: int
    ) -> None:
        self.cost = cost
        self.timetable = Timetable(
            cost, max_rows=max_rows, max_adapters=max_adapters, max_queued_requests=max_queued_requests
        )
        self.ledger = Ledger()
        self._max_rows = max_rows

    def __len__(self) -> int:
        return len(self.ledger)

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(self.ledger)

    def admit(self, request: DenoiseRequest, trajectory: Trajectory, on_event: OnEvent, now: float) -> float:
        """Queue a request; returns in how many seconds it should be done. Raises as ``Admission`` does."""
        adapters = frozenset(
            use.adapter_id for use in request.adapters if use.weight and trajectory.adapters[use.adapter_id]
        )
        work = work_of(request, now, self.cost, self._max_rows, adapters)
        predicted_s = self.timetable.admit(work, request.deadline_s, now)
        self.ledger.add(LiveRequest(request, trajectory, work, on_event, now, predicted_s))
        return predicted_s

    def choose(self, now: float) -> list[LiveRequest]:
        """The requests that the coming step advances."""
        return [self.ledger[work.request_id] for work in self.timetable.begin_step(now)]

    def dismiss(self, now: float, but_within_s: float) -> None:
        """Those leave at the next step who are not predicted to be done ``but_within_s``."""
        for live in self:
            if live.trajectory.finished:
                continue
            stays = self.timetable.remaining_s(live.work, now) < but_within_s
            live.leaving = live.leaving or not stays

    def depart(self, now: float) -> int:
        """End what was cancelled, ran out of time or leaves; returns how many."""
        num_before = len(self)
        for live in self:
            request_id = live.request.request_id
            if live.trajectory.finished:
                continue  # its last step is under way
            if live.cancelled:
                self.end(live, Cancelled(request_id))
            elif live.expired(now):
                self.end(live, Failed(request_id, DeadlineExceeded("the deadline passed before the end")))
            elif live.leaving:
                snapshot = live.trajectory.snapshot() if live.trajectory.started else None
                self.end(live, HandedBack(request_id, snapshot))
        return num_before - len(self)

    def advance(self, lives: Iterable[LiveRequest], *, still_runs: bool) -> None:
        """A step of ``lives`` was given to the device, which is through with it or ``still_runs``."""
        for live in lives:
            live.work.advance(1, cost_rows(live.request, live.trajectory.step - 1, self.cost))
            if live.trajectory.finished:
                self.timetable.end(live.work)
        self.timetable.end_step(still_runs=still_runs)

    def collect(self, results: Sequence[StepResult], began: float, now: float) -> int:
        """Turn the results of a step into events; returns how many requests it ended.

        Requests that have ended meanwhile are passed over.
        """
        num_before = len(self)
        going_on = []
        for result in results:
            live = result.live
            if not self.ledger.holds(live):
                continue
            live.started_at = began if live.started_at is None else live.started_at
            if result.fault is not None:
                self.end(live, Failed(live.request.request_id, result.fault))
            elif result.latents is None:
                going_on.append(result)
            else:
                self._finish(live, result.latents, live.started_at, now)
        for result in going_on:
            self._report_progress(result, now)
        return num_before - len(self)

    def end(self, live: LiveRequest, event: TerminalEvent) -> None:
        self.ledger.end(live, event)
        self.timetable.end(live.work)

    def num_cost_rows(self, chosen: Iterable[LiveRequest]) -> float:
        """The coming step's rows, as plain UNet rows of the same cost."""
        return sum(cost_rows(live.request, live.trajectory.step, self.cost) for live in chosen)

    def uses(self, adapter_id: str) -> bool:
        """Whether a live request has this adapter."""
        return any(adapter_id in live.trajectory.adapters for live in self)

    def _finish(self, live: LiveRequest, latents: Tensor, started_at: float, now: float) -> None:
        request_id, num_steps = live.request.request_id, live.num_steps
        if live.request.progress:
            self.ledger.tell(live, Progressed(request_id, num_steps, num_steps, 0.0))
        queued_s, denoise_s = started_at - live.accepted_at, now - started_at
        self.end(live, Done(request_id, latents, num_steps, queued_s, denoise_s))
        self.timetable.accuracy.observe(live.predicted_s, now - live.accepted_at)

    def _report_progress(self, result: StepResult, now: float) -> None:
        live, request_id, done = result.live, result.live.request.request_id, result.steps_done
        # The last step of a device that runs ahead may be under way already.
        if live.request.progress and not live.trajectory.finished:
            remaining_s = self.timetable.remaining_s(live.work, now)
            self.ledger.tell(live, Progressed(request_id, done, live.num_steps, remaining_s))
        elif live.request.progress:
            self.ledger.tell(live, Progressed(request_id, done, live.num_steps, 0.0))
        if result.preview is not None:
            self.ledger.tell(live, Previewed(request_id, done, result.preview))
