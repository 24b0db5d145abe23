"""What the OpenAPI document shows for the routes that take pictures. The pictures are cut short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Examples = Mapping[str, tuple[str, dict[str, Any]]]
PICTURE = "iVBORw0KGgoAAAANSUhEUgAA…"

# Name, summary, members.
IMAGE_TO_IMAGE: Examples = {
    "restyle": (
        "The same layout, drawn differently",
        {"image": PICTURE, "prompt": "portrait of a woman, watercolor", "strength": 0.6, "seed": 7},
    ),
    "variation": (
        "Four variations, without words",
        {"image": PICTURE, "strategy": "variation", "n": 4},
    ),
    "preserve": (
        "Change what the prompt names and keep the rest",
        {
            "image": f"data:image/png;base64,{PICTURE}",
            "strategy": "preserve",
            "prompt": "portrait of a man wearing glasses",
        },
    ),
    "hires": (
        "Twice as large, in a second pass",
        {"image": PICTURE, "prompt": "a green planet", "hires": {"scale": 2, "strength": 0.4}},
    ),
}
MASK: Examples = {"hair": ("Where is the hair?", {"image": PICTURE, "words": "hair"})}
INPAINT: Examples = {
    "words": (
        "Replace what words name",
        {"image": PICTURE, "mask_prompt": "hair", "prompt": "short blond hair", "mask_feather": 4},
    ),
    "mask": (
        "Replace what a mask covers",
        {"image": PICTURE, "mask": PICTURE, "prompt": "a navy t-shirt"},
    ),
    "remove": ("Remove an object", {"image": PICTURE, "mode": "remove", "mask_prompt": "glasses"}),
    "add": (
        "Add something inside a rectangle",
        {
            "image": PICTURE,
            "mode": "add",
            "box": {"left": 20, "top": 8, "width": 90, "height": 40},
            "prompt": "a red hat",
        },
    ),
    "outpaint": (
        "Go on beyond the edges",
        {"image": PICTURE, "mode": "outpaint", "margins": {"left": 32, "right": 32}},
    ),
    "task": (
        "Follow the outline of a mask",
        {
            "image": PICTURE,
            "mask": PICTURE,
            "task": "shape_guided",
            "fitting_degree": 0.8,
            "prompt": "a robot",
        },
    ),
}
GENDER_SWAP: Examples = {
    "shortest": ("The opposite of what the portrait shows", {"image": PICTURE}),
    "target": (
        "A target, and words of one's own",
        {"image": PICTURE, "target": "woman", "prompt": "long curly hair", "strength": 0.7, "seed": 3},
    ),
}
UPSCALE: Examples = {
    "shortest": ("Twice as large", {"image": PICTURE, "scale": 2}),
    "settings": (
        "Four times as large, with words about the picture",
        {"image": PICTURE, "scale": 4, "prompt": "portrait of a man", "output_format": "webp"},
    ),
}
