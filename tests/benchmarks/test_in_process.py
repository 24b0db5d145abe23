"""The embedded model's pipelines in this process, with an adapter and without."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.in_process import InProcess
from benchmarks.swaps import portraits
from core import images
from core.specs import (
    AdapterUse,
    GenderSwapSpec,
    GenerationSpec,
    InpaintMode,
    InpaintSpec,
    Presentation,
    SwapScope,
    TextToImageSpec,
)
from core.types import Completed, OutputFormat, SamplerName
from store.blobs import Blobs
from tests.adapter_files import put, random_layers
from weights import registry
from weights.adapters import AdapterWeights
from weights.recipe import dataset

COMMON: dict[str, Any] = {
    "request_id": "r",
    "prompt": "portrait of sks man",
    "negative_prompt": "",
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "seed": 1,
    "num_images": 1,
    "sampler": SamplerName.EULER,
}
PORTRAIT = np.ascontiguousarray(np.asarray(dataset.render(portraits(1)[0])))
IMAGE = images.encode(PORTRAIT, OutputFormat.PNG)
DRAWN = TextToImageSpec(**COMMON, width=128, height=128)
PAINTED = InpaintSpec(**COMMON, image=IMAGE, mode=InpaintMode.REPLACE, mask_prompt="hair")
SWAPPED = GenderSwapSpec(
    **COMMON | {"prompt": ""},
    image=IMAGE,
    target=Presentation.WOMAN,
    scope=SwapScope.PORTRAIT,
    strength=0.6,
)


async def picture(generate: Callable[[Any], Any], spec: GenerationSpec) -> npt.NDArray[np.int16]:
    *_, last = [event async for event in generate(spec)]
    assert isinstance(last, Completed)
    with Image.open(io.BytesIO(last.pictures[0].image)) as file:
        return np.asarray(file, np.int16)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    made = Blobs(f"file://{tmp_path_factory.mktemp('blobs')}")
    unet = registry.load_unet("mini")
    put(made, "adp_1", AdapterWeights(random_layers(unet, 0, scale=0.1), {}))
    return made


def test_an_adapter_acts_in_every_pipeline(blobs: Blobs) -> None:
    use = AdapterUse(adapter_id="adp_1", weight=1.0, sha256="", subject_words="sks man")
    with InProcess("mini", 1, blobs=blobs) as pipelines:
        runs = (
            (pipelines.text_to_image.generate, DRAWN),
            (pipelines.inpaint, PAINTED),
            (pipelines.gender_swap.generate, SWAPPED),
        )
        for generate, spec in runs:
            # A loop of its own for each, as in a script.
            plain = asyncio.run(picture(generate, spec))
            adapted = asyncio.run(picture(generate, replace(spec, adapters=(use,))))
            assert np.abs(plain - adapted).max() > 20, type(spec).__name__
        swap = pipelines.inpainted["r"]
        assert "portrait of sks woman" in swap.prompt
        assert swap.adapters == (use,)
