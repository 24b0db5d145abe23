"""The image in a container of Docker or Podman, with as few rights as Kubernetes gives it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from serve_app.cli import free_ports

IMAGE = "limner:local"
START_LIMIT_S = 300
# What `docker stop` leaves a container, unless told otherwise.
GRACE_S = 10
_RIGHTS = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def engine() -> str | None:
    """Docker or Podman, whichever is there and has the image."""
    for name in ("docker", "podman"):
        if shutil.which(name) and _done([name, "image", "inspect", IMAGE]).returncode == 0:
            return name
    return None


def _done(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Container:
    """A running container, and how long after its start the service was ready."""

    engine: str
    name: str
    url: str
    ready_after_s: float

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as the image's user."""
        return _done([self.engine, "exec", self.name, *command])

    def output(self, *command: str) -> str:
        """What a command inside prints, which must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def inspected(self) -> dict[str, Any]:
        """What the engine knows of it."""
        (found,) = json.loads(_done([self.engine, "inspect", self.name]).stdout)
        return dict(found)

    def stop(self) -> float:
        """SIGTERM, and SIGKILL after the grace time. Returns how long it took, in seconds."""
        began = time.monotonic()
        done = _done([self.engine, "stop", "--time", str(GRACE_S), self.name])
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began


@contextmanager
def running(engine: str) -> Iterator[Container]:
    """The image without arguments, its port published on loopback, with a volume of its own for data."""
    (port,) = free_ports(1)
    name = f"limner-test-{port}"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # An engine that may not raise limits itself would refuse to start anything without these.
    limits = ("--ulimit", f"nofile={most}:{most}", "--ulimit", "nproc=16384:16384")
    places = ("--publish", f"127.0.0.1:{port}:8000", "--volume", f"{name}:/data")
    began = time.monotonic()
    started = _done([engine, "run", "--detach", "--name", name, *_RIGHTS, *limits, *places, IMAGE])
    try:
        assert started.returncode == 0, started.stderr
        url = f"http://127.0.0.1:{port}"
        _await_ready(engine, name, url)
        yield Container(engine, name, url, time.monotonic() - began)
    finally:
        _done([engine, "rm", "--force", name])
        _done([engine, "volume", "rm", name])


def _await_ready(engine: str, name: str, url: str) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while True:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        logs = _done([engine, "logs", name])
        state = _done([engine, "inspect", "--format", "{{.State.Status}}", name]).stdout.strip()
        assert state == "running", logs.stdout + logs.stderr
        assert time.monotonic() < limit, logs.stdout + logs.stderr
        time.sleep(0.2)
