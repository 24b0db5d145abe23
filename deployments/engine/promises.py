"""Requests with a promised finish, and the plan that keeps every promise whatever else arrives.

The plan serves promised requests alone. It may be put off for as long as it still meets all deadlines
when it is begun, and whoever is served meanwhile is the scheduler's choice. Whoever arrives later is not
in it, and who leaves only makes it shorter. Knows no queue and no classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from deployments.engine.work import StepCost, Work

# This part of the device may be promised; the rest is for those without a promise, and for steps that
# take longer than predicted.
PROMISABLE = 0.9
_ROUNDING_S = 1e-7


@dataclass(slots=True)
class Segment:
    """``num_steps`` steps of ``step_ms`` at most, each serving the requests of ``ids``."""

    ids: tuple[str, ...]
    num_steps: int
    step_ms: float


@dataclass(slots=True)
class Plan:
    """Segments to serve in turn; when begun by clock time ``latest_start``, no promise is broken."""

    segments: list[Segment]
    latest_start: float = math.inf

    def copy(self) -> Plan:
        segments = [Segment(each.ids, each.num_steps, each.step_ms) for each in self.segments]
        return Plan(segments, self.latest_start)


class Promises:
    """The promised requests of an engine and a plan that keeps all promises.

    The plan is proven when it is made and stays so: other steps are let in front of it while its start can
    be put off, and following it for a step moves its latest start by more than the step takes. That gain is
    owed to requests without a promise, so none of them starves, and no later promise may use it.
    """

    def __init__(self, cost: StepCost, max_rows: int, max_adapters: int) -> None:
        self._cost, self._max_rows, self._max_adapters = cost, max_rows, max_adapters
        self._plan = Plan([])
        self._owed_s = 0.0

    def plan_with(self, works: Iterable[Work], newcomer: Work, now: float) -> Plan | None:
        """A plan to begin ``now`` that keeps the promises of ``works`` and ``newcomer``, if one is found."""
        # A promise whose time has passed is broken already, and binds nobody any more.
        own = [work for work in works if work.promised_by is not None and work.promised_by > now]
        candidates = [*self._plans([*own, newcomer]), self._appended(own, newcomer)]
        best = max(candidates, key=lambda plan: plan.latest_start)
        owed_s = self._owed_s if own else 0.0
        return best if now + owed_s <= best.latest_start + _ROUNDING_S else None

    def adopt(self, plan: Plan) -> None:
        self._plan = plan

    def num_steps_free(self, works: Sequence[Work], step_ms: float, now: float) -> int:
        """How many steps of ``step_ms`` there is time for before the plan has to be followed."""
        room_s = self._plan.latest_start - now + _ROUNDING_S
        if room_s * 1_000 < step_ms:
            # Promised requests were served in other steps, too, so a new plan may leave more room.
            self._adopt_better(max(self._plans(works), key=lambda plan: plan.latest_start))
            room_s = self._plan.latest_start - now + _ROUNDING_S
        return int(min(max(room_s * 1_000 / step_ms, 0.0), 1e9))

    def next_segment(self, works: Mapping[str, Work]) -> Segment | None:
        """What the plan serves next; None when everybody in it has ended."""
        segments = self._plan.segments
        while segments:
            first = segments[0]
            ids = tuple(each for each in first.ids if each in works and works[each].num_steps)
            if ids and first.num_steps:
                return Segment(ids, first.num_steps, first.step_ms)
            self._plan.latest_start += first.num_steps * first.step_ms / 1_000 / PROMISABLE
            del segments[0]
        self._plan.latest_start = math.inf
        return None

    def followed(self, *, others_wait: bool) -> None:
        """The next segment is served for a step; ``others_wait`` who have no promise."""
        first = self._plan.segments[0]
        first.num_steps -= 1
        took_s = first.step_ms / 1_000
        self._plan.latest_start += took_s / PROMISABLE
        self._owed_s = self._owed_s + took_s * (1 / PROMISABLE - 1) if others_wait else 0.0

    def put_off(self, num_steps: int, step_ms: float) -> None:
        """Steps of the scheduler's own choice were served."""
        self._owed_s = max(self._owed_s - num_steps * step_ms / 1_000, 0.0)

    def copy(self) -> Self:
        twin = type(self)(self._cost, self._max_rows, self._max_adapters)
        twin._plan, twin._owed_s = self._plan.copy(), self._owed_s
        return twin

    def _adopt_better(self, plan: Plan) -> None:
        if plan.latest_start > self._plan.latest_start:
            self._plan = plan

    def _plans(self, works: Sequence[Work]) -> list[Plan]:
        by_deadline = sorted(works, key=lambda work: work.promised_by or 0.0)
        return [self._plan_of(by_deadline, shared) for shared in (True, False)]

    def _plan_of(self, works: Sequence[Work], shared: bool) -> Plan:
        """Serve ``works`` in turn, each alone, or ``shared`` with those of its key that find room."""
        plan, ms = Plan([]), 0.0
        left = {work.request_id: work.num_steps for work in works}
        pending = list(works)
        while pending:
            batch = self._batch(pending) if shared else pending[:1]
            num_steps = min(left[work.request_id] for work in batch)
            step_ms = self._cost.step_ms(batch[0].key, sum(work.peak_rows for work in batch))
            ms += num_steps * step_ms
            plan.segments.append(Segment(tuple(work.request_id for work in batch), num_steps, step_ms))
            for work in batch:
                left[work.request_id] -= num_steps
                if not left[work.request_id]:
                    plan.latest_start = min(plan.latest_start, _latest_start(work, ms))
            pending = [work for work in pending if left[work.request_id]]
        return plan

    def _appended(self, works: Sequence[Work], newcomer: Work) -> Plan:
        """The present plan, and ``newcomer`` alone at its end."""
        plan = self._plan.copy() if works else Plan([])
        step_ms = self._cost.step_ms(newcomer.key, newcomer.peak_rows)
        plan.segments.append(Segment((newcomer.request_id,), newcomer.num_steps, step_ms))
        ms = sum(each.num_steps * each.step_ms for each in plan.segments)
        plan.latest_start = min(plan.latest_start, _latest_start(newcomer, ms))
        return plan

    def _batch(self, pending: Sequence[Work]) -> list[Work]:
        key, adapters = pending[0].key, set(pending[0].adapters)
        num_free, batch = self._cost.knee(key, self._max_rows) - pending[0].rows, [pending[0]]
        for work in pending[1:]:
            if work.key != key or work.rows > num_free:
                continue
            if len(adapters | work.adapters) <= self._max_adapters:
                adapters |= work.adapters
                num_free -= work.rows
                batch.append(work)
        return batch


def _latest_start(work: Work, ms: float) -> float:
    """When a plan has to begin that is done with ``work`` after ``ms``."""
    assert work.promised_by is not None
    return work.promised_by - ms / 1_000 / PROMISABLE
