"""The denoise engine against diffusers' ``StableDiffusionPipeline``: same weights, steps, sampler, seeds.

Both sides turn prompts into pixels in three timed stages (encode, denoise, decode), in this process, in
turns; medians are reported. Several requests are one batched call for the pipeline, its best case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from benchmarks.sides import Clock, LimnerSide, PipelineSide, Pixels, Side, Workload
from core.types import SamplerName

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "weights" / "mini"
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
STAGES = ("encode", "denoise", "decode", "total")
PROMPTS = (
    "a portrait of a smiling woman with red hair and glasses, blue background",
    "a green robot, orange background",
    "a landscape with mountains and a lake at sunset",
    "a man with a beard in a yellow shirt, sepia",
    "a purple monster with three eyes",
    "a planet with rings, dark background",
    "abstract shapes in pink and teal",
    "a portrait of an old man with a hat, pixel art",
)


def timed(side: Side, num_requests: int, clock: Clock) -> tuple[dict[str, float], Sequence[Pixels]]:
    """Milliseconds of each stage by ``clock``, and the pictures."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(num_requests)]
    marks = [clock()]
    embeddings = side.encode(prompts)
    marks.append(clock())
    latents = side.denoise(embeddings, range(num_requests))
    marks.append(clock())
    pictures = side.decode(latents)
    marks.append(clock())
    taken = [1_000 * (end - start) for start, end in itertools.pairwise(marks)]
    return dict(zip(STAGES, (*taken, sum(taken)), strict=True)), pictures


def psnr_db(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of two pictures; 99 for equal ones."""
    error = float(np.square(a.astype(float) - b.astype(float)).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def compare(sides: Mapping[str, Side], work: Workload) -> list[dict[str, Any]]:
    """One result per request count: median milliseconds of each side's stages, and the speed-ups."""
    taken: dict[tuple[int, str], list[dict[str, float]]] = {}
    for repeat in range(work.repeats + 1):
        for count in work.requests:
            for name, side in sides.items():
                stages, _ = timed(side, count, work.clock)
                # The first round warms up: allocator, oneDNN's caches, sampler tables.
                if repeat:
                    taken.setdefault((count, name), []).append(stages)
    return [summary(count, {name: taken[count, name] for name in sides}) for count in work.requests]


def summary(count: int, taken: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, and how many times as fast as each baseline the first side is."""
    medians = {
        name: {stage: round(statistics.median(run[stage] for run in runs), 1) for stage in STAGES}
        for name, runs in taken.items()
    }
    ours, *baselines = medians
    speedup = {
        name: {stage: round(medians[name][stage] / medians[ours][stage], 2) for stage in ("denoise", "total")}
        for name in baselines
    }
    return {"requests": count, "ms": medians, "speedup": speedup}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results for people."""
    names = list(results[0]["ms"])
    lines = ["requests  stage    " + "".join(f"{name:>20}" for name in names) + "   (ms)"]
    for result in results:
        for stage in STAGES:
            cells = [f"{result['ms'][name][stage]:.0f}" for name in names]
            for i, name in enumerate(names[1:], start=1):
                if stage in result["speedup"][name]:
                    cells[i] += f" ({result['speedup'][name][stage]:.2f}x)"
            lines.append(f"{result['requests']:>8}  {stage:<9}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> Workload:
    """The workload of a command line; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    positive = _integer_from(1)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="folder in diffusers layout")
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--sampler", type=SamplerName, choices=list(SamplerName), default=SamplerName.DDIM)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--requests", type=positive, nargs="+", default=[1, 2, 4, 8], help="concurrent ones")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--threads", type=_integer_from(0), default=0, help="0 for every core")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: processor time; with --threads 1 a busy machine then measures like an idle one",
    )
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    chosen = parser.parse_args(arguments)
    if not (chosen.model / "model_index.json").is_file():
        parser.error(f"no model in {chosen.model}")
    return Workload(
        model=chosen.model,
        steps=chosen.steps,
        sampler=chosen.sampler,
        guidance_scale=chosen.guidance_scale,
        requests=tuple(chosen.requests),
        repeats=chosen.repeats,
        num_threads=chosen.threads or len(os.sched_getaffinity(0)),
        precision=chosen.precision,
        clock=CLOCKS[chosen.clock],
    )


def _integer_from(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return value

    return integer


def main() -> None:
    work = parse()
    for loader in (diffusers.utils.logging, transformers.utils.logging):
        loader.set_verbosity_error()
        loader.disable_progress_bar()
    limner = LimnerSide(work)
    pipeline = PipelineSide(work, torch.float32)
    sides: dict[str, Side] = {
        "engine": limner,
        "pipeline float32": pipeline,
        "pipeline bfloat16": PipelineSide(work, torch.bfloat16),
    }
    torch.set_num_threads(work.num_threads)
    likeness = psnr_db(timed(limner, 1, work.clock)[1][0], timed(pipeline, 1, work.clock)[1][0])
    results = compare(sides, work)
    limner.unet.spent_s = 0.0
    denoise_ms = timed(limner, 1, work.clock)[0]["denoise"]
    report = {
        "benchmark": "engine",
        "model": work.model.name,
        "sampler": work.sampler,
        "steps": work.steps,
        "num_threads": work.num_threads,
        "precision": limner.dtype,
        "psnr_db_to_pipeline_float32": round(likeness, 1),
        "unet_share_of_denoise": round(1_000 * limner.unet.spent_s / denoise_ms, 3),
        "results": results,
    }
    print(table(results))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
