"""Which requests the next step advances. Policy only: no torch, no clock of its own.

Interactive work goes before background work, batch keys take turns, members share by virtual time, and
promised requests come before all of that once they can wait no longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from core.types import Priority
from deployments.engine.fairness import KeyRounds, MemberShares
from deployments.engine.lanes import Lane, Room
from deployments.engine.promises import Plan, Promises, Segment
from deployments.engine.work import BatchKey, StepCost, Work

# Background work that waited this long is treated as interactive.
PROMOTION_S = 60.0
_GUIDED_ROWS = 2
_FOR_EVER = 1_000_000
# Rows are made enough for the expected load to keep the device busy for this part of the time,
_BUSY = 0.9
# and for what waits to be served within this much device time.
_BACKLOG_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Run:
    """``batch`` is served for ``num_steps`` steps, each predicted to take ``step_ms``."""

    batch: list[Work]
    num_steps: int
    step_ms: float


class Scheduler:
    """The queue and the running set, and the order in which they are served.

    Each step serves one batch key. Interactive work goes first and parks background work at a step
    boundary; keys that have work of the class take turns (:class:`KeyRounds`). Running requests of the key
    keep their rows, queued ones join by rank while rows are free: by their member's virtual time plus their
    remaining work, less what they waited. There are as few rows as the load needs, since more rows make
    every step longer, and never more than at the knee of the key's throughput curve. ``expected_load`` is
    the device time of the work that arrives, per time. A step has room for ``max_adapters`` different
    adapters (:class:`Room`).

    A request with ``promised_by`` is served like any other until its promise, or another's, would be broken
    by one step more of this; then :class:`Promises` says who is served.
    """

    def __init__(self, cost: StepCost, max_rows: int, max_adapters: int = 0) -> None:
        assert max_rows >= _GUIDED_ROWS, "a guided request needs two rows"
        self.cost, self.max_rows, self.max_adapters = cost, max_rows, max_adapters
        self.expected_load = 0.0
        self._work: dict[str, Work] = {}
        self._promised: dict[str, Work] = {}
        self._num_of: Counter[str] = Counter()
        self._num_added = 0
        self._members = MemberShares()
        self._rounds = KeyRounds()
        self._shares: dict[BatchKey, float] = {}
        self._interactive: dict[BatchKey, Lane] = {}
        self._background: dict[BatchKey, Lane] = {}
        self._lane_of: dict[str, Lane] = {}
        self._next_promotion = math.inf
        self._promises = Promises(cost, max_rows, max_adapters)

    def __len__(self) -> int:
        return len(self._work)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._work

    def __getitem__(self, request_id: str) -> Work:
        return self._work[request_id]

    def __iter__(self) -> Iterator[Work]:
        return iter(self._work.values())

    @property
    def num_running(self) -> int:
        return sum(work.tag is not None for work in self)

    @property
    def num_queued(self) -> int:
        return len(self) - self.num_running

    def num_rows(self, key: BatchKey) -> int:
        """Up to how many rows requests of this shape may start; those under way keep theirs."""
        lanes = self._interactive or self._background
        waiting_ms = sum(lane.waiting_ms for lane in lanes.values())
        load = self.expected_load / _BUSY + waiting_ms / _BACKLOG_MS
        return max(self.cost.rows_for(key, self.max_rows, load), _GUIDED_ROWS)

    def add(self, work: Work) -> None:
        """Queue ``work``."""
        assert work.request_id not in self._work
        assert len(work.adapters) <= self.max_adapters
        if not self._num_of[work.user_id]:
            self._members.welcome(work.user_id, self._num_of)
        self._num_of[work.user_id] += 1
        self._num_added += 1
        work.number = self._num_added
        self._work[work.request_id] = work
        self._enter_lane(work, background=work.priority is Priority.BACKGROUND)

    def plan_with(self, work: Work, now: float) -> Plan | None:
        """How to keep the promise of ``work`` and all others from ``now`` on; None if it cannot be done."""
        return self._promises.plan_with(self._promised.values(), work, now)

    def promise(self, work: Work, plan: Plan) -> None:
        """Queue ``work``, whose promise is kept by a ``plan`` that :meth:`plan_with` made."""
        assert work.promised_by is not None
        self.add(work)
        self._promised[work.request_id] = work
        self._promises.adopt(plan)

    def remove(self, request_id: str) -> None:
        """Forget a request that ended. What it was charged for and did not use is given back."""
        work = self._work.pop(request_id)
        self._promised.pop(request_id, None)
        self._leave_lane(work)
        self._num_of[work.user_id] -= 1
        if not self._num_of[work.user_id]:
            del self._num_of[work.user_id]
        if work.num_steps:
            self._members.give_back(work)
            for lane in (*self._interactive.values(), *self._background.values()):
                lane.reorder(work.user_id)

    def next_batch(self, now: float) -> list[Work]:
        """The requests of one key to advance by a step; empty when idle. The caller serves that step."""
        run = self.next_run(now, until=now)
        return [] if run is None else run.batch

    def next_run(self, now: float, until: float) -> Run | None:
        """What :meth:`next_batch` returns at ``now``, and for how many steps again if nobody comes or goes.

        At least one step; None when idle. The caller serves the whole run, and whoever comes at ``until``
        is waited for by no more than a step.
        """
        if not self._work:
            return None
        if now >= self._next_promotion:
            self._promote(now)
        lane = self._lane_to_serve()
        batch, started = self._fill(lane.key)
        num_free = _FOR_EVER
        if self._promised:
            peak_ms = self.cost.step_ms(lane.key, sum(work.peak_rows for work in batch))
            num_free = self._promises.num_steps_free(list(self._promised.values()), peak_ms, now)
            if not num_free and (segment := self._promises.next_segment(self._promised)):
                self._undo(started)
                return self._promised_run(segment)
        run = self._run(batch, max(num_free, 1), min(until, self._next_promotion) - now)
        if self._promised:
            self._promises.put_off(run.num_steps, peak_ms)
        return run

    def _run(self, batch: list[Work], max_steps: int, time_s: float) -> Run:
        """Serve ``batch`` until one of them is done, its key's turn is over or ``time_s`` have passed."""
        key, rows = batch[0].key, 0.0
        for work in batch:
            rows += work.row_steps / work.num_steps
            if work.num_steps < max_steps:
                max_steps = work.num_steps
        step_ms = self.cost.step_ms(key, rows)
        time_ms = min(self._rounds.credit_ms(key), time_s * 1_000)
        if time_ms < max_steps * step_ms:
            max_steps = max(math.ceil(time_ms / step_ms), 1)
        self._rounds.charge(key, max_steps * step_ms)
        self._members.observe(batch)
        return Run(batch, max_steps, step_ms)

    def _promised_run(self, segment: Segment) -> Run:
        """One step of the plan. After each of them there may be time again for others."""
        batch = [self._work[request_id] for request_id in segment.ids]
        for work in batch:
            if work.tag is None:
                self._start(work)
        self._promises.followed(others_wait=len(self._promised) < len(self))
        return self._run(batch, 1, 0.0)

    def _lane_to_serve(self) -> Lane:
        lanes = self._interactive or self._background
        if len(lanes) == 1:
            self._rounds.clear()
            return next(iter(lanes.values()))
        return lanes[self._rounds.turn(self._shares or self._count_shares(lanes))]

    def _count_shares(self, lanes: Mapping[BatchKey, Lane]) -> dict[BatchKey, float]:
        """Each key's part of the members; one with requests of several keys counts in parts."""
        num_keys = Counter(user for lane in lanes.values() for user in lane.members)
        self._shares = {
            key: sum(1 / num_keys[user] for user in lane.members) / len(num_keys)
            for key, lane in lanes.items()
        }
        return self._shares

    def _fill(self, key: BatchKey) -> tuple[list[Work], list[Work]]:
        """The batch of the coming step, and those in it that were queued before."""
        num_rows = max(self.cost.knee(key, self.max_rows), _GUIDED_ROWS)
        room = Room(num_rows, self.max_adapters, num_kept=num_rows - self.num_rows(key))
        started: list[Work] = []
        for lanes in (self._interactive, self._background):
            lane = lanes.get(key)
            if lane is not None and not self._fill_from(lane, room, started):
                break
        return room.batch, started

    def _fill_from(self, lane: Lane, room: Room, started: list[Work]) -> bool:
        """Add requests of ``lane`` while rows are free, running first; False when one finds no row."""
        for work in lane.by_rank():
            if work.rows > room.num_free:
                return False
            room.takes(work)
        passed_over: list[Work] = []
        has_rows = True
        while has_rows and (best := lane.best_waiting()) is not None:
            if best.rows > room.num_free - room.num_kept:
                has_rows = False
            elif room.takes(best):
                self._start(best)
                started.append(best)
            else:
                lane.leave_queue(best)
                passed_over.append(best)
        for work in passed_over:
            lane.wait(work)
        return has_rows

    def _start(self, work: Work) -> None:
        lane = self._lane_of[work.request_id]
        lane.leave_queue(work)
        self._members.start(work)
        lane.running.append(work)

    def _undo(self, started: list[Work]) -> None:
        for work in reversed(started):
            lane = self._lane_of[work.request_id]
            lane.running.remove(work)
            self._members.undo_start(work)
            lane.wait(work)

    def _promote(self, now: float) -> None:
        """Move background work that waited for long among the interactive work."""
        for work in list(self):
            lane = self._lane_of[work.request_id]
            if self._background.get(work.key) is lane and now >= work.arrived_at + PROMOTION_S:
                self._leave_lane(work)
                self._enter_lane(work, background=False)
        left = (work for work in self if self._background.get(work.key) is self._lane_of[work.request_id])
        self._next_promotion = min((work.arrived_at + PROMOTION_S for work in left), default=math.inf)

    def _enter_lane(self, work: Work, *, background: bool) -> None:
        lanes = self._background if background else self._interactive
        lane = lanes.get(work.key)
        if lane is None:
            lane = lanes[work.key] = Lane(work.key, self._members.served_ms)
        lane.add(work)
        self._lane_of[work.request_id] = lane
        self._shares.clear()
        if background:
            self._next_promotion = min(self._next_promotion, work.arrived_at + PROMOTION_S)

    def _leave_lane(self, work: Work) -> None:
        lane = self._lane_of.pop(work.request_id)
        lane.remove(work)
        self._shares.clear()
        if not lane.members:
            lanes = self._interactive if self._interactive.get(work.key) is lane else self._background
            del lanes[work.key]

    def copy(self) -> Self:
        """An independent copy, to play the future on."""
        twin = type(self)(self.cost, self.max_rows, self.max_adapters)
        twin.expected_load = self.expected_load
        twin._members, twin._rounds = self._members.copy(), self._rounds.copy()
        twin._num_of, twin._num_added = self._num_of.copy(), self._num_added
        twin._promises = self._promises.copy()
        for request_id, work in self._work.items():
            own = twin._work[request_id] = work.copy()
            background = self._background.get(work.key) is self._lane_of[request_id]
            twin._enter_lane(own, background=background)
            if request_id in self._promised:
                twin._promised[request_id] = own
        return twin
