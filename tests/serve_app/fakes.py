"""Pipelines that follow a script, and an ASGI client that can hang up."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from core.images import encode
from core.settings import RequestLimits, RouterSettings
from core.specs import (
    FoundMask,
    GenderSwapSpec,
    GenerationSpec,
    ImageToImageSpec,
    InpaintSpec,
    MaskSpec,
    UpscaleSpec,
)
from core.types import (
    Accepted,
    Completed,
    ModelInfo,
    Picture,
    PipelineEvent,
    Preview,
    Progress,
    SamplerName,
    Timings,
)
from core.uploads import open_mask, open_picture
from serve_app.api import build_api
from serve_app.records import Records
from tests.picture_files import saved
from tests.serve_app.small_trainer import SmallTrainer

MINI = ModelInfo(
    model_id="mini",
    family="mini",
    description="A toy.",
    default_size=128,
    min_size=64,
    max_size=256,
    size_multiple=16,
    max_clip_skip=2,
    prediction_type="v_prediction",
    default_sampler=SamplerName.DPMPP_2M,
    default_num_inference_steps=20,
    default_guidance_scale=4.0,
)
PHOTO = ModelInfo(
    model_id="photo",
    family="sd15",
    description="Photographs.",
    default_size=512,
    min_size=256,
    max_size=1024,
    size_multiple=8,
    max_clip_skip=11,
    prediction_type="epsilon",
    default_sampler=SamplerName.EULER,
    default_num_inference_steps=25,
    default_guidance_scale=7.5,
    strengths={"variation": 0.25, "upscale": 0.2},
)
TIMINGS = Timings(encode_s=0.01, denoise_s=0.5, decode_s=0.02, total_s=0.54, engine_s=0.45, file_s=0.005)
Step = PipelineEvent | Exception | asyncio.Event


def drawn(spec: GenerationSpec) -> Completed:
    """What a pipeline that draws nothing but black would answer."""
    black = np.zeros((8, 8, 3), np.uint8)
    pictures = tuple(
        Picture(
            index=index,
            seed=(spec.seed + index) % 2**32,
            image=encode(black, spec.output_format, quality=spec.quality),
            media_type=spec.output_format.media_type,
            width=8,
            height=8,
        )
        for index in range(spec.num_images)
    )
    return Completed(pictures, TIMINGS)


class ScriptedPipeline:
    """Yields the events of its script, raises its exceptions, waits for its ``asyncio.Event``s.

    Without a script it opens what pictures it is sent, accepts, and draws whatever it is asked for.
    """

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.specs: list[Any] = []
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, spec: GenerationSpec) -> AsyncGenerator[PipelineEvent, None]:
        self.specs.append(spec)
        self.started.set()
        try:
            for step in self.script or self.drawing(spec):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed.set()

    def drawing(self, spec: GenerationSpec) -> Iterator[Step]:
        if isinstance(spec, ImageToImageSpec | InpaintSpec | GenderSwapSpec | UpscaleSpec):
            size = open_picture(spec.image).size
            if isinstance(spec, InpaintSpec) and spec.mask:
                open_mask(spec.mask, size=size)
        yield Accepted(spec.request_id, predicted_finish_s=0.5)
        yield Progress(step=1, num_steps=spec.num_inference_steps, predicted_finish_s=0.4)
        if spec.preview_every:
            yield Preview(index=0, step=1, image=b"small")
        yield drawn(spec)


class ScriptedPerception:
    """Finds everything but "nothing" in the left half of a picture; raises ``error`` if there is one."""

    def __init__(self) -> None:
        self.specs: list[MaskSpec] = []
        self.error: Exception | None = None

    async def mask(self, spec: MaskSpec) -> FoundMask:
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        width, height = open_picture(spec.image).size
        mask = Image.new("L", (width, height))
        if spec.words != "nothing":
            mask.paste(255, (0, 0, width // 2, height))
        coverage = float(np.mean(np.asarray(mask) > 127))
        return FoundMask(mask=saved(mask), coverage=coverage, width=width, height=height)


class ScriptedPipelines:
    """One pipeline for every model and every route."""

    def __init__(self, pipeline: ScriptedPipeline, *, is_ready: bool = True) -> None:
        self.pipeline = pipeline
        self.sight = ScriptedPerception()
        self.asked_for: list[str] = []
        self.is_ready = is_ready

    def text_to_image(self, model_id: str) -> ScriptedPipeline:
        self.asked_for.append(model_id)
        return self.pipeline

    image_to_image = inpaint = gender_swap = upscale = text_to_image

    def perception(self, model_id: str) -> ScriptedPerception:
        self.asked_for.append(model_id)
        return self.sight

    async def ready(self) -> bool:
        return self.is_ready


class Service:
    """The API over a scripted pipeline, with a client connected to it.

    Without a ``folder`` to keep it in, there is no store, and opening one fails.
    """

    def __init__(
        self,
        *script: Step,
        folder: Path | None = None,
        settings: RouterSettings | None = None,
        is_ready: bool = True,
        prompt_rules: bool = False,
        echo_request_id: bool = True,
        models: tuple[ModelInfo, ...] = (MINI, PHOTO),
    ) -> None:
        self.pipeline = ScriptedPipeline(*script)
        self.pipelines = ScriptedPipelines(self.pipeline, is_ready=is_ready)
        self.trainer = SmallTrainer(folder)
        self.api: FastAPI = build_api(
            self.pipelines,
            self.trainer,
            Records(lambda: self.trainer.store),
            models,
            settings or RouterSettings(),
            prompt_rules=prompt_rules,
            echo_request_id=echo_request_id,
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.api), base_url="http://test", headers={"Accept": "*/*"}
        )

    @staticmethod
    def settings_with(**limits: Any) -> RouterSettings:
        """Settings with some limits changed."""
        return RouterSettings(limits=RequestLimits(**limits))

    async def draw(self, accept: str = "*/*", **members: Any) -> httpx.Response:
        """Ask for a picture, of something unless told of what."""
        body = {"prompt": "portrait of a man"} | members
        return await self.client.post("/v1/text-to-image", json=body, headers={"Accept": accept})

    async def edit(
        self, noun: str, *, form: bool = False, accept: str = "*/*", **members: Any
    ) -> httpx.Response:
        """Send members to ``/v1/noun`` as JSON or as a form; bytes are pictures."""
        path, headers = f"/v1/{noun}", {"Accept": accept}
        if form:
            return await self.client.post(path, files=as_parts(members), headers=headers)
        return await self.client.post(path, json=in_base64(members), headers=headers)

    async def post(self, content: Any, **headers: str) -> httpx.Response:
        """Send raw bytes, or an asynchronous iterator of them, as JSON."""
        typed = {"Content-Type": "application/json", **headers}
        return await self.client.post("/v1/text-to-image", content=content, headers=typed)


class HangingUp:
    """An ASGI client that sends one request, keeps what it is sent, and hangs up when told to."""

    def __init__(
        self,
        api: FastAPI,
        body: dict[str, Any],
        *,
        path: str = "/v1/text-to-image",
        method: str = "POST",
        more_body: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        content = json.dumps(body).encode()
        self._inbox.put_nowait({"type": "http.request", "body": content, "more_body": more_body})
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in (headers or {"Content-Type": "application/json"}).items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self.call = asyncio.create_task(api(scope, self._inbox.get, self.received.put))

    def hang_up(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})


def in_base64(members: dict[str, Any]) -> dict[str, Any]:
    """Members as JSON has them."""
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in members.items()
    }


def as_parts(members: dict[str, Any]) -> list[tuple[str, Any]]:
    """Members as the parts of a form, pictures named as OpenAI's clients name bytes."""
    parts: list[tuple[str, Any]] = []
    for name, value in members.items():
        if isinstance(value, bytes):
            parts.append((name, ("upload", value, "application/octet-stream")))
        elif isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            parts += [part for item in value for part in as_parts({name: item})]
        elif value is not None:
            parts.append((name, (None, value if isinstance(value, str) else json.dumps(value))))
    return parts


def events_of(body: str) -> list[tuple[str, dict[str, Any]]]:
    """The named events of a stream, as a browser would read them."""
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
