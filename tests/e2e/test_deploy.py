"""``serve deploy serve_config.yaml`` on a running cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from core.settings import LocalServer
from serve_app.cli import SERVE_CONFIG, free_ports, ray_environment, scratch_folder
from serve_app.ray_token import ray_token
from tests.e2e.conftest import START_LIMIT_S, environment
from tests.readme import ROOT

pytestmark = pytest.mark.e2e

CLUSTER = """
import ray, sys
ray.init(address='local', dashboard_port=int(sys.argv[1]))
print('up', flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster with nothing on it, and the environment in which commands reach it."""

    dashboard_url: str
    environment: dict[str, str]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with scratch_folder() as scratch:
        yield from started_cluster(environment(**ray_environment(LocalServer(), scratch, ray_token(scratch))))


def started_cluster(env: dict[str, str]) -> Iterator[Cluster]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "up\n"
    yield Cluster(f"http://127.0.0.1:{port}", env)
    process.stdin.close()
    process.wait(60)


def test_serve_deploy_starts_the_application(cluster: Cluster, tmp_path: Path) -> None:
    document = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))
    (port,) = free_ports(1)
    document["http_options"]["port"] = port
    config = tmp_path / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document))
    serve = Path(sys.executable).with_name("serve")
    deploy = [str(serve), "deploy", "-a", cluster.dashboard_url, str(config)]
    subprocess.run(deploy, check=True, cwd=ROOT, env=cluster.environment)
    limit = time.monotonic() + START_LIMIT_S
    while not answers(f"http://127.0.0.1:{port}/readyz"):
        assert time.monotonic() < limit
        time.sleep(1)
    body = {"prompt": "a green robot", "num_inference_steps": 4}
    response = httpx.post(
        f"http://127.0.0.1:{port}/v1/text-to-image", json=body, headers={"accept": "image/png"}, timeout=120
    )
    assert response.raise_for_status().content.startswith(b"\x89PNG")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False
