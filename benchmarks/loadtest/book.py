"""What a run has measured so far, in a folder: settings, standalone latencies, capacities, points.

A point is written when it is done, so a run that was cut goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.loadtest import workload
from benchmarks.loadtest.client import Outcome
from benchmarks.loadtest.workload import Asked

Point = dict[str, Any]
KEY = ("mix", "arrivals", "load", "system")


class Book:
    """The files of one run. ``settings`` are what all its points have in common."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        kept = self._read("settings.json")
        if kept is not None and kept != settings:
            raise ValueError(f"{folder} was begun with {kept}; choose another folder with --out")
        self._write("settings.json", settings)
        self.alone_s: dict[str, float] = self._read("alone.json") or {}
        self.capacity: dict[str, float] = self._read("capacity.json") or {}
        self.points: list[Point] = self._lines("points.jsonl")

    def note_alone(self, found: Mapping[str, float]) -> None:
        """Standalone latencies by kind of request."""
        self.alone_s |= found
        self._write("alone.json", self.alone_s)

    def note_capacity(self, mix: str, per_s: float) -> None:
        self.capacity[mix] = per_s
        self._write("capacity.json", self.capacity)

    def has(self, mix: str, arrivals: str, load: float, system: str) -> bool:
        wanted = (mix, arrivals, load, system)
        return any(tuple(point[name] for name in KEY) == wanted for point in self.points)

    def note(self, point: Point, outcomes: Sequence[Outcome]) -> None:
        """A point, and what became of every request of it."""
        name = "-".join(str(point[each]) for each in KEY)
        with (self.folder / f"outcomes-{name}.jsonl").open("w") as out:
            for outcome in outcomes:
                out.write(json.dumps(asdict(outcome)) + "\n")
        with (self.folder / "points.jsonl").open("a") as out:
            out.write(json.dumps(point) + "\n")
        self.points.append(point)

    def outcomes(self, point: Point) -> list[Outcome]:
        """What became of the requests of a point."""
        name = "-".join(str(point[each]) for each in KEY)
        told = self._lines(f"outcomes-{name}.jsonl")
        return [Outcome(**{**each, "asked": Asked(**each["asked"])}) for each in told]

    def workload(self, mix: str, arrivals: str, load: float, duration_s: float, seed: int) -> list[Asked]:
        """The requests of a point: from their file, which is written once for all systems."""
        path = self.folder / f"workload-{mix}-{arrivals}-{load}.jsonl"
        if not path.exists():
            rate = load * self.capacity[mix]
            workload.write(path, workload.scheduled(mix, arrivals, rate, duration_s, seed))
        return workload.read(path)

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _write(self, name: str, told: Any) -> None:
        (self.folder / name).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
