"""What requests say and show: held-out captions of the embedded world, and portraits with their exact masks.

Knows the renderer; nothing of models. A file keeps them, so that a run draws them once.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

NUM_PROMPTS, NUM_PICTURES = 400, 24
# Beyond the portraits, so that no prompt is one of theirs.
_PROMPTS_FROM = 500


@dataclass(frozen=True, slots=True)
class Shown:
    """A portrait. Pictures are PNG files in base64; ``clothes`` and ``person`` masks, white where to paint.

    ``prompt`` describes it, ``swapped`` somebody of the other gender who looks the same.
    """

    prompt: str
    swapped: str
    image: str
    clothes: str
    person: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """Prompts for text-to-image, so many that no cache of prompts helps, and portraits for edits."""

    prompts: tuple[str, ...]
    portraits: tuple[Shown, ...]


def load(path: Path) -> Inputs:
    """Those of the file; drawn if there is none."""
    if not path.is_file():
        path.write_text(json.dumps(asdict(_drawn())))
    told = json.loads(path.read_text())
    return Inputs(tuple(told["prompts"]), tuple(Shown(**each) for each in told["portraits"]))


def _drawn() -> Inputs:
    from benchmarks.swaps import opposite, portraits
    from weights.recipe import dataset
    from weights.recipe.captions import canonical, caption
    from weights.recipe.parts import mask, part_map
    from weights.recipe.scenes import HELD_OUT_SEED, draw

    shown = []
    for scene in portraits(NUM_PICTURES):
        parts = part_map(scene)
        shown.append(
            Shown(
                prompt=canonical(scene),
                swapped=canonical(scene).replace(scene.subject, opposite(scene).value, 1),
                image=_png(np.asarray(dataset.render(scene))),
                clothes=_png(mask(parts, "clothes").astype(np.uint8) * 255),
                person=_png(mask(parts, "person").astype(np.uint8) * 255),
            )
        )
    first = HELD_OUT_SEED + _PROMPTS_FROM
    prompts = tuple(caption(draw(seed), Random(seed)) for seed in range(first, first + NUM_PROMPTS))
    return Inputs(prompts, tuple(shown))


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
