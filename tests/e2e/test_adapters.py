"""A member's own model from photos to pictures, as its users meet it; and what is left when things die."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.characters import characters
from tests.e2e.conftest import Service
from tests.e2e.test_service import replicas

pytestmark = pytest.mark.e2e

ANNA = {"X-Limner-User": "anna"}
PNG = {"Accept": "image/png"}
LIMIT_S = 240
CHARACTER = characters(2)[1]


def photos(num: int = 5) -> list[tuple[str, tuple[str, bytes]]]:
    return [
        ("photos", (f"{i}.png", CHARACTER.picture(wear))) for i, wear in enumerate(CHARACTER.wears(num, 0))
    ]


def ask_for_training(client: httpx.Client, user: str, **members: Any) -> httpx.Response:
    fields = {"name": "Me", "subject": "woman", "consent": "true"} | {k: str(v) for k, v in members.items()}
    return client.post("/v1/adapters", data=fields, files=photos(), headers={"X-Limner-User": user})


def events_of(client: httpx.Client, job_id: str, user: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, kind and data of a job's events, until it has ended."""
    address, headers = f"/v1/jobs/{job_id}/events", {"X-Limner-User": user}
    number, kind = 0, ""
    with client.stream("GET", address, headers=headers, timeout=LIMIT_S) as answer:
        for line in answer.raise_for_status().iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                yield number, kind, json.loads(value)


def wait_for(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < limit
        time.sleep(0.2)
    return found


def job_of(client: httpx.Client, job_id: str, user: str) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}", headers={"X-Limner-User": user})
    job: dict[str, Any] = answer.raise_for_status().json()
    return job


@pytest.fixture(scope="module")
def trained(service: Service) -> dict[str, Any]:
    """Anna's adapter, and the events of its training."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        asked = ask_for_training(client, "anna", num_steps=40, sample_every=20, seed=1)
        assert asked.status_code == 202, asked.text
        job = asked.json()
        assert job["status"] == "queued"
        assert job["predicted_finish_s"] > 0
        again = ask_for_training(client, "anna")
        assert again.status_code == 409
        assert job["id"] in again.json()["detail"]
        events = list(events_of(client, job["id"], "anna"))
        assert events[-1][1] == "succeeded", events[-1]
        adapter = client.get(f"/v1/adapters/{job['adapter_id']}", headers=ANNA).raise_for_status().json()
        return {"job": job, "events": events, **adapter}


def picture(
    client: httpx.Client, user: str, adapters: list[dict[str, Any]], **members: Any
) -> httpx.Response:
    body = {"prompt": members.pop("prompt"), "seed": 5, "adapters": adapters, **members}
    return client.post("/v1/text-to-image", json=body, headers={"X-Limner-User": user, **PNG})


def prompt_of(adapter: dict[str, Any]) -> str:
    return f"portrait of {adapter['trigger']} {adapter['subject']}, green sweater, blue background"


def pixels(answer: httpx.Response) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def test_a_training_tells_of_every_step_and_leaves_no_photos(
    client: httpx.Client, service: Service, trained: dict[str, Any]
) -> None:
    numbers = [number for number, _, _ in trained["events"]]
    assert numbers == list(range(1, len(numbers) + 1))
    steps = [data["step"] for _, kind, data in trained["events"] if kind == "progress"]
    assert steps[-1] == 40
    assert steps == sorted(steps)
    samples = [data for _, kind, data in trained["events"] if kind == "sample"]
    assert len(samples) == 2
    sample = client.get(f"/v1/adapters/{trained['id']}/samples/1", headers=ANNA)
    assert pixels(sample).shape == (128, 128, 3)
    assert not list((service.blobs / "jobs").rglob("*.png"))
    assert not list(service.blobs.rglob("*checkpoint*"))


def test_the_adapter_draws_its_member_and_nobody_elses_requests_may_use_it(
    client: httpx.Client, trained: dict[str, Any]
) -> None:
    prompt, uses = prompt_of(trained), [{"id": trained["id"]}]
    own, again = (pixels(picture(client, "anna", uses, prompt=prompt)) for _ in range(2))
    without = pixels(picture(client, "anna", [], prompt=prompt))
    half = pixels(picture(client, "anna", [{"id": trained["id"], "weight": 0.5}], prompt=prompt))
    assert np.array_equal(own, again)
    assert not np.array_equal(own, without)
    assert not np.array_equal(own, half)
    stolen = picture(client, "ben", uses, prompt=prompt)
    assert stolen.status_code == 404
    assert client.get(f"/v1/adapters/{trained['id']}", headers={"X-Limner-User": "ben"}).status_code == 404
    assert client.get(f"/v1/jobs/{trained['job']['id']}").status_code == 404


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_an_exported_adapter_comes_back_and_draws_the_same_picture(
    client: httpx.Client, trained: dict[str, Any], layout: str
) -> None:
    file = client.get(f"/v1/adapters/{trained['id']}/file", params={"format": layout}, headers=ANNA)
    assert file.status_code == 200
    fields = {"name": layout, "subject": trained["subject"], "trigger": trained["trigger"], "consent": "true"}
    user = f"importer-{layout}"
    headers = {"X-Limner-User": user}
    back = client.post("/v1/adapters/import", data=fields, files={"file": file.content}, headers=headers)
    assert back.status_code == 201, back.text
    prompt = prompt_of(trained)
    ours = pixels(picture(client, "anna", [{"id": trained["id"]}], prompt=prompt))
    theirs = pixels(picture(client, user, [{"id": back.json()["id"]}], prompt=prompt))
    assert np.array_equal(ours, theirs)


def test_the_member_is_painted_into_a_picture_and_swapped(
    client: httpx.Client, trained: dict[str, Any]
) -> None:
    host = characters(1)[0]
    image = host.picture(host.wears(1, 5)[0])
    fields = {"prompt": prompt_of(trained), "mask_prompt": "man", "seed": "3"}
    adapters = {"adapters": json.dumps([{"id": trained["id"]}])}
    own, plain = (
        pixels(client.post("/v1/inpaint", data=fields | extra, files={"image": image}, headers=ANNA | PNG))
        for extra in (adapters, {})
    )
    assert not np.array_equal(own, plain)
    photo = {"image": photos(1)[0][1]}
    swapped = client.post("/v1/gender-swap", data={"seed": "3"} | adapters, files=photo, headers=ANNA | PNG)
    assert pixels(swapped).shape == (128, 128, 3)


def training_workers() -> list[int]:
    """Processes that train, by the title that Ray gives them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_attempt"):
                found.append(int(folder.name))
    return found


