"""One GPU in virtual time: with Limner's engine, or serving one request after the other.

Knows requests and what they cost; nothing of fleets. A replica tells at what time it wants to be woken.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from benchmarks.fleet.assumptions import Gpu
from benchmarks.fleet.traffic import Request
from core.errors import QueueFull
from deployments.engine.scheduler import Run
from deployments.engine.timetable import Timetable
from deployments.engine.work import Work
from deployments.serving.demand import Demand

IDLE = math.inf


class Replica(Protocol):
    """What a fleet asks of a GPU."""

    wake_at: float
    num_ongoing: int

    def submit(self, request: Request, now: float) -> bool:
        """Take a request, which has all its steps or those left of it; False where the queue is full."""

    def wake(self, now: float) -> list[Request]:
        """``wake_at`` has come; returns who is done by now."""

    def demand(self, now: float) -> Demand:
        """What an autoscaling policy is told."""

    def hand_back(self, now: float) -> list[Request]:
        """Stop; returns those who are not done, each with the steps that it still needs."""


class BatchReplica:
    """Limner's engine: the real timetable and cost model decide, and steps take what the model says.

    With ``forecasts`` every request is admitted as the service does it, by playing the scheduler forward,
    and every step is decided for itself. Without, the same scheduler is asked for whole runs, from one
    change of the batch to the next, and nobody is told when a request should be done: that changes no order
    of service where nobody has a deadline and all requests share one batch key, and takes a fraction of the
    time. Decoding takes the device's time after the step with which requests finish.
    """

    def __init__(self, gpu: Gpu, *, forecasts: bool = False) -> None:
        self._gpu, self._forecasts = gpu, forecasts
        self._row_ms = gpu.cost.row_ms(gpu.key, gpu.max_rows)
        self._timetable = Timetable(
            gpu.cost,
            max_rows=gpu.max_rows,
            max_adapters=gpu.max_rows,
            max_queued_requests=gpu.max_queued_requests,
        )
        self._requests: dict[str, Request] = {}
        self._batch: list[Work] = []
        self._num_steps, self._step_s, self._began_at = 0, 0.0, 0.0
        self._decoding: list[Request] = []
        self.wake_at = IDLE
        self.num_ongoing = 0

    def submit(self, request: Request, now: float) -> bool:
        work = request.work(self._gpu, self._row_ms, now)
        if not self._admit(work, now):
            return False
        self._requests[request.request_id] = request
        self.num_ongoing += 1
        if self.wake_at == IDLE:
            self._begin(now)
        elif self._num_steps > 1:
            # The step under way ends, and then the newcomer may join.
            num_done = int((now - self._began_at) / self._step_s) + 1
            if num_done < self._num_steps:
                self._num_steps = num_done
                self.wake_at = self._began_at + num_done * self._step_s
        return True

    def wake(self, now: float) -> list[Request]:
        if self._decoding:
            done, self._decoding = self._decoding, []
            self.num_ongoing -= len(done)
            self._begin(now)
            return done
        done = self._end_run()
        if done and self._gpu.decode_s:
            self._decoding = done
            self.wake_at = now + len(done) * self._gpu.decode_s
            return []
        self.num_ongoing -= len(done)
        self._begin(now)
        return done

    def demand(self, now: float) -> Demand:
        return Demand(self._timetable.work_s, self._timetable.arrivals.load(now))

    def hand_back(self, now: float) -> list[Request]:
        if self._batch:
            self._num_steps = min(int((now - self._began_at) / self._step_s), self._num_steps)
            self._decoding += self._end_run()
        left = self._decoding
        for request in left:
            # Its latents are finished; what a replica of the pipeline then decodes elsewhere is one step.
            request.steps_left = 1
        for request_id, request in self._requests.items():
            request.steps_left = self._timetable.scheduler[request_id].num_steps
            left.append(request)
        self._requests, self._decoding, self._batch = {}, [], []
        self.wake_at, self.num_ongoing = IDLE, 0
        return left

    def _admit(self, work: Work, now: float) -> bool:
        timetable = self._timetable
        if self._forecasts:
            try:
                timetable.admit(work, None, now)
            except QueueFull:
                return False
            return True
        scheduler = timetable.scheduler
        if self.num_ongoing - len(self._batch) >= self._gpu.max_queued_requests and (
            scheduler.num_queued >= self._gpu.max_queued_requests
        ):
            return False
        scheduler.add(work)
        timetable.arrivals.observe(work, now)
        scheduler.expected_load = timetable.arrivals.load(now)
        return True

    def _begin(self, now: float) -> None:
        if self._forecasts:
            self._batch, self._num_steps = self._timetable.begin_step(now), 1
        else:
            run: Run | None = self._timetable.scheduler.next_run(now, until=math.inf)
            self._batch = [] if run is None else run.batch
            self._num_steps = 0 if run is None else run.num_steps
        if not self._batch:
            self.wake_at = IDLE
            return
        rows = sum(work.rows_per_step for work in self._batch)
        self._step_s = self._gpu.cost.step_ms(self._gpu.key, rows) / 1_000
        self._began_at = now
        self.wake_at = now + self._num_steps * self._step_s

    def _end_run(self) -> list[Request]:
        """The run is over, or cut after ``num_steps``; returns whose steps are all done."""
        done = []
        for work in self._batch:
            work.advance(self._num_steps, self._num_steps * work.rows_per_step)
            if not work.num_steps:
                self._timetable.end(work)
                done.append(self._requests.pop(work.request_id))
        self._batch = []
        self._timetable.end_step()
        return done


class SingleReplica:
    """The baseline: first come, first served, one request at a time, on the same GPU with the same bound."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._queue: deque[Request] = deque()
        self.wake_at = IDLE
        self.num_ongoing = 0

    def submit(self, request: Request, now: float) -> bool:
        if len(self._queue) > self._gpu.max_queued_requests:
            return False
        self._queue.append(request)
        self.num_ongoing += 1
        if self.wake_at == IDLE:
            self._begin(now)
        return True

    def wake(self, now: float) -> list[Request]:
        done = self._queue.popleft()
        self.num_ongoing -= 1
        self._begin(now)
        return [done]

    def demand(self, now: float) -> Demand:
        return Demand(sum(request.alone_s for request in self._queue), 0.0)

    def hand_back(self, now: float) -> list[Request]:
        """It has no hand-back: its requests start over."""
        left, self._queue = list(self._queue), deque()
        for request in left:
            request.steps_left = request.num_steps
        self.wake_at, self.num_ongoing = IDLE, 0
        return left

    def _begin(self, now: float) -> None:
        self.wake_at = now + self._queue[0].alone_s if self._queue else IDLE
