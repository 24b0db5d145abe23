"""A good request for each route that takes pictures."""

from __future__ import annotations

from typing import Any

from tests.picture_files import drawn_mask, saved, scene

PHOTO = saved(scene(160, 80))
MASK = saved(drawn_mask("L").resize((160, 80)))
PROMPT = "portrait of a man"
GOOD: dict[str, dict[str, Any]] = {
    "image-to-image": {"image": PHOTO, "prompt": PROMPT},
    "mask": {"image": PHOTO, "words": "hair"},
    "inpaint": {"image": PHOTO, "prompt": PROMPT, "mask": MASK},
    "gender-swap": {"image": PHOTO},
    "upscale": {"image": PHOTO, "scale": 2},
}
DRAWING = [noun for noun in GOOD if noun != "mask"]
EVERY_ROUTE = list(GOOD)
EITHER_WAY = [False, True]
