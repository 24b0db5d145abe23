"""The routes that take pictures, as their users meet them: forms, masks from words, what stays, what dies."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.e2e.conftest import Service
from tests.e2e.test_service import replicas

pytestmark = pytest.mark.e2e

PNG = {"Accept": "image/png"}
Pixels = npt.NDArray[np.uint8]


def pixels(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def portrait(service: Service) -> bytes:
    """A woman with brown hair, drawn by the service itself."""
    prompt = "cartoon portrait of a smiling woman, tan skin, long straight brown hair, purple dress"
    body = {"prompt": f"{prompt}, yellow background", "seed": 7}
    answer = httpx.post(f"{service.url}/v1/text-to-image", json=body, headers=PNG, timeout=60)
    return answer.raise_for_status().content


def edited(client: httpx.Client, route: str, image: bytes, **members: Any) -> httpx.Response:
    """What ``route`` answers to a form with ``image``."""
    fields: Mapping[str, str] = {name: str(value) for name, value in members.items()}
    return client.post(
        f"/v1/{route}", data=fields, files={"image": ("upload", image)}, headers=PNG, timeout=90
    )


def test_words_find_hair_and_find_no_car(client: httpx.Client, portrait: bytes) -> None:
    hair = edited(client, "mask", portrait, words="hair").raise_for_status()
    mask = pixels(hair.content)
    assert mask.shape == pixels(portrait).shape[:2]
    assert 0.03 < float(hair.headers["Limner-Mask-Coverage"]) < 0.6
    assert mask[5:].max() > 200
    assert float(edited(client, "mask", portrait, words="car").headers["Limner-Mask-Coverage"]) == 0


def test_hair_turns_pink_and_the_rest_stays_bit_for_bit(client: httpx.Client, portrait: bytes) -> None:
    before = pixels(portrait)
    answer = edited(
        client,
        "inpaint",
        portrait,
        mask_prompt="hair",
        prompt="pink hair",
        mask_grow=2,
        mask_feather=2,
        seed=3,
    )
    after = pixels(answer.raise_for_status().content)
    mask = pixels(edited(client, "mask", portrait, words="hair").content)
    far = np.asarray(Image.fromarray((mask > 100).astype(np.uint8)).resize((128, 128))) == 0
    grown = np.zeros_like(far)
    for down in range(-4, 5):
        for right in range(-4, 5):
            grown |= np.roll(~far, (down, right), (0, 1))
    np.testing.assert_array_equal(after[~grown], before[~grown])
    redder = after.astype(int)[mask > 200] - before.astype(int)[mask > 200]
    assert redder[:, 0].mean() > 40
    assert redder[:, 2].mean() > 40


def test_words_that_match_nothing_are_refused(client: httpx.Client, portrait: bytes) -> None:
    answer = edited(client, "inpaint", portrait, mask_prompt="car", prompt="a red car")
    assert (answer.status_code, answer.json()["field"]) == (422, "mask_prompt")


def test_outpainting_keeps_the_picture_and_adds_to_it(client: httpx.Client, portrait: bytes) -> None:
    answer = edited(client, "inpaint", portrait, mode="outpaint", margins='{"left": 24, "top": 8}')
    larger = pixels(answer.raise_for_status().content)
    assert larger.shape == (136, 152, 3)
    np.testing.assert_array_equal(larger[8:, 24:], pixels(portrait))


@pytest.mark.parametrize("strategy", ["restyle", "variation", "preserve"])
def test_image_to_image(client: httpx.Client, portrait: bytes, strategy: str) -> None:
    prompt = "cartoon portrait of a smiling woman, long straight brown hair, red dress, green background"
    answer = edited(client, "image-to-image", portrait, strategy=strategy, prompt=prompt, seed=1)
    drawn = pixels(answer.raise_for_status().content)
    assert drawn.shape == (128, 128, 3)
    assert 1 < np.abs(drawn.astype(float) - pixels(portrait)).mean() < 90


def test_the_structure_of_a_picture_needs_what_the_embedded_model_lacks(
    client: httpx.Client, portrait: bytes
) -> None:
    answer = edited(client, "image-to-image", portrait, strategy="structure", prompt="a robot")
    assert answer.status_code == 409
    assert "ControlNet" in answer.json()["detail"]


def test_a_portrait_is_swapped_before_its_own_background(client: httpx.Client, portrait: bytes) -> None:
    answer = edited(client, "gender-swap", portrait, target="man", seed=2)
    after, before = pixels(answer.raise_for_status().content), pixels(portrait)
    assert after.shape == before.shape
    # The upper corners are background in every portrait.
    np.testing.assert_array_equal(after[:16, :16], before[:16, :16])
    np.testing.assert_array_equal(after[:16, -16:], before[:16, -16:])
    assert np.abs(after.astype(int) - before).mean() > 2


def test_a_swap_needs_exactly_one_face(client: httpx.Client) -> None:
    planet = client.post("/v1/text-to-image", json={"prompt": "a red planet, black background"}, headers=PNG)
    answer = edited(client, "gender-swap", planet.content)
    assert (answer.status_code, answer.json()["field"]) == (422, "image")


def test_upscaling_doubles_the_sides(client: httpx.Client, portrait: bytes) -> None:
    answer = edited(client, "upscale", portrait, scale=2)
    larger = Image.open(io.BytesIO(answer.raise_for_status().content))
    assert larger.size == (256, 256)
    small = np.asarray(larger.resize((128, 128), Image.Resampling.BOX), float)
    assert np.abs(small - pixels(portrait)).mean() < 8


@pytest.mark.parametrize("deployment", ["Inpaint", "GenderSwap", "Perception"])
def test_an_edit_survives_the_death_of_a_replica(
    client: httpx.Client, service: Service, portrait: bytes, deployment: str
) -> None:
    members = {"target": "man", "seed": 4, "num_inference_steps": 90}
    answers: list[httpx.Response] = []
    running = threading.Thread(
        target=lambda: answers.append(edited(client, "gender-swap", portrait, **members))
    )
    running.start()
    time.sleep(0.5)
    os.kill(replicas(service, deployment)[0]["pid"], signal.SIGKILL)
    running.join(150)
    assert pixels(answers[0].raise_for_status().content).shape == (128, 128, 3)
