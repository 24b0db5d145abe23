"""Requests with a task through the whole pipeline in one process, with learned tokens and without."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from core.settings import PipelineSettings
from core.specs import InpaintMode, InpaintSpec, Margins, Task
from core.types import Completed, SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.engine.samplers import NoiseSchedule
from deployments.engine.thread import EngineThread
from deployments.pipeline.inpainting.conditioning import LatentBlending
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.networks import has_inpainting_unet, load_inpainting_unet
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import load_parts
from deployments.pipeline.powerpaint.conditioning import BRANCH
from deployments.pipeline.powerpaint.loading import layout_of, load_branch, load_task_prompts, load_v1_unet
from deployments.pipeline.powerpaint.plan import Planner
from deployments.pipeline.powerpaint.prompts import Layout
from deployments.pipeline.streaming import stream_events
from tests.powerpaint_files import build_v1_release, build_v2_release
from tests.tiny_family import build_tiny_family
from weights import powerpaint, registry

SIZE = 32
PIXELS = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
# An L, whose bounding box is much larger.
HOLE = np.zeros((SIZE, SIZE), np.uint8)
HOLE[4:24, 4:8] = HOLE[20:24, 4:24] = 255


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


SPEC = InpaintSpec(
    request_id="r",
    prompt="red cat",
    negative_prompt="dog",
    num_inference_steps=3,
    guidance_scale=5.0,
    seed=7,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=png(PIXELS),
    mask=png(HOLE),
    mask_grow=0,
    mask_feather=0,
    mode=InpaintMode.REPLACE,
)
REQUESTS = {
    Task.TEXT_GUIDED: replace(SPEC, task=Task.TEXT_GUIDED),
    Task.OBJECT_REMOVAL: replace(SPEC, task=Task.OBJECT_REMOVAL, mode=InpaintMode.REMOVE),
    Task.SHAPE_GUIDED: replace(SPEC, task=Task.SHAPE_GUIDED, fitting_degree=0.5),
    Task.OUTPAINTING: replace(
        SPEC, task=Task.OUTPAINTING, mode=InpaintMode.OUTPAINT, mask=None, margins=Margins(right=16)
    ),
}


class Service:
    """One pipeline and its Denoiser; keeps what was asked of the Denoiser."""

    def __init__(self, model_id: str, unet: object) -> None:
        branch = load_branch(model_id)
        engine = Engine(
            unet,  # type: ignore[arg-type]
            NoiseSchedule.from_config(registry.scheduler_config(model_id)),
            dtype=torch.float32,
            device="cpu",
            max_rows=8,
            max_queued_requests=16,
            cost=CostModel(),
            branches={} if branch is None else {BRANCH: branch},
        )
        self._engine, self.thread = engine, EngineThread(engine)
        self.asked: list[DenoiseRequest] = []
        settings = PipelineSettings(precision="float32", embedding_cache_entries=16)
        parts = load_parts(model_id, settings, "cpu")
        prompts = load_task_prompts(model_id, parts.prompts, device="cpu", cache_entries=16)
        planner = Planner(parts, LatentBlending(parts), prompts)
        self.pipeline = InpaintPipeline(parts, Painter(self.denoise), planner)
        self.thread.start()

    async def denoise(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        self.asked.append(request)
        async with aclosing(stream_events(self._engine, request)) as events:
            async for event in events:
                yield event

    async def drawn(self, spec: InpaintSpec) -> npt.NDArray[np.uint8]:
        events = [event async for event in self.pipeline.generate(spec)]
        assert isinstance(events[-1], Completed)
        return np.asarray(Image.open(io.BytesIO(events[-1].pictures[0].image)).convert("RGB"))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("families")
    plain, v1, v2 = (build_tiny_family(folder / name) for name in ("plain", "v1", "v2"))
    build_v1_release(v1 / "powerpaint", plain)
    build_v2_release(v2 / "powerpaint", plain)
    own, inpainting = build_tiny_family(folder / "own"), build_tiny_family(folder / "inpainting")
    tokenizer, encoder = powerpaint.load_v1_text(v1 / "powerpaint", plain)
    unet = powerpaint.load_v1_unet(v1 / "powerpaint", plain / "unet")
    for target in (own, inpainting / "inpaint"):
        tokenizer.save_pretrained(target / "tokenizer")
        encoder.save_pretrained(target / "text_encoder")
        unet.save_pretrained(target / "unet")
    return {path.name: f"path:{path}" for path in (plain, v1, v2, own, inpainting)}


@pytest.fixture
def service(families: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Service]:
    model_id = families[request.param]
    nine_channels = has_inpainting_unet(model_id)
    started = Service(
        model_id, load_inpainting_unet(model_id) if nine_channels else registry.load_unet(model_id)
    )
    yield started
    assert started.thread.stop(10)


def test_a_family_knows_its_layout(families: dict[str, str]) -> None:
    layouts = {name: layout_of(model_id) for name, model_id in families.items()}
    v1, v2 = Layout.V1, Layout.V2
    assert layouts == {"plain": None, "v1": v1, "v2": v2, "own": v1, "inpainting": v1}


def test_networks_come_with_the_release_that_has_them(families: dict[str, str]) -> None:
    assert [name for name, model_id in families.items() if load_branch(model_id)] == ["v2"]
    assert [name for name, model_id in families.items() if load_v1_unet(model_id)] == ["v1"]


@pytest.mark.parametrize("service", ["plain", "v1", "v2"], indirect=True)
@pytest.mark.parametrize("task", Task)
async def test_every_task_changes_its_hole_and_nothing_else(service: Service, task: Task) -> None:
    drawn = await service.drawn(REQUESTS[task])
    if task is Task.OUTPAINTING:
        assert drawn.shape == (SIZE, SIZE + 16, 3)
        assert np.array_equal(drawn[:, :SIZE], PIXELS)
        return
    ys, xs = np.nonzero(HOLE)
    outside = np.ones((SIZE, SIZE), bool)
    outside[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = False
    assert np.array_equal(drawn[outside], PIXELS[outside])
    assert not np.array_equal(drawn[HOLE > 0], PIXELS[HOLE > 0])


@pytest.mark.parametrize("service", ["v1", "own", "inpainting"], indirect=True)
async def test_tokens_are_found_wherever_the_family_has_them(service: Service) -> None:
    text, shape = [await service.drawn(REQUESTS[task]) for task in (Task.TEXT_GUIDED, Task.SHAPE_GUIDED)]
    one, other = service.asked
    assert one.extra_channels is not None
    assert one.branch is None
    assert not torch.equal(one.prompt_embeds, other.prompt_embeds)
    assert not np.array_equal(text, shape)


@pytest.mark.parametrize("service", ["v2"], indirect=True)
async def test_the_branch_is_shown_a_black_hole_and_a_mask_of_what_is_kept(service: Service) -> None:
    await service.drawn(REQUESTS[Task.OBJECT_REMOVAL])
    (asked,) = service.asked
    assert asked.branch is not None
    assert asked.guidance_scale == 10.0
    assert (asked.source, asked.mask, asked.extra_channels) == (None, None, None)
    mask = HOLE.reshape(SIZE // 4, 4, SIZE // 4, 4).max(axis=(1, 3)) > 0
    assert np.array_equal(asked.branch.conditioning[4].numpy(), np.where(mask, 0.0, 1.0))


@pytest.mark.parametrize("service", ["plain"], indirect=True)
async def test_without_tokens_a_loose_shape_paints_in_its_bounding_box(service: Service) -> None:
    shaped = REQUESTS[Task.SHAPE_GUIDED]
    exact = await service.drawn(replace(shaped, fitting_degree=1.0))
    loose = await service.drawn(replace(shaped, fitting_degree=0.0))
    assert np.array_equal(exact[HOLE == 0], PIXELS[HOLE == 0])
    inner = loose[4:20, 8:24]
    assert (inner != PIXELS[4:20, 8:24]).any(axis=-1).mean() > 0.9
