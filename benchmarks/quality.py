"""How good the embedded model's edits are: masks from words, and gender swaps of held-out portraits.

The pipelines run in this process, without Ray, from fixed seeds. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import transformers
from PIL import Image

from benchmarks import swaps
from benchmarks.in_process import InProcess
from benchmarks.swaps import Swap
from core import images
from core.errors import LimnerError
from core.specs import GenderSwapSpec, SwapScope
from core.types import Completed, OutputFormat
from core.uploads import open_mask
from deployments.pipeline.inpainting import masks
from weights import registry
from weights.perception import load_perception
from weights.recipe import dataset, evaluate_perception, grid
from weights.recipe.scenes import Scene
from weights.recipe.train_vae import to_tensor

# What the service takes when a request does not say.
_STRENGTH, _STEPS = 0.6, 30
# As many at a time as fill the engine's rows.
_AT_ONCE = 8
_ON_SHEET = 48


def mask_quality(model_id: str, num: int) -> dict[str, Any]:
    """IoU of every class, their mean, and false alarms, asked in plain words of ``num`` renderings."""
    tokenizer, network, _ = load_perception(model_id)
    samples = evaluate_perception.held_out_samples(num)
    asked = [evaluate_perception.asked_of(sample, varied=False) for sample in samples]
    pictures = to_tensor(np.stack([sample.picture for sample in samples])).contiguous()
    found = evaluate_perception.found_masks(network, tokenizer, pictures, asked)
    return {"num": num, **evaluate_perception.mask_figures(samples, asked, found)}


async def swap_all(
    pipelines: InProcess, scenes: Sequence[Scene], scope: SwapScope
) -> list[Swap | LimnerError]:
    """The swap of every scene's portrait, or why there is none."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(scene: Scene) -> Swap | LimnerError:
        async with places:
            try:
                return await swap_one(pipelines, scene, scope)
            except LimnerError as error:
                return error

    return await asyncio.gather(*map(one, scenes))


async def swap_one(pipelines: InProcess, scene: Scene, scope: SwapScope) -> Swap:
    """The swap of one portrait, drawn from the scene's seed. Raises what the pipeline raises."""
    before = np.asarray(dataset.render(scene))
    info = pipelines.info
    spec = GenderSwapSpec(
        request_id=str(scene.seed),
        prompt="",
        negative_prompt="",
        num_inference_steps=_STEPS,
        guidance_scale=info.default_guidance_scale,
        seed=scene.seed % 2**32,
        num_images=1,
        sampler=info.default_sampler,
        image=images.encode(before, OutputFormat.PNG),
        target=swaps.opposite(scene),
        scope=scope,
        strength=_STRENGTH,
    )
    *_, last = [event async for event in pipelines.gender_swap.generate(spec)]
    assert isinstance(last, Completed), "a stream that raises nothing ends with Completed"
    after = np.asarray(Image.open(io.BytesIO(last.pictures[0].image)).convert("RGB"))
    return Swap(scene, before, after, _painted(pipelines, spec.request_id, before))


def _painted(pipelines: InProcess, request_id: str, before: swaps.Pixels) -> swaps.Region:
    """Where inpainting was allowed to paint; everywhere for a swap of the whole picture."""
    asked = pipelines.inpainted.get(request_id)
    if asked is None or asked.mask is None:
        return np.ones(before.shape[:2], bool)
    mask = open_mask(asked.mask, size=(before.shape[1], before.shape[0]))
    return masks.grown(mask, asked.mask_grow or 0) > 0


def write_pictures(folder: Path, done: Sequence[Swap]) -> None:
    """Write ``swaps.png``: portraits and their swaps, side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [
        grid.Pair(swap.before, swap.after, f"{swap.scene.subject} to {swaps.opposite(swap.scene)}")
        for swap in done[:_ON_SHEET]
    ]
    grid.sheet(pairs, columns=6).save(folder / "swaps.png", optimize=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--model", default="mini", help="an id of the registry that draws the recipe's world")
    parser.add_argument("--num", type=int, default=100, help="portraits, and renderings for masks")
    parser.add_argument("--scope", type=SwapScope, choices=list(SwapScope), default=SwapScope.PORTRAIT)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of portraits and their swaps")
    options = parser.parse_args(arguments)
    if options.num < 1:
        parser.error("--num must be 1 or more")
    if options.model not in {model.model_id for model in registry.list_models()}:
        parser.error(f"there is no model {options.model}")
    return options


def main() -> None:
    options = parse()
    for loader in (diffusers.utils.logging, transformers.utils.logging):
        loader.set_verbosity_error()
        loader.disable_progress_bar()
    began = time.monotonic()
    found = mask_quality(options.model, options.num)
    print(f"masks: mean IoU {found['mean_iou']}, false alarms {found['false_alarms']['share']}", flush=True)
    with InProcess(options.model, options.threads) as pipelines:
        results = asyncio.run(swap_all(pipelines, swaps.portraits(options.num), options.scope))
    done = [result for result in results if isinstance(result, Swap)]
    refused = [str(result) for result in results if isinstance(result, LimnerError)]
    for reason in sorted(set(refused)):
        print(f"refused: {refused.count(reason)} × {reason}")
    if options.pictures:
        write_pictures(options.pictures, done)
    report = {
        "benchmark": "quality",
        "model": options.model,
        "masks": found,
        "gender_swap": {"scope": options.scope, **swaps.figures(done, len(refused))},
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
