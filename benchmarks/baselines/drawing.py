"""Diffusers pipelines over one set of weights, as the services around them call them. Knows no service."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from benchmarks.baselines.asking import Asking
from core.types import SamplerName
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from deployments.engine.unet import fast_unet
from weights import registry

KERNELS = ("stock", "limner", "compiled")


@dataclass(slots=True)
class Counters:
    """What has been computed. ``busy_s`` is all the time in pipeline calls."""

    calls: int = 0
    pictures: int = 0
    steps: int = 0
    row_steps: int = 0
    busy_s: float = 0.0


class Drawer:
    """One model for one call at a time; a call has requests of equal settings."""

    def __init__(self, model_id: str = "mini", kernels: str = "stock", adapters: Path | None = None) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.counters = Counters()
        folder = registry.part_folder(model_id, "unet").parent
        # bfloat16 where Limner finds it faster, too: the same question, asked in the same way.
        tuned, dtype = fast_unet(registry.load_unet(model_id), "auto", "cpu", 0)
        text = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
        if kernels == "limner":
            text.register_modules(unet=tuned)
        for part in (text.unet, text.vae):
            part.to(memory_format=torch.channels_last)
        schedule = NoiseSchedule.from_config(text.scheduler.config)
        text.register_modules(scheduler=scheduler_for(SamplerName.DPMPP_2M, schedule))
        self._adapters = sorted(adapters.glob("*.safetensors")) if adapters else []
        for file in self._adapters:
            text.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=file.stem)
        if self._adapters:
            text.disable_lora()
        if kernels == "compiled":
            text.unet.compile(dynamic=False)
        self._adapter: str | None = None
        text.unet.register_forward_pre_hook(self._count)
        self._pipelines: dict[str, Any] = {
            "text": text,
            "image": StableDiffusionImg2ImgPipeline.from_pipe(text, dtype=dtype),
            "inpaint": StableDiffusionInpaintPipeline.from_pipe(text, dtype=dtype),
        }
        for pipeline in self._pipelines.values():
            pipeline.set_progress_bar_config(disable=True)

    def draw(self, asked: Sequence[Asking]) -> list[bytes]:
        """A PNG file for each; all ask for the same settings."""
        began = time.perf_counter()
        first = asked[0]
        self._use(first.adapter)
        options: dict[str, Any] = {}
        if first.pipeline != "text":
            options = {"image": [_picture(each.image) for each in asked], "strength": first.strength}
        if first.pipeline == "inpaint":
            options["mask_image"] = [_picture(each.mask) for each in asked]
        with torch.inference_mode():
            pictures = self._pipelines[first.pipeline](
                prompt=[each.prompt for each in asked],
                num_inference_steps=first.num_inference_steps,
                guidance_scale=first.guidance_scale,
                generator=[torch.Generator().manual_seed(each.seed) for each in asked],
                **options,
            ).images
        self.counters.calls += 1
        self.counters.pictures += len(asked)
        self.counters.busy_s += time.perf_counter() - began
        return [_file(picture) for picture in pictures]

    def told(self) -> dict[str, float]:
        return asdict(self.counters)

    def _use(self, adapter: str | None) -> None:
        """Switch adapters only where the last call had another one."""
        if adapter == self._adapter:
            return
        text = self._pipelines["text"]
        if adapter is None:
            text.disable_lora()
        else:
            text.set_adapters(adapter)
            text.enable_lora()
        self._adapter = adapter

    def _count(self, _: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        self.counters.steps += 1
        self.counters.row_steps += len(arguments[0])


def _picture(data: str | None) -> Image.Image:
    assert data is not None, "the pipeline starts from a picture"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def _file(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
