from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from core.errors import DeadlineUnmeetable, GenerationFailed, ModerationBlocked, NotFound, QueueFull
from core.settings import AppSettings, PipelineSettings, SafetySettings, StoreSettings
from core.specs import AdapterUse, TextToImageSpec
from core.types import Accepted, Completed, SamplerName
from deployments.denoiser import denoiser_app
from deployments.engine import request as engine
from deployments.perception import perception_app
from deployments.text_to_image import TextToImage, text_to_image_app
from store.blobs import Blobs
from store.keys import adapter_folder
from tests.adapter_files import put, random_layers
from tests.fakes import FakeDenoiserHandle, FakePerception, FakePerceptionHandle
from weights import registry
from weights.adapters import AdapterWeights

SPEC = TextToImageSpec(
    request_id="r",
    prompt="red cat",
    negative_prompt="",
    num_inference_steps=4,
    guidance_scale=1.0,
    seed=0,
    num_images=1,
    width=32,
    height=32,
    sampler=SamplerName.EULER,
)
UNCHECKED = SafetySettings(enabled=False)
ACCEPTED = engine.Accepted("r", 1.0)
DONE = engine.Done("r", torch.zeros(4, 8, 8), 4, 0.0, 1.0)


def replica(handle: Any, model_id: str, blobs: str | None = None) -> TextToImage:
    own = PipelineSettings(precision="float32", num_threads=1)
    settings = AppSettings(model=model_id, safety=UNCHECKED, store=StoreSettings(blobs=blobs))
    return TextToImage(handle, None, settings, own)  # type: ignore[arg-type]


def adapted(*, text: bool) -> TextToImageSpec:
    use = AdapterUse(adapter_id="adp_1", weight=1.0, sha256="", has_text_encoder=text)
    return replace(SPEC, adapters=(use,))


async def drawn(drawing: TextToImage, spec: TextToImageSpec) -> None:
    events = [event async for event in drawing.generate(spec)]
    assert isinstance(events[-1], Completed)


def task_error(cause: Exception) -> Exception:
    error: Exception = RayTaskError(
        "denoise", "traceback", cause, pid=1, ip="127.0.0.1"
    ).as_instanceof_cause()
    return error


async def test_a_request_is_drawn_through_the_handle(tiny_model_id: str) -> None:
    handle = FakeDenoiserHandle([ACCEPTED, DONE])
    drawing = replica(handle, tiny_model_id)
    events = [event async for event in drawing.generate(SPEC)]
    assert [type(event) for event in events] == [Accepted, Completed]
    await drawing.check_health()


async def test_a_dead_denoiser_is_not_noticed(tiny_model_id: str) -> None:
    handle = FakeDenoiserHandle([ACCEPTED, ActorDiedError()], [ACCEPTED, DONE])
    events = [event async for event in replica(handle, tiny_model_id).generate(SPEC)]
    assert [type(event) for event in events] == [Accepted, Completed]
    assert len(handle.scripted.requests) == 2


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (task_error(DeadlineUnmeetable("late", retry_after_s=3.0)), DeadlineUnmeetable),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), QueueFull),
        (task_error(ValueError("a bug")), ValueError),
    ],
)
async def test_rays_errors_become_ours(
    tiny_model_id: str, raised: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        await anext(replica(FakeDenoiserHandle([raised]), tiny_model_id).generate(SPEC))
    if expected is DeadlineUnmeetable:
        assert type(caught.value) is DeadlineUnmeetable
        assert caught.value.retry_after_s == 3.0


async def test_closing_cancels_the_stream(tiny_model_id: str) -> None:
    handle = FakeDenoiserHandle([ACCEPTED, None])
    events = replica(handle, tiny_model_id).generate(SPEC)
    assert isinstance(await anext(events), Accepted)
    await events.aclose()
    assert handle.num_cancelled == 1


async def test_pictures_of_a_checked_family_are_moderated(tiny_model_id: str) -> None:
    own = PipelineSettings(precision="float32", num_threads=1)
    settings = AppSettings(model=tiny_model_id, safety=SafetySettings(enabled=True))
    perception = FakePerception(blocked=True)
    drawing = TextToImage(
        FakeDenoiserHandle([ACCEPTED, DONE]),  # type: ignore[arg-type]
        FakePerceptionHandle(perception),  # type: ignore[arg-type]
        settings,
        own,
    )
    events = drawing.generate(SPEC)
    assert isinstance(await anext(events), Accepted)
    with pytest.raises(ModerationBlocked):
        await anext(events)
    # Once for whether anything can be checked at all, once for the picture.
    assert perception.asked == ["moderate", "moderate"]


async def test_a_forgotten_adapter_leaves_neither_factors_nor_embeddings(
    tiny_model_id: str, tmp_path: Path
) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    _, encoder = registry.load_text(tiny_model_id)
    put(blobs, "adp_1", AdapterWeights({}, random_layers(encoder, 0, of=lambda path: "q_proj" in path)))
    handle = FakeDenoiserHandle([ACCEPTED, DONE], [ACCEPTED, DONE])
    drawing = replica(handle, tiny_model_id, f"file://{tmp_path}")
    await drawn(drawing, SPEC)
    await drawn(drawing, adapted(text=True))
    plain, told = handle.scripted.requests
    assert [use.adapter_id for use in told.adapters] == ["adp_1"]
    assert not torch.allclose(plain.prompt_embeds, told.prompt_embeds, atol=1e-3)
    blobs.delete(adapter_folder("adp_1"))
    await drawing.forget_adapter("adp_1")
    with pytest.raises(NotFound):
        await drawn(drawing, adapted(text=True))


async def test_a_store_that_cannot_be_reached_hinders_only_adapters_of_its_text_encoder(
    tiny_model_id: str,
) -> None:
    handle = FakeDenoiserHandle([ACCEPTED, DONE], [ACCEPTED, DONE])
    drawing = replica(handle, tiny_model_id, "nowhere://at.all")
    await drawn(drawing, SPEC)
    await drawn(drawing, adapted(text=False))
    with pytest.raises(GenerationFailed):
        await drawn(drawing, adapted(text=True))


@pytest.mark.parametrize(("use_gpu", "share"), [(False, 0), (True, 0.1)])
def test_the_application_asks_for_its_share_of_a_gpu(use_gpu: bool, share: float) -> None:
    settings = AppSettings(use_gpu=use_gpu)
    application = text_to_image_app(settings, denoiser_app(settings), perception_app(settings))
    deployment = application._bound_deployment
    assert deployment.name == "TextToImage"
    assert deployment.ray_actor_options is not None
    assert deployment.ray_actor_options["num_gpus"] == share
    assert deployment.max_ongoing_requests == settings.text_to_image.max_ongoing_requests
