"""The service as its users meet it: curl, JSON, SSE, hanging up, losing replicas, the dashboard."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.e2e.conftest import Service
from tests.readme import curls
from weights.recipe import classifier

pytestmark = pytest.mark.e2e

PROMPT = "cartoon portrait of a smiling woman with brown hair, purple dress, yellow background"
ASKED = {
    "subject": "woman",
    "hair_color": "brown",
    "clothes_color": "purple",
    "background": "yellow",
}
ROUTE = "/v1/text-to-image"


def picture(data: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(data))
    opened.load()
    return opened


def difference(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


def events(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    with client.stream("POST", ROUTE, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                found.append((name, json.loads(line.removeprefix("data:"))))
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the README's commands: later ones use the pictures of earlier ones."""
    return tmp_path_factory.mktemp("desk")


@pytest.mark.parametrize("arguments", curls(), ids=range(len(curls())))
def test_readme_commands_run(service: Service, desk: Path, arguments: list[str]) -> None:
    moved = [argument.replace("http://127.0.0.1:8000", service.url) for argument in arguments]
    done = subprocess.run([*moved, "--fail"], cwd=desk, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    if "-o" in arguments:
        drawn = picture((desk / arguments[arguments.index("-o") + 1]).read_bytes())
        assert drawn.size == (128, 128)
    else:
        assert done.stdout


def test_the_training_that_the_readme_starts_can_be_canceled(client: httpx.Client) -> None:
    (job,) = client.get("/v1/jobs").raise_for_status().json()["data"]
    assert job["name"] == "Me"
    client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as response:
        assert "event: canceled" in list(response.iter_lines())


def test_what_leaves_all_open_is_drawn_in_four_steps_and_shows_what_twenty_do(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "seed": 11}
    few, many = (
        client.post(ROUTE, json=asked).raise_for_status().json()
        for asked in (body, {**body, "few_step": False})
    )
    told = [
        (each["parameters"]["few_step"], each["parameters"]["num_inference_steps"]) for each in (few, many)
    ]
    assert told == [(True, 4), (False, 20)]
    drawn = [np.asarray(picture(base64.b64decode(one["images"][0]["b64_json"]))) for one in (few, many)]
    for shown in classifier.load().classify(torch.from_numpy(np.stack(drawn))):
        assert {key: shown[key] for key in ASKED} == ASKED


def test_the_same_seed_draws_the_same_picture_in_company_as_alone(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "seed": 11, "num_inference_steps": 6}
    alone = client.post(ROUTE, json=body).raise_for_status().json()
    neighbours = [
        threading.Thread(target=lambda n=n: client.post(ROUTE, json={"prompt": "a red robot", "seed": n}))
        for n in range(3)
    ]
    for thread in neighbours:
        thread.start()
    together = client.post(ROUTE, json=body).raise_for_status().json()
    for thread in neighbours:
        thread.join()
    first, second = (picture(base64.b64decode(one["images"][0]["b64_json"])) for one in (alone, together))
    assert alone["images"][0]["seed"] == 11
    assert difference(first, second) < 3


def test_a_stream_tells_the_whole_story(client: httpx.Client) -> None:
    story = events(client, {"prompt": PROMPT, "num_inference_steps": 6, "preview_every": 2, "seed": 3})
    names = [name for name, _ in story]
    assert names[0] == "accepted"
    assert names[-1] == "completed"
    assert {"progress", "preview"} <= set(names)
    assert story[0][1]["predicted_finish_s"] > 0
    assert picture(base64.b64decode(story[-1][1]["images"][0]["b64_json"])).size == (128, 128)


def predicted_s(client: httpx.Client, body: dict[str, Any]) -> float:
    """What the service predicts for ``body`` when it accepts it; hangs up then."""
    with client.stream("POST", ROUTE, json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data:"):
                return float(json.loads(line.removeprefix("data:"))["predicted_finish_s"])
    raise AssertionError("no accepted event")


def test_hanging_up_frees_the_denoiser(client: httpx.Client) -> None:
    short = {"prompt": PROMPT, "num_inference_steps": 4}
    long_s = predicted_s(client, {"prompt": PROMPT, "num_inference_steps": 150, "n": 8})
    # What was hung up on leaves when the step in flight ends, long before all of it would have been done.
    for _ in range(15):
        if predicted_s(client, short) < long_s / 10:
            return
        time.sleep(long_s / 150)
    pytest.fail(f"still ahead of others after a tenth of its {long_s:.0f} s")


def test_a_full_queue_is_said_at_once_and_passes(client: httpx.Client, service: Service) -> None:
    body = {"prompt": PROMPT, "num_inference_steps": 10, "n": 10}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(service.url + ROUTE, json=body, timeout=240), range(12)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "queue_full"
    client.post(ROUTE, json={"prompt": PROMPT, "num_inference_steps": 4}).raise_for_status()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 10_000}, "prompt"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "x", "width": 100}, "width"),
        ({"prompt": "x", "sampler": "magic"}, "sampler"),
        ({"prompt": "x", "styles": ["nope"]}, "styles"),
        ({"prompt": "x", "colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_a_problem_that_names_the_field(
    client: httpx.Client, body: dict[str, Any], field: str
) -> None:
    response = client.post(ROUTE, json=body)
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert field in problem["field"]
    assert problem["error"]["message"]


def replicas(service: Service, deployment: str) -> list[dict[str, Any]]:
    with service.dashboard() as dashboard:
        details = dashboard.get("/api/serve/applications/").raise_for_status().json()
    found: list[dict[str, Any]] = details["applications"]["limner"]["deployments"][deployment]["replicas"]
    return found


def test_the_dashboard_shows_every_deployment(service: Service) -> None:
    for deployment in (
        "Router",
        "TextToImage",
        "ImageToImage",
        "Inpaint",
        "GenderSwap",
        "Perception",
        "Denoiser",
        "Trainer",
    ):
        assert [replica["state"] for replica in replicas(service, deployment)] == ["RUNNING"]


@pytest.mark.parametrize("deployment", ["Denoiser", "TextToImage"])
def test_a_request_survives_the_death_of_a_replica(
    client: httpx.Client, service: Service, deployment: str
) -> None:
    body = {"prompt": PROMPT, "seed": 5, "num_inference_steps": 60}
    undisturbed = client.post(ROUTE, json=body).raise_for_status()
    answers: list[httpx.Response] = []
    running = threading.Thread(target=lambda: answers.append(client.post(ROUTE, json=body)))
    running.start()
    time.sleep(1.0)
    os.kill(replicas(service, deployment)[0]["pid"], signal.SIGKILL)
    running.join(120)
    answers[0].raise_for_status()
    first, second = (
        picture(base64.b64decode(answer.json()["images"][0]["b64_json"]))
        for answer in (undisturbed, answers[0])
    )
    assert difference(first, second) < 1


def test_documentation_and_probes(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 200
    assert ROUTE in client.get("/openapi.json").json()["paths"]
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_nothing_personal_is_logged(service: Service) -> None:
    assert "purple dress" not in service.log.read_text()
