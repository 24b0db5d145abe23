"""One engine in virtual time: the real timetable and cost model, and steps that take what the model says.

Knows no tensors, so it is a thousand times faster than an engine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.errors import LimnerError
from core.types import Priority
from deployments.engine.cost import CostModel
from deployments.engine.timetable import Timetable
from deployments.engine.work import BatchKey, Work

KEY = BatchKey(4, 32, 32, 77, 192)
# Milliseconds by rows: the embedded model on two CPU cores, and a GPU's curve, which is flat at first.
TWO_CORES = {1: 30.0, 2: 45.0, 4: 77.0, 8: 137.0, 16: 260.0}
GPU = {1: 20.0, 2: 20.5, 4: 22.0, 8: 26.0, 16: 42.0, 32: 80.0}


@dataclass(frozen=True, slots=True)
class Arrival:
    """``work`` comes at its ``arrived_at`` and has to be done ``deadline_s`` later, or whenever."""

    work: Work
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's end. Clock times; ``predicted_s`` counts from its arrival."""

    arrival: Arrival
    predicted_s: float
    finished_at: float

    @property
    def latency_s(self) -> float:
        return self.finished_at - self.arrival.work.arrived_at

    @property
    def error(self) -> float:
        """Relative error of the predicted latency."""
        return abs(self.predicted_s - self.latency_s) / self.latency_s


def cost_of(step_ms: dict[int, float], key: BatchKey = KEY) -> CostModel:
    cost = CostModel()
    for rows, ms in step_ms.items():
        cost.calibrate(key, rows, ms)
    return cost


class VirtualEngine:
    """Serves arrivals until told to stop; ``now`` is its clock."""

    def __init__(
        self, cost: CostModel, *, max_rows: int, max_adapters: int = 0, max_queued_requests: int = 10_000
    ) -> None:
        self.cost, self.now = cost, 0.0
        self.timetable = Timetable(
            cost, max_rows=max_rows, max_adapters=max_adapters, max_queued_requests=max_queued_requests
        )
        self.outcomes: list[Outcome] = []
        self.refusals: list[tuple[Arrival, LimnerError]] = []
        self._accepted: dict[str, tuple[Arrival, float]] = {}
        self._batch: list[Work] = []
        self._step_ends_at = 0.0

    def submit(self, arrival: Arrival) -> bool:
        """Ask for ``arrival`` now; False where it is refused."""
        work = arrival.work
        try:
            predicted_s = self.timetable.admit(work, arrival.deadline_s, self.now)
        except LimnerError as error:
            self.refusals.append((arrival, error))
            return False
        self._accepted[work.request_id] = (arrival, predicted_s)
        return True

    def has(self, request_id: str) -> bool:
        """Whether a request was accepted and has not ended."""
        return request_id in self._accepted

    def cancel(self, request_id: str) -> None:
        """End a request; a step that is under way counts for the others in it."""
        if request_id in self._accepted:
            work = self._accepted.pop(request_id)[0].work
            self._batch = [each for each in self._batch if each is not work]
            self.timetable.end(work)

    def serve(self, until: float) -> None:
        """Let time pass until ``until``; a step may be under way then."""
        while True:
            if self._step_ends_at <= self.now:
                self._begin_step()
            if self._step_ends_at <= self.now or self._step_ends_at > until:
                self.now = max(self.now, until) if until < float("inf") else self.now
                return
            self.now = self._step_ends_at
            self._end_step()

    def run(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Serve all of ``arrivals``, which come at their time; returns the outcomes of those accepted."""
        for arrival in arrivals:
            self.serve(arrival.work.arrived_at)
            self.submit(arrival)
        self.serve(float("inf"))
        return self.outcomes

    def _begin_step(self) -> None:
        self._batch = self.timetable.begin_step(self.now)
        if self._batch:
            rows = sum(work.rows_per_step for work in self._batch)
            self._step_ends_at = self.now + self.cost.step_ms(self._batch[0].key, rows) / 1_000

    def _end_step(self) -> None:
        for work in self._batch:
            work.advance(1, work.rows_per_step)
            if not work.num_steps:
                arrival, predicted_s = self._accepted.pop(work.request_id)
                self.timetable.end(work)
                self.timetable.accuracy.observe(predicted_s, self.now - work.arrived_at)
                self.outcomes.append(Outcome(arrival, predicted_s, self.now))
        self._batch = []
        self.timetable.end_step()


def mixed_load(
    cost: CostModel,
    *,
    max_rows: int,
    load: float,
    num_requests: int,
    seed: int,
    burst: int = 1,
    num_members: int = 50,
    key: BatchKey = KEY,
) -> Iterator[Arrival]:
    """Pictures of 8, 20 or 30 steps with guidance 1, 5 or 7.5, at ``load`` times what is served one by one.

    Poisson arrivals of ``burst`` requests each, the requests of a burst close together.
    """
    rng, now = random.Random(seed), 0.0
    row_ms = cost.row_ms(key, max_rows)
    mean_s = 58 / 3 * (cost.step_ms(key, 1) + 2 * cost.step_ms(key, 2)) / 3 / 1_000
    for index in range(num_requests):
        share = burst if index % burst == 0 else 0.05
        now += rng.expovariate(1 / (share * mean_s / load))
        num_steps, rows = rng.choice((8, 20, 30)), rng.choice((1, 2, 2))
        user_id = f"m{rng.randrange(num_members)}"
        yield Arrival(
            Work(
                f"r{index}",
                user_id,
                key,
                Priority.INTERACTIVE,
                rows,
                num_steps,
                num_steps * rows,
                row_ms,
                now,
            )
        )
