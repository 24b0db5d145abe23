"""What one client alone gets from the one-at-a-time service: the measure of all limits and loads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from statistics import median

from benchmarks.loadtest.client import OK, Outcome, one_by_one, replay
from benchmarks.loadtest.systems.service import Service
from benchmarks.loadtest.workload import in_turn, of_every_kind

# The first requests of a service find cold caches.
_WARM_UP = 6
# No more than the baselines let in.
_TOGETHER = 2


async def standalone(service: Service, mix: str, known: Collection[str], repeats: int) -> dict[str, float]:
    """The median latency of each kind of request of ``mix`` that is not ``known``."""
    wanted = [asked for asked in of_every_kind(mix, repeats) if asked.kind not in known]
    taken: dict[str, list[float]] = defaultdict(list)
    for outcome in _all_ok(await one_by_one(service.url, wanted, service.ask)):
        taken[outcome.asked.kind].append(outcome.latency_s)
    return {kind: round(median(seconds), 4) for kind, seconds in sorted(taken.items())}


async def serial_capacity(service: Service, mix: str, num: int, seed: int) -> float:
    """Requests a second of a client that sends the next one when it has its answer."""
    outcomes = _all_ok(await one_by_one(service.url, in_turn(mix, num, seed), service.ask))
    return round(len(outcomes) / sum(outcome.latency_s for outcome in outcomes), 4)


async def warm_up(service: Service, mix: str) -> None:
    """Requests of the mix from the shortest on, alone and together, so that every network has run."""
    every = sorted(of_every_kind(mix, 1), key=lambda asked: (asked.steps, asked.guidance))
    _all_ok(await one_by_one(service.url, [*every[:_WARM_UP], *every[-_WARM_UP:]], service.ask))
    for asked in every[:_WARM_UP]:
        together = [replace(asked, seed=seed) for seed in range(_TOGETHER)]
        _all_ok(await replay(service.url, together, service.ask))


def _all_ok(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        if outcome.status != OK:
            raise RuntimeError(f"{outcome.asked}: {outcome.status} {outcome.detail}")
    return outcomes
