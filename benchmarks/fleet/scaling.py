"""How many nodes a fleet asks for, every few seconds: Limner's way and that of Ray Serve's default.

Knows what replicas report, averaged over a while as Ray Serve does; no requests and no nodes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.fleet.traffic import DAY_S, HOUR_S
from deployments.serving.demand import Demand, Floor, Goal, bounded, floor_at, replicas_for

# Ray Serve's defaults: how often replicas push what they count, and over what time it is averaged.
PERIOD_S = 10.0
_NUM_AVERAGED = 3


@dataclass(frozen=True, slots=True)
class Report:
    """All replicas of a fleet at one moment."""

    num_ongoing: int
    demand: Demand


class Rule(Protocol):
    """How many replicas there should be; not rounded, without bounds."""

    def __call__(self, reports: Sequence[Report]) -> float: ...


@dataclass(frozen=True, slots=True)
class WorkRule:
    """Limner's: seconds of work that wait and that arrive."""

    goal: Goal

    def __call__(self, reports: Sequence[Report]) -> float:
        work_s = sum(report.demand.work_s for report in reports) / len(reports)
        load = sum(report.demand.load for report in reports) / len(reports)
        return replicas_for(Demand(work_s, load), self.goal)


@dataclass(frozen=True, slots=True)
class CountRule:
    """Ray Serve's default: requests per replica, ``target_ongoing_requests``."""

    target: float = 2.0

    def __call__(self, reports: Sequence[Report]) -> float:
        return sum(report.num_ongoing for report in reports) / len(reports) / self.target


@dataclass(slots=True)
class Delays:
    """A change is made once it was wanted without a break for so long; Ray Serve's defaults.

    As ``_apply_delay_logic`` of Ray Serve 2.60, but for scaling to zero.
    """

    up_s: float = 30.0
    down_s: float = 600.0
    _since: float | None = None
    _rising: bool = False

    def decide(self, wanted: int, current: int, now: float) -> int:
        """What ``current`` becomes at ``now``."""
        if wanted == current:
            self._since = None
            return current
        rising = wanted > current
        if self._since is None or rising is not self._rising:
            self._since, self._rising = now, rising
        if now - self._since + 1e-6 >= (self.up_s if rising else self.down_s):
            self._since = None
            return wanted
        return current


@dataclass(frozen=True, slots=True)
class Gains:
    """Which part of a wanted change is made at a time: ``upscaling_factor`` and ``downscaling_factor``."""

    up: float = 1.0
    down: float = 1.0

    def apply(self, wanted: float, current: int) -> float:
        """As ``_apply_scaling_factors`` of Ray Serve 2.60."""
        change = wanted - current
        damped = math.ceil(current + (self.up if change > 0 else self.down) * change - 1e-9)
        return damped - 1 if math.ceil(wanted - 1e-9) < current == damped else damped


NO_GAINS = Gains()


class Autoscaler:
    """A rule with its gains, its delays, its bounds, and the floors of a schedule."""

    def __init__(
        self,
        rule: Rule,
        delays: Delays,
        *,
        most: int,
        least: int = 1,
        gains: Gains = NO_GAINS,
        floors: Sequence[Floor] = (),
        lead_s: float = 0.0,
    ) -> None:
        self._rule, self._gains, self._delays = rule, gains, delays
        self._least, self._most = least, most
        self._floors, self._lead_s = floors, lead_s
        self._reports: deque[Report] = deque(maxlen=_NUM_AVERAGED)

    def decide(self, report: Report, current: int, now: float) -> int:
        """How many replicas there should be, running and starting ones together."""
        self._reports.append(report)
        least = max(self._least, floor_at(self._floors, now, self._lead_s))
        wanted = bounded(self._gains.apply(self._rule(self._reports), current), self._least, self._most)
        decided = self._delays.decide(wanted, current, now)
        # A floor is a schedule, not a wish: it does not wait.
        return bounded(decided, least, self._most)


def floors_of(expected: Callable[[float], float], full_s: float, utilisation: float) -> list[Floor]:
    """A floor for every quarter of an hour: what the rates known from other days need at ``utilisation``.

    ``full_s`` is the device time of a request in a full batch.
    """
    quarter_s = HOUR_S / 4
    return [
        Floor(
            number * quarter_s,
            bounded(
                max(expected(number * quarter_s), expected((number + 1) * quarter_s)) * full_s / utilisation,
                1,
                1_000_000,
            ),
        )
        for number in range(int(DAY_S / quarter_s))
    ]
