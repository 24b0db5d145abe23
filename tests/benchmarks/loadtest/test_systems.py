"""The same request in the words of each system, and Prometheus' text read."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.baselines.asking import Asking
from benchmarks.loadtest.inputs import Inputs, Shown
from benchmarks.loadtest.systems.baselines import body_of
from benchmarks.loadtest.systems.limner import message_of
from benchmarks.loadtest.systems.prometheus import samples
from benchmarks.loadtest.workload import PIPELINES, Asked
from serve_app.edit_requests import GenderSwapRequest, ImageToImageRequest, InpaintRequest
from serve_app.members import TextToImageRequest

# The smallest PNG file: one grey pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
INPUTS = Inputs(("a red robot",), (Shown("a man", "a woman", PNG, PNG, PNG),))
MODELS: dict[str, Any] = {
    "text": TextToImageRequest,
    "image": ImageToImageRequest,
    "inpaint": InpaintRequest,
    "swap": GenderSwapRequest,
}


def asked(pipeline: str, adapter: str | None = None) -> Asked:
    return Asked(0, 0.0, pipeline, 0, 20, 5.0, 7, "member-03", adapter)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_limner_and_the_baselines_know_every_member(pipeline: str) -> None:
    message = message_of(asked(pipeline), INPUTS, {})
    ours = MODELS[pipeline].model_validate(message.body)
    theirs = Asking.model_validate(body_of(asked(pipeline), INPUTS))
    same = ("num_inference_steps", "guidance_scale", "seed")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same] == [20, 5.0, 7]
    assert message.headers["X-Limner-User"] == "member-03"


def test_a_swap_is_as_much_work_for_the_baselines_as_limner_takes_it_for() -> None:
    body = body_of(asked("swap"), INPUTS)
    assert (body["pipeline"], body["prompt"]) == ("inpaint", "a woman")
    assert body["strength"] == pytest.approx(0.6**0.25)


def test_adapters_go_by_name_or_by_id() -> None:
    assert body_of(asked("text", "adapter-03"), INPUTS)["adapter"] == "adapter-03"
    told = message_of(asked("text", "adapter-03"), INPUTS, {"adapter-03": "adp_1"}).body
    assert told["adapters"] == [{"id": "adp_1"}]


def test_only_our_own_metrics_are_read() -> None:
    text = (
        "# HELP ray_limner_denoise_steps UNet steps.\n"
        'ray_limner_denoise_steps_total{pid="1"} 12.0\n'
        "ray_limner_denoise_busy_s_total 0.5\n"
        "ray_serve_requests_total 3.0\n"
    )
    assert samples(text) == [
        ("ray_limner_denoise_steps_total", 12.0),
        ("ray_limner_denoise_busy_s_total", 0.5),
    ]
