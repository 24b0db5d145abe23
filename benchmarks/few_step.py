"""A picture in few steps beside one in many: seconds from words to the picture file, in one process.

Both ways in turns, alone and several at once, through the service's own pipeline. The last line is one line
of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import diffusers
import transformers

from benchmarks.in_process import InProcess
from core.specs import TextToImageSpec
from core.types import Completed, ModelInfo
from weights.recipe.sample import PROMPTS

_MODEL = "mini"


def specs(info: ModelInfo) -> dict[str, TextToImageSpec]:
    """A picture as the model draws it with its few-step adapter, and without."""
    assert info.few_step is not None, "the embedded model has a few-step adapter"
    ordinary = TextToImageSpec(
        request_id="",
        prompt="",
        negative_prompt="",
        num_inference_steps=info.default_num_inference_steps,
        guidance_scale=info.default_guidance_scale,
        seed=0,
        num_images=1,
        sampler=info.default_sampler,
        width=info.default_size,
        height=info.default_size,
    )
    few_step = replace(
        ordinary,
        few_step=True,
        num_inference_steps=info.few_step.num_inference_steps,
        guidance_scale=info.few_step.guidance_scale,
        sampler=info.few_step.sampler,
    )
    return {"few_step": few_step, "ordinary": ordinary}


async def seconds(pipelines: InProcess, spec: TextToImageSpec, num: int, seed: int) -> float:
    """How long num pictures take that are asked for at once, new prompts among them."""

    async def draw(number: int) -> None:
        # A prompt that nobody had before is encoded, too.
        words = f"{PROMPTS[number % len(PROMPTS)]}, {seed}"
        asked = replace(spec, request_id=f"{seed}-{number}", prompt=words, seed=seed + number)
        *_, last = [event async for event in pipelines.text_to_image.generate(asked)]
        assert isinstance(last, Completed)

    began = time.perf_counter()
    await asyncio.gather(*(draw(number) for number in range(num)))
    return time.perf_counter() - began


async def run(options: argparse.Namespace) -> dict[str, Any]:
    taken: dict[int, dict[str, list[float]]] = {}
    with InProcess(_MODEL, options.threads) as pipelines:
        ways = specs(pipelines.info)
        for way in ways.values():
            await seconds(pipelines, way, max(options.at_once), seed=0)
        for num in options.at_once:
            taken[num] = {name: [] for name in ways}
            for repeat in range(options.repeats):
                for name, way in ways.items():
                    seed = 1_000 * (1 + repeat) + num
                    taken[num][name].append(await seconds(pipelines, way, num, seed))
    medians = {
        num: {name: round(median(each), 3) for name, each in ways.items()} for num, ways in taken.items()
    }
    return {"benchmark": "few_step", "threads": options.threads, "seconds": medians}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_step", description=__doc__)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8], help="requests at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    for loader in (diffusers.utils.logging, transformers.utils.logging):
        loader.set_verbosity_error()
        loader.disable_progress_bar()
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
