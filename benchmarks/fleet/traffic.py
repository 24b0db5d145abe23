"""Who asks for what, and when: Poisson arrivals along a day. Knows members and requests, not GPUs' queues."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from benchmarks.fleet.assumptions import Gpu, load
from core.types import Priority
from deployments.engine.work import Work

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
Rate = Callable[[float], float]


@dataclass(slots=True, eq=False)
class Request:
    """One picture that a member asks for. ``alone_s`` is what it takes on an idle GPU.

    ``steps_left`` is less than ``num_steps`` after a hand-back.
    """

    request_id: str
    user_id: str
    at: float
    num_steps: int
    rows: int
    cost_rows: float
    alone_s: float
    adapters: frozenset[str]
    steps_left: int
    num_losses: int = 0

    def work(self, gpu: Gpu, row_ms: float, now: float) -> Work:
        """What the policy knows of it, from the step that it has reached on."""
        return Work(
            self.request_id,
            self.user_id,
            gpu.key,
            Priority.INTERACTIVE,
            self.rows,
            self.steps_left,
            self.steps_left * self.cost_rows,
            row_ms,
            now,
            self.adapters,
            peak_rows=self.cost_rows,
        )


@dataclass(frozen=True, slots=True)
class Day:
    """Relative rates at the full hours, and one event that nobody announced. ``mean`` requests a second."""

    mean: float
    hours: Sequence[float]
    flash_at_s: float = math.inf
    flash_s: float = 0.0
    flash_factor: float = 1.0

    def expected(self, at: float) -> float:
        """Requests a second, as known from other days."""
        hour = at / HOUR_S
        before = int(hour)
        low, high = (self.hours[each % len(self.hours)] for each in (before, before + 1))
        return self.mean * (low + (high - low) * (hour - before)) * len(self.hours) / sum(self.hours)

    def __call__(self, at: float) -> float:
        """Requests a second that really come."""
        flashes = self.flash_at_s <= at < self.flash_at_s + self.flash_s
        return self.expected(at) * (self.flash_factor if flashes else 1.0)


class Mix:
    """Draws requests: pipelines, steps, guidance and adapters by their shares."""

    def __init__(self, gpu: Gpu, seed: int, data: dict[str, Any] | None = None) -> None:
        data = load() if data is None else data
        asked = data["requests"]
        self._gpu, self._draw = gpu, random.Random(seed)
        pipelines = data["pipelines"].values()
        self._shares = list(accumulate(each["share"] for each in pipelines))
        self._factors = [each["step_factor"] for each in pipelines]
        self._num_steps, self._guidance = asked["num_steps"], asked["guidance"]
        self._adapted, self._num_adapters, self._zipf = asked["adapted"], asked["num_adapters"], asked["zipf"]
        self._num_members = data["day"]["members"]
        self._alone_s: dict[tuple[int, float], float] = {}

    def arrivals(self, rate: Rate, since: float, until: float) -> Iterator[Request]:
        """Poisson, at a rate that changes little between two arrivals; from ``since`` to ``until``."""
        at, number = since, 0
        while (at := at + self._draw.expovariate(rate(at))) < until:
            number += 1
            yield self.request(f"r{number}", at)

    def request(self, request_id: str, at: float) -> Request:
        draw = self._draw
        mark, index = draw.random(), 0
        while mark > self._shares[index] and index + 1 < len(self._shares):
            index += 1
        asked = self._num_steps[int(draw.random() * len(self._num_steps))]
        num_steps = max(round(asked * self._factors[index]), 1)
        rows = 1 if self._guidance[int(draw.random() * len(self._guidance))] <= 1 else 2
        adapters = frozenset([f"a{self._rank()}"]) if draw.random() < self._adapted else frozenset()
        cost_rows = self._gpu.cost.rows(rows, None, adapted=bool(adapters))
        alone_s = self._alone_s.get((num_steps, cost_rows))
        if alone_s is None:
            alone_s = self._alone_s[num_steps, cost_rows] = self._gpu.alone_s(num_steps, cost_rows)
        member = int(draw.random() * self._num_members)
        return Request(
            request_id, f"m{member}", at, num_steps, rows, cost_rows, alone_s, adapters, steps_left=num_steps
        )

    def _rank(self) -> int:
        """A rank by Zipf's law, by inverting its integral."""
        power = 1 - self._zipf
        return int(((self._num_adapters**power - 1) * self._draw.random() + 1) ** (1 / power))


def mean_full_s(gpu: Gpu, seed: int = 0) -> float:
    """Device time of the mean request in a full batch: what a GPU can do in the best case."""
    mix = Mix(gpu, seed)
    drawn = [mix.request("", 0.0) for _ in range(20_000)]
    return sum(gpu.full_s(each.num_steps * each.cost_rows) for each in drawn) / len(drawn)


def mean_alone_s(gpu: Gpu, seed: int = 0) -> float:
    """Device time of the mean request that is served alone."""
    mix = Mix(gpu, seed)
    return sum(mix.request("", 0.0).alone_s for _ in range(20_000)) / 20_000


def day(scale: float = 1.0, pictures_per_member: float | None = None, *, flash: bool = True) -> Day:
    """The day of all members, or of a part of them."""
    data = load()["day"]
    per_member = data["pictures_per_member"] if pictures_per_member is None else pictures_per_member
    mean = data["members"] * per_member * scale / DAY_S
    if not flash:
        return Day(mean, data["hours"])
    return Day(mean, data["hours"], data["flash_at_h"] * HOUR_S, data["flash_s"], data["flash_factor"])
