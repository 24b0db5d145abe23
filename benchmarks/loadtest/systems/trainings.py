"""A training alongside a point: begun before it, counted in optimizer steps, and ended after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks.loadtest.processes import Process
from benchmarks.loadtest.training_beside import CHANGED, SUBJECT, TRIGGER, photos

# Until the first step: a process starts, imports PyTorch and encodes the photos.
_START_LIMIT_S = 180.0
_MEMBER = {"X-Limner-User": "trainee"}


class Training(Protocol):
    """One training; its steps count from when :meth:`begin` returned, after the first of them."""

    def begin(self) -> None: ...

    def end(self) -> int: ...


class OverHttp:
    """A training that a member asks Limner for."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60, headers=_MEMBER)
        self._job = ""
        self._began_at = 0

    def begin(self) -> None:
        told = {name: str(value) for name, value in CHANGED.items()}
        fields = {**told, "name": "Me", "subject": SUBJECT, "trigger": TRIGGER, "consent": "true"}
        files = [("photos", (f"{number}.png", photo)) for number, photo in enumerate(photos())]
        answer = self._client.post("/v1/adapters", data=fields, files=files)
        self._job = answer.raise_for_status().json()["id"]
        self._began_at = _first(self._steps)

    def end(self) -> int:
        done = self._steps() - self._began_at
        self._client.post(f"/v1/jobs/{self._job}/cancel").raise_for_status()
        while self._told()["status"] in ("queued", "running"):
            time.sleep(0.5)
        return done

    def _steps(self) -> int:
        told = self._told()
        if told["error"] is not None:
            raise RuntimeError(f"the training failed: {told['error']}")
        return int(told["progress"]["step"])

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = self._client.get(f"/v1/jobs/{self._job}").raise_for_status().json()
        return told


class Beside:
    """The same training in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._count, self._log = folder / "training-steps.txt", folder / "training.log"
        self._process: Process | None = None
        self._began_at = 0

    def begin(self) -> None:
        self._count.unlink(missing_ok=True)
        self._process = Process(["benchmarks.loadtest.training_beside", str(self._count)], self._log, {})
        try:
            self._began_at = _first(self._steps)
        except BaseException:
            self._process.stop()
            raise

    def end(self) -> int:
        assert self._process is not None, "it has begun"
        done = self._steps() - self._began_at
        self._process.stop()
        return done

    def _steps(self) -> int:
        return int(self._count.read_text()) if self._count.exists() else 0


def _first(steps: Callable[[], int]) -> int:
    """The number of steps as soon as there is one."""
    limit = time.monotonic() + _START_LIMIT_S
    while not (done := steps()):
        if time.monotonic() > limit:
            raise RuntimeError("the training does not begin")
        time.sleep(0.2)
    return done
