"""One service for the whole folder, started the way people start it, beside another Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serve_app.cli import free_ports
from serve_app.ray_token import authorization
from tests.readme import ROOT

START_LIMIT_S = 240

OTHER_CLUSTER = """
import ray, sys
ray.init(address='local', num_cpus=1, include_dashboard=False)
print('up', flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Service:
    """A running ``limner serve``."""

    url: str
    dashboard_url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def blobs(self) -> Path:
        """Where it keeps photos and adapters."""
        return self.log.parent / "data" / "blobs"

    @property
    def token(self) -> Path:
        """The file with what Ray's dashboard asks for."""
        return self.log.parent / "data" / "ray-token"

    def dashboard(self) -> httpx.Client:
        """Ray's dashboard as it is to those who know the token."""
        return httpx.Client(base_url=self.dashboard_url, headers=authorization(self.token), timeout=30)


def environment(**extra: str) -> dict[str, str]:
    """That of these tests, without what they say of Ray's token: the service brings its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", **extra}


@pytest.fixture(scope="session")
def other_cluster() -> Iterator[subprocess.Popen[str]]:
    """A Ray cluster that was there before and must not be disturbed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(RAY_AUTH_MODE="disabled"),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.stdin.close()
    process.wait(60)


def started(log: Path, port: int, dashboard_port: int, *arguments: str) -> subprocess.Popen[str]:
    """Start ``limner serve`` and return when it says that it is ready. Its data lies beside ``log``."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app.cli", "serve", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment(
                LIMNER_PORT=str(port),
                LIMNER_DASHBOARD_PORT=str(dashboard_port),
                LIMNER_DATA=str(log.parent / "data"),
            ),
        )
    limit = time.monotonic() + START_LIMIT_S
    while "Ctrl-C" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.2)
    return process


@pytest.fixture(scope="session")
def service(
    other_cluster: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    port, dashboard_port = free_ports(2)
    log = tmp_path_factory.mktemp("service") / "log"
    process = started(log, port, dashboard_port)
    yield Service(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0, log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
    assert other_cluster.poll() is None


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client
