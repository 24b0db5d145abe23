"""The order of a run: references first, then rounds in which every system gets the same requests.

A round is one mix and one kind of arrivals, at all loads or at one of them. In it the systems run one after
the other, each started afresh; who is first changes from round to round.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.loadtest import adapter_files, alone, measures
from benchmarks.loadtest.book import Book
from benchmarks.loadtest.client import Ask, Message, replay
from benchmarks.loadtest.inputs import Inputs
from benchmarks.loadtest.systems.baselines import PROGRAMS, Baseline
from benchmarks.loadtest.systems.limner import Limner
from benchmarks.loadtest.systems.service import Service
from benchmarks.loadtest.workload import MIXES, Asked

# How Limner is asked: with the deadline that its clients have, or without.
WITH_DEADLINE, PATIENT = "limner", "limner-patient"
SYSTEMS = (*PROGRAMS, WITH_DEADLINE, PATIENT)
_REFERENCE = "one"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``max_inside`` bounds the baselines' queues; ``kernels`` are those of their UNet."""

    mixes: tuple[str, ...]
    arrivals: tuple[str, ...]
    loads: tuple[float, ...]
    systems: tuple[str, ...]
    seconds: float
    seed: int
    kernels: str
    max_inside: int
    restart_per: str
    num_serial: int
    repeats: int

    @property
    def settings(self) -> dict[str, Any]:
        """What all points of a folder have in common."""
        return {
            "seconds": self.seconds,
            "seed": self.seed,
            "kernels": self.kernels,
            "max_inside": self.max_inside,
            "limit": measures.LIMIT,
            "restart_per": self.restart_per,
        }

    def rounds(self) -> Iterator[tuple[str, str, tuple[float, ...]]]:
        """Mix, arrivals and loads of each."""
        for arrivals in self.arrivals:
            for mix in self.mixes:
                if self.restart_per == "mix":
                    yield mix, arrivals, self.loads
                else:
                    yield from ((mix, arrivals, (load,)) for load in self.loads)


class Run:
    """Carries a plan out, writing to ``book`` what it finds."""

    def __init__(self, plan: Plan, book: Book, inputs: Inputs) -> None:
        self._plan, self._book, self._inputs = plan, book, inputs

    def references(self) -> None:
        """Standalone latencies and serial capacities of the mixes that have none yet."""
        for mix in self._plan.mixes:
            if mix in self._book.capacity:
                continue
            # What differs from another mix in cancels and training alone is the same for one client alone.
            with self._running(_REFERENCE, mix, max_inside=0) as service:
                asyncio.run(alone.warm_up(service, mix))
                known, repeats = self._book.alone_s, self._plan.repeats
                self._book.note_alone(asyncio.run(alone.standalone(service, mix, known, repeats)))
                per_s = asyncio.run(
                    alone.serial_capacity(service, mix, self._plan.num_serial, self._plan.seed)
                )
            self._book.note_capacity(mix, per_s)
            say(f"mix {mix}: serial capacity {per_s:.2f} requests a second")

    def rounds(self) -> None:
        for number, (mix, arrivals, loads) in enumerate(self._plan.rounds()):
            for started, asked_as in in_turns(self._plan.systems, number):
                left = [
                    (load, system)
                    for load in loads
                    for system in asked_as
                    if not self._book.has(mix, arrivals, load, system)
                ]
                if not left:
                    continue
                with self._running(started, mix) as service:
                    asyncio.run(alone.warm_up(service, mix))
                    for load, system in left:
                        self._point(service, mix, arrivals, load, system)

    @contextmanager
    def _running(self, started: str, mix: str, max_inside: int | None = None) -> Iterator[Service]:
        began = time.monotonic()
        service = self._start(started, mix, self._plan.max_inside if max_inside is None else max_inside)
        say(f"{started} ready after {time.monotonic() - began:.0f} s")
        try:
            yield service
        finally:
            service.stop()

    def _start(self, started: str, mix: str, max_inside: int) -> Service:
        folder = self._book.folder
        adapters = adapter_files.made(folder / "adapters") if MIXES[mix].adapters else []
        if started == WITH_DEADLINE:
            return Limner(self._inputs, folder, adapters)
        options = ["--max-inside", str(max_inside), "--kernels", self._plan.kernels]
        options += ["--adapters", str((folder / "adapters").absolute())] if adapters else []
        return Baseline(started, self._inputs, folder, options)

    def _point(self, service: Service, mix: str, arrivals: str, load: float, system: str) -> None:
        from benchmarks.loadtest.probe import matmul_ms

        plan, alone_s = self._plan, self._book.alone_s
        asked = self._book.workload(mix, arrivals, load, plan.seconds, plan.seed)
        ask = with_deadlines(service.ask, alone_s) if system == WITH_DEADLINE else service.ask
        probe_ms = matmul_ms()
        if MIXES[mix].training:
            service.training.begin()
        before, cpu_before, began = service.counters(), service.cpu_s(), time.monotonic()
        outcomes = asyncio.run(replay(service.url, asked, ask, alone_s))
        wall_s, cpu_s = time.monotonic() - began, service.cpu_s() - cpu_before
        trained = service.training.end() if MIXES[mix].training else None
        after = service.counters()
        found = measures.summary(outcomes, alone_s, plan.seconds)
        counted = {name: after[name] - before[name] for name in ("steps", "row_steps", "busy_s")}
        self._book.note(
            {
                "mix": mix,
                "arrivals": arrivals,
                "load": load,
                "system": system,
                "rate_per_s": round(load * self._book.capacity[mix], 4),
                **found,
                **measures.cost(counted, found["done"], None if trained is not None else cpu_s),
                "training_steps": trained,
                "wall_s": round(wall_s, 2),
                "probe_ms": probe_ms,
                "at": round(time.time()),
            },
            outcomes,
        )
        say(
            f"{mix} {arrivals} load {load} {system}: {found['good']} of {found['offered']} in time, "
            f"p95 {found['latency_s_p95']} s, {found['refused']} refused, "
            f"{found['expired']} expired, {found['failed']} failed, "
            f"probe {probe_ms} ms"
        )


def in_turns(systems: Sequence[str], number: int) -> list[tuple[str, list[str]]]:
    """What to start, and as which systems to ask it; in round ``number`` another one is first."""
    programs: dict[str, list[str]] = {}
    for system in systems:
        programs.setdefault(WITH_DEADLINE if system == PATIENT else system, []).append(system)
    order = list(programs.items())
    first = number % len(order)
    return order[first:] + order[:first]


def with_deadlines(ask: Ask, alone_s: dict[str, float]) -> Callable[[Asked], Message]:
    """Requests that say how long their client will wait, which is Limner's to use."""

    def asking(asked: Asked) -> Message:
        message = ask(asked)
        deadline_s = round(measures.LIMIT * alone_s[asked.kind], 3)
        return replace(message, body={**message.body, "deadline_s": deadline_s})

    return asking


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)
