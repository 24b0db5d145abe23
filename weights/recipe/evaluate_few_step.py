"""Measure the few-step adapter beside the model that it was distilled from:
python -m weights.recipe.evaluate_few_step --model weights/mini.

The same captions and seeds are drawn both ways by diffusers' own pipeline and judged by the attribute
classifier. Writes evaluation.json and a sheet of pairs, few steps on the left.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from weights import registry
from weights.recipe import classifier, grid
from weights.recipe.captions import canonical
from weights.recipe.draw import SAMPLERS, Drawer
from weights.recipe.evaluate import GRID_PAIRS, MEASURED, asked, held_out_scenes, share, shares
from weights.recipe.export_few_step import FILE
from weights.recipe.low_rank import merge

# The most that few steps may lose of any figure.
LOSS_GOAL: Final = 0.03


def psnr_db(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each of ``pictures`` ``[N, h, w, 3]`` against ``others``."""
    errors = np.square(pictures.astype(np.float64) - others).mean(axis=(1, 2, 3))
    decibels: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(errors, 1e-3))
    return decibels


def sharpness(pictures: NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighbouring pixels; less of it is blur."""
    values = pictures.astype(np.float64)
    return float((np.abs(np.diff(values, axis=1)).mean() + np.abs(np.diff(values, axis=2)).mean()) / 2)


def losses(few: dict[str, float | None], many: dict[str, float | None]) -> dict[str, float]:
    """How much of each figure few steps lose; below 0 where they gain."""
    found = {}
    for key, before in many.items():
        after = few[key]
        if before is not None and after is not None:
            found[key] = round(before - after, 4)
    return found


def compare(few: Drawer, many: Drawer, num: int) -> tuple[dict[str, object], list[grid.Pair]]:
    """All figures of num held-out captions drawn both ways, and the first pairs to look at."""
    judge = classifier.load()
    scenes = [scene for scene in held_out_scenes(num) if not scene.style][:num]
    prompts, wanted = [canonical(scene) for scene in scenes], [asked(scene) for scene in scenes]
    pictures, others = few.draw(prompts), many.draw(prompts)
    figures = [shares(judge.classify(torch.from_numpy(drawn)), wanted) for drawn in (pictures, others)]
    keys = [*MEASURED, "others_mean"]
    lost = losses(*({key: share(each, key) for key in keys} for each in figures))
    judged = ("subject", "background", "others_mean")
    report: dict[str, object] = {
        "few_step": figures[0],
        "ordinary": figures[1],
        "lost": lost,
        "goal": {"at_most": LOSS_GOAL, "met": all(lost.get(key, 1.0) <= LOSS_GOAL for key in judged)},
        "psnr_db": round(float(np.median(psnr_db(pictures, others))), 2),
        "sharpness": round(sharpness(pictures) / sharpness(others), 4),
    }
    return report, _pairs(pictures, others, prompts)


def _pairs(pictures: NDArray[np.uint8], others: NDArray[np.uint8], prompts: Sequence[str]) -> list[grid.Pair]:
    pairs = [grid.Pair(*three) for three in zip(pictures, others, prompts, strict=True)]
    return pairs[:GRID_PAIRS]


def _pipeline(model: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"))
    parser.add_argument("--adapter", type=Path, help="the model's own when left out")
    parser.add_argument("--num", type=int, default=200, help="captions that say everything")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default="ddim")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the UNet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of evaluation.json; the adapter's when left out")
    parser.add_argument("--grid", type=Path, help="the sheet of pairs; OUT/grid.png when left out")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and write; the last line of output is the report as JSON."""
    options = _parser().parse_args(arguments)
    adapter: Path = options.adapter or options.model / "few_step" / FILE
    out: Path = options.out or adapter.parent
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    info = registry.info("mini")
    common = {"seed": options.seed, "batch": options.batch, "dtype": getattr(torch, options.dtype)}
    distilled = _pipeline(options.model)
    merge(distilled.unet, adapter)
    few = Drawer(distilled, options.sampler, options.steps, options.guidance, **common)
    many = Drawer(
        _pipeline(options.model),
        info.default_sampler,
        info.default_num_inference_steps,
        info.default_guidance_scale,
        **common,
    )
    measured, pairs = compare(few, many, options.num)
    settings = ("num", "steps", "guidance", "sampler", "dtype", "seed")
    report = {
        "settings": {name: getattr(options, name) for name in settings},
        **measured,
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sheet_path: Path = options.grid or out / "grid.png"
    sheet_path.parent.mkdir(parents=True, exist_ok=True)
    grid.sheet(pairs).save(sheet_path, optimize=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
