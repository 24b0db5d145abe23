"""A service in a process of its own: started, watched, and ended by its pid. Knows no HTTP beyond ports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 240.0
STOP_LIMIT_S = 90.0


class Process:
    """One Python program and all that it starts; its output goes to ``log``."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={
                    # Each system has a token of its own.
                    **{name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
                    "RAY_USAGE_STATS_ENABLED": "0",
                    **environment,
                },
            )

    def wait_for(self, words: str) -> None:
        """Until the log says so."""
        limit = time.monotonic() + START_LIMIT_S
        while words not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"{self._log}:\n{self._log.read_text(errors='replace')[-3_000:]}")
            time.sleep(0.2)

    def cpu_s(self) -> float:
        """Processor seconds of the whole tree, of those alive and of those that they have waited for."""
        root = psutil.Process(self._process.pid)
        total = 0.0
        for each in (root, *root.children(recursive=True)):
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def stop(self) -> None:
        """What does not end by itself is killed, each by its own pid."""
        if self._process.poll() is None:
            tree = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for left in psutil.wait_procs(tree, timeout=10)[1]:
                left.kill()