def test_a_training_survives_the_death_of_its_worker_and_of_the_trainer(
    client: httpx.Client, service: Service
) -> None:
    asked = ask_for_training(client, "carl", num_steps=60, sample_every=0, train_text_encoder=False)
    job = asked.raise_for_status().json()

    def reached(step: int) -> bool:
        return bool(job_of(client, job["id"], "carl")["progress"]["step"] >= step)

    wait_for(lambda: reached(22))
    (worker,) = training_workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: reached(42))
    (trainer,) = replicas(service, "Trainer")
    os.kill(trainer["pid"], signal.SIGKILL)
    events = list(events_of(client, job["id"], "carl"))
    assert events[-1][1] == "succeeded", events[-1]
    steps = [data["step"] for _, kind, data in events if kind == "progress"]
    # It went on from checkpoints, 20 steps apart: at most 20 steps are done twice, and none from the start.
    backwards = [(before, after) for before, after in pairwise(steps) if after < before]
    assert len(backwards) <= 2
    assert all(after > 20 and before - after <= 20 for before, after in backwards)
    assert steps[-1] == 60
    assert not list((service.blobs / "jobs").rglob("*.png"))


def test_a_canceled_training_stops_within_a_step_and_leaves_nothing(
    client: httpx.Client, service: Service
) -> None:
    job = ask_for_training(client, "dora", num_steps=500, sample_every=0).raise_for_status().json()
    wait_for(lambda: job_of(client, job["id"], "dora")["progress"]["step"] >= 2)
    answer = client.post(f"/v1/jobs/{job['id']}/cancel", headers={"X-Limner-User": "dora"})
    at = answer.raise_for_status().json()["progress"]["step"]
    events = list(events_of(client, job["id"], "dora"))
    assert events[-1][1] == "canceled"
    last = job_of(client, job["id"], "dora")
    assert last["status"] == "canceled"
    assert last["progress"]["step"] <= at + 2
    assert not list((service.blobs / "jobs").rglob("*.png"))
    assert not (service.blobs / "adapters" / job["adapter_id"]).exists()


def test_a_deleted_adapter_is_gone_for_everybody(
    client: httpx.Client, service: Service, trained: dict[str, Any]
) -> None:
    address = f"/v1/adapters/{trained['id']}"
    assert client.delete(address, headers={"X-Limner-User": "ben"}).status_code == 404
    assert client.delete(address, headers=ANNA).status_code == 204
    assert client.get(address, headers=ANNA).status_code == 404
    assert client.get(f"{address}/samples/1", headers=ANNA).status_code == 404
    assert client.get(f"/v1/jobs/{trained['job']['id']}", headers=ANNA).status_code == 404
    gone = picture(client, "anna", [{"id": trained["id"]}], prompt=prompt_of(trained))
    assert gone.status_code == 404
    assert not (service.blobs / "adapters" / trained["id"]).exists()
