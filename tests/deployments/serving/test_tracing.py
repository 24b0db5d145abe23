"""A traced request's pipeline and denoising become spans with their stages; others pass untouched."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import torch

from core.errors import GenerationFailed, LimnerError
from core.specs import TextToImageSpec
from core.types import Accepted, Completed, Picture, PipelineEvent, SamplerName, Timings
from deployments.engine import request as engine
from deployments.serving.tracing import pictures_traced, steps_traced
from tests.fakes import ScriptedDenoiser
from tests.spans import SAMPLED, KeptSpans, attributes, id_of, parent_of, seconds

PICTURE = Picture(index=0, seed=1, image=b"", media_type="image/png", width=8, height=8)
TIMINGS = Timings(encode_s=0.25, denoise_s=1.0, decode_s=0.5, total_s=1.75, engine_s=0.9, file_s=0.125)
SPEC = TextToImageSpec(
    request_id="r",
    prompt="a secret",
    negative_prompt="",
    num_inference_steps=4,
    guidance_scale=1.0,
    seed=1,
    num_images=1,
    sampler=SamplerName.DDIM,
    user_id="anna",
    width=8,
    height=8,
    traceparent=SAMPLED,
)
REQUEST = engine.DenoiseRequest(
    request_id="r",
    prompt_embeds=torch.zeros(1, 2),
    noise=torch.zeros(4, 2, 2),
    sampler=SamplerName.DDIM,
    num_inference_steps=4,
    guidance_scale=1.0,
    seed=1,
    user_id="anna",
    traceparent=SAMPLED,
)
DONE = engine.Done("r", torch.zeros(4, 2, 2), num_steps=4, queued_s=0.5, denoise_s=2.0)
ACCEPTED = engine.Accepted("r", 1.0)


class Drawing:
    """A pipeline that keeps what it was asked for."""

    def __init__(self, error: LimnerError | None = None) -> None:
        self.specs: list[TextToImageSpec] = []
        self._error = error

    async def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        self.specs.append(spec)
        yield Accepted("r", 1.5)
        if self._error is not None:
            raise self._error
        yield Completed((PICTURE,), TIMINGS)


def test_nothing_is_wrapped_while_tracing_is_off() -> None:
    drawing, denoiser = Drawing(), ScriptedDenoiser()
    assert pictures_traced(None, "TextToImage", drawing.generate) == drawing.generate
    assert steps_traced(None, denoiser) is denoiser


async def test_a_pipeline_is_a_span_with_its_stages() -> None:
    kept, drawing = KeptSpans(), Drawing()
    generate = pictures_traced(kept.tracing, "TextToImage", drawing.generate)
    async with aclosing(generate(SPEC)) as events:
        async for event in events:
            if isinstance(event, Completed):
                break
    span = kept.named("TextToImage")
    stages = {each.name: each for each in kept.spans if each is not span}
    assert {name: round(seconds(each), 3) for name, each in stages.items()} == {
        "encode prompt": 0.25,
        "denoise all": 1.0,
        "decode": 0.375,
        "file": 0.125,
    }
    assert {parent_of(each) for each in stages.values()} == {id_of(span)}
    assert [event.name for event in span.events] == ["accepted"]
    assert attributes(span) == {"limner.num_pictures": 1}
    # What the pipeline asks of others is below its own span.
    assert drawing.specs[0].traceparent is not None
    assert id_of(span) in drawing.specs[0].traceparent


async def test_a_failure_ends_the_span_with_its_code() -> None:
    kept = KeptSpans()
    generate = pictures_traced(kept.tracing, "TextToImage", Drawing(GenerationFailed("a secret")).generate)
    with pytest.raises(GenerationFailed):
        [event async for event in generate(SPEC)]
    assert attributes(kept.named("TextToImage")) == {"error.type": "generation_failed"}


async def test_denoising_is_a_span_with_waiting_and_steps() -> None:
    progressed = [engine.Progressed("r", step, 4, 1.0) for step in (1, 3)]
    kept, denoiser = KeptSpans(), ScriptedDenoiser([ACCEPTED, *progressed, DONE])
    denoise = steps_traced(kept.tracing, denoiser)
    seen = [event async for event in denoise(REQUEST)]
    assert seen == [ACCEPTED, *progressed, DONE]
    wait, steps, span = (kept.named(name) for name in ("wait", "steps", "denoise"))
    assert (round(seconds(wait), 3), round(seconds(steps), 3)) == (0.5, 2.0)
    assert wait.end_time == pytest.approx(steps.start_time, abs=1e6)
    assert parent_of(wait) == parent_of(steps) == id_of(span)
    assert [event.name for event in span.events] == ["accepted", "first step told"]
    assert attributes(span) == {"limner.num_steps": 4, "limner.sampler": "ddim", "limner.num_adapters": 0}


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (engine.Failed("r", GenerationFailed("a secret")), "generation_failed"),
        (engine.HandedBack("r", None), None),
    ],
)
async def test_other_ends_are_told_too(last: engine.DenoiseEvent, error: str | None) -> None:
    kept = KeptSpans()
    denoise = steps_traced(kept.tracing, ScriptedDenoiser([ACCEPTED, last]))
    assert [event async for event in denoise(REQUEST)] == [ACCEPTED, last]
    assert attributes(kept.named("denoise")).get("error.type") == error


async def test_no_span_tells_of_members_and_prompts() -> None:
    kept = KeptSpans()
    generate = pictures_traced(kept.tracing, "TextToImage", Drawing().generate)
    denoise = steps_traced(kept.tracing, ScriptedDenoiser([ACCEPTED, DONE]))
    _ = [event async for event in generate(SPEC)], [event async for event in denoise(REQUEST)]
    told = "".join(span.to_json() for span in kept.spans)
    assert told
    assert "secret" not in told
    assert "anna" not in told
