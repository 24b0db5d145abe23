"""Replicas that come with demand and go with it: a pipeline from zero, and Denoisers in a burst."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from serve_app.cli import SERVE_CONFIG, free_ports
from tests.e2e.conftest import Service, started
from tests.e2e.test_service import PROMPT, ROUTE, replicas

pytestmark = pytest.mark.e2e

LIMIT_S = 180
PACE = {"upscale_delay_s": 1, "downscale_delay_s": 4, "look_back_s": 4, "interval_s": 1}
ARGUMENTS = {
    "denoiser": {
        "autoscaling": {"min_replicas": 1, "max_replicas": 2, "horizon_s": 2, "utilisation": 0.9, **PACE}
    },
    "inpaint": {
        "autoscaling": {"min_replicas": 0, "max_replicas": 1, "downscale_to_zero_delay_s": 4, **PACE}
    },
}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("scaled")
    document: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))
    for name, settings in ARGUMENTS.items():
        document["applications"][0]["args"][name].update(settings)
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document))
    port, dashboard_port = free_ports(2)
    process = started(folder / "log", port, dashboard_port, "--config", str(config))
    yield Service(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", process, folder / "log")
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0


def num_running(service: Service, deployment: str) -> int:
    return sum(replica["state"] == "RUNNING" for replica in replicas(service, deployment))


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.5)


def plain(colour: str) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(picture, "PNG")
    return picture.getvalue()


def test_an_idle_pipeline_has_no_replicas_and_its_first_request_starts_one(scaled: Service) -> None:
    assert num_running(scaled, "Inpaint") == 0
    assert httpx.get(f"{scaled.url}/readyz", timeout=30).status_code == 200
    assert num_running(scaled, "Inpaint") == 0
    answer = httpx.post(
        f"{scaled.url}/v1/inpaint",
        data={"prompt": PROMPT, "num_inference_steps": "4"},
        files={"image": plain("teal"), "mask": plain("white")},
        timeout=LIMIT_S,
    )
    answer.raise_for_status()
    wait_for(lambda: not num_running(scaled, "Inpaint"))


def test_a_burst_grows_the_denoisers_and_its_end_shrinks_them(scaled: Service) -> None:
    assert num_running(scaled, "Denoiser") == 1

    def draw(seed: int) -> int:
        body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": 50}
        return httpx.post(scaled.url + ROUTE, json=body, timeout=LIMIT_S).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = [pool.submit(draw, seed) for seed in range(16)]
        wait_for(lambda: num_running(scaled, "Denoiser") == 2)
        assert {each.result() for each in statuses} == {200}
    wait_for(lambda: num_running(scaled, "Denoiser") == 1)
    assert draw(0) == 200
