"""Draw a grid of pictures: python -m weights.recipe.sample --model weights/mini --out grid.png.

Fixed prompts and seeds, one row per guidance scale, so that grids of two models can be compared by eye.
"""

import argparse
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from weights.recipe.architecture import RESOLUTION

PROMPTS: Final = (
    "cartoon portrait of a smiling man, brown beard, short brown hair, green t-shirt, blue background",
    "flat portrait of a woman with long wavy red hair and glasses in a purple sweater, yellow background",
    "minimal portrait of a laughing man with dark skin and black hair, orange background",
    "a red robot on a white background",
    "a purple monster with three eyes, green background",
    "a landscape with blue hills and a sun",
    "a planet with rings",
    "pixel art portrait of a woman with pink hair",
)


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, seed: int
) -> Image.Image:
    """Return the pictures of prompts side by side; picture i starts from seed + i."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    pictures = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        height=RESOLUTION,
        width=RESOLUTION,
    ).images
    row = Image.new("RGB", (RESOLUTION * len(prompts), RESOLUTION))
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * RESOLUTION, 0))
    return row


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, draw a row per guidance scale and write the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", action="append", help="instead of the fixed prompts; may be repeated")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pipeline = StableDiffusionPipeline.from_pretrained(options.model, dtype=torch.bfloat16)
    prompts = options.prompt or list(PROMPTS)
    rows = [draw(pipeline, prompts, scale, options.steps, options.seed) for scale in options.guidance]
    grid = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        grid.paste(row, (0, index * RESOLUTION))
    grid.save(options.out)


if __name__ == "__main__":
    main()
