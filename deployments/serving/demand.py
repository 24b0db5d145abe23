"""How many replicas the work needs: arithmetic alone, for Ray Serve's policy and for simulations.

Knows seconds of work and times of day; nothing of Ray, replicas and clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What all replicas together have to do.

    ``work_s`` is the device time of the requests that wait or run, ``load`` the device time that arrives per
    second, both as in a full batch.
    """

    work_s: float
    load: float


@dataclass(frozen=True, slots=True)
class Goal:
    """Keep replicas busy for ``utilisation`` of the time, and be through with a backlog in ``horizon_s``."""

    utilisation: float = 0.6
    horizon_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1 or self.horizon_s <= 0:
            raise ValueError("utilisation must be above 0 and at most 1, horizon_s above 0")


@dataclass(frozen=True, slots=True)
class Floor:
    """From ``at_s`` of the day on, at least ``num_replicas``, until the next floor."""

    at_s: float
    num_replicas: int


def replicas_for(demand: Demand, goal: Goal) -> float:
    """Replicas that do, within the goal's horizon, what waits and what arrives meanwhile; not rounded.

    Seconds of work count, not requests: eight steps without guidance are a seventh of thirty with it. What
    arrives keeps the answer steady, what waits lets it rise before anybody waits for long.
    """
    return (demand.work_s / goal.horizon_s + demand.load) / goal.utilisation


def floor_at(floors: Sequence[Floor], time_of_day_s: float, lead_s: float) -> int:
    """The highest floor from now until ``lead_s`` later, so that replicas are warm when theirs begins.

    The floors repeat every day.
    """
    if not floors:
        return 0
    ordered = sorted(floors, key=lambda floor: floor.at_s)
    now = time_of_day_s % DAY_S
    # Before the first of the day the last of the day before is in force.
    current = [ordered[-1], *(each for each in ordered if each.at_s <= now)][-1]
    coming = (each for each in ordered if (each.at_s - now) % DAY_S <= lead_s)
    return max([current.num_replicas, *(each.num_replicas for each in coming)])


def bounded(num_replicas: float, least: int, most: int) -> int:
    """Rounded up, and within bounds."""
    return min(max(math.ceil(num_replicas - 1e-9), least), most)
