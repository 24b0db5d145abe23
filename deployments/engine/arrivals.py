"""What is likely to arrive: how much of late, of what kind. Knows no order of service; no torch, no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from core.types import Priority
from deployments.engine.work import Work

# Arrivals count for a minute or so; the first ones, where asked, for ten seconds.
_DECAY_S = 60.0
_STEADY_S = 10.0
_NUM_EXAMPLES = 64
_FEW = 5
# Of so many moments that were like this one in so many gaps before them, so many gaps after them.
_NEAREST, _CONTEXT, _HORIZON = 8, 3, 4
_LEAST_S = 0.01
# Those after these make no measurable difference to what is told.
_MAX_EXPECTED = 16


class Rate:
    """An amount per second, as a decayed average; what was counted before the first second counts for one."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._first_at: float | None = None
        self._last_at = 0.0

    def count(self, amount: float, now: float) -> None:
        if self._first_at is None:
            self._first_at = self._last_at = now
        self._sum = self._sum * self._decay(now) + amount
        self._last_at = now

    def per_s(self, now: float, least_span_s: float = 1.0) -> float:
        if self._first_at is None:
            return 0.0
        span_s = max(_DECAY_S * (1 - math.exp(-(now - self._first_at) / _DECAY_S)), least_span_s)
        return self._sum * self._decay(now) / span_s

    def _decay(self, now: float) -> float:
        return math.exp(-(now - self._last_at) / _DECAY_S)


class Arrivals:
    """The requests of late, as examples of those to come."""

    def __init__(self) -> None:
        self._load = {priority: Rate() for priority in Priority}
        self._number = Rate()
        self._examples: deque[Work] = deque(maxlen=_NUM_EXAMPLES)

    def observe(self, work: Work, now: float) -> None:
        """``work``, which has not begun, arrives."""
        self._load[work.priority].count(work.remaining_ms / 1_000, now)
        self._number.count(1, now)
        self._examples.append(work.copy())

    def load(self, now: float, priority: Priority | None = None) -> float:
        """Seconds of device time that arrive per second, of one class or both."""
        rates = self._load.values() if priority is None else [self._load[priority]]
        return sum(rate.per_s(now) for rate in rates)

    def steady_load(self, now: float) -> float:
        """The same where a first burst is no rate, but counts for ten seconds.

        Who counts the work that waits as well would count the burst twice.
        """
        return sum(rate.per_s(now, _STEADY_S) for rate in self._load.values())

    def expected(self, now: float) -> Iterator[Work]:
        """The requests to come, soonest first: those of late once more, evenly spaced.

        Nothing while too few have come to tell.
        """
        per_s = self._number.per_s(now)
        if len(self._examples) < _FEW or not per_s:
            return
        at = now
        for index, gap_s in enumerate(self._gaps(now, 1 / per_s)):
            at += gap_s
            work = self._examples[index % len(self._examples)].copy()
            work.request_id = work.user_id = f"expected {index}"
            work.arrived_at = at
            yield work

    def _gaps(self, now: float, mean_s: float) -> list[float]:
        """Seconds from one to the next of those expected after an arrival ``now``.

        What followed, on average, the moments of late whose gaps before them are most like the present
        ones: even where arrivals are independent, and bursts go on and end where they come in bursts.
        """
        times = [work.arrived_at for work in self._examples]
        gaps = [math.log(max(later - each, _LEAST_S)) for each, later in pairwise([*times, now])]
        present, past = gaps[-_CONTEXT:], gaps[:-1]
        starts = range(_CONTEXT, len(past))
        likeness = sorted(
            (sum((a - b) ** 2 for a, b in zip(present, past[i - _CONTEXT : i], strict=True)), i)
            for i in starts
        )[:_NEAREST]
        found = []
        for ahead in range(_MAX_EXPECTED):
            after = [math.exp(past[i + ahead]) for _, i in likeness if i + ahead < len(past)]
            if ahead >= _HORIZON or len(after) < _NEAREST // 2:
                found.append(mean_s)
            else:
                found.append(sum(after) / len(after))
        return found
