"""Gender swaps of held-out portraits, counted: whom they show, what they keep, which pixels they leave.

Knows pixels, masks and the attribute classifier; not how a swap is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.specs import Presentation
from weights.recipe import classifier
from weights.recipe.parts import mask, part_map
from weights.recipe.scenes import HELD_OUT_SEED, Scene, draw

Pixels = npt.NDArray[np.uint8]
Region = npt.NDArray[np.bool_]

GOALS = {"presentation": 0.9, "skin": 0.9, "identical_outside_mask": 1.0}
# What the classifier is asked about: the same in portrait and swap, but for the person.
_KEPT = ("skin", "background", "look", "clothes_color", "hair_color", "glasses", "expression")
# Levels of 255: a pixel of the background that is further off has become hair or clothes.
_STILL_BACKGROUND = 32


@dataclass(frozen=True, eq=False)
class Swap:
    """One portrait and what became of it; ``painted`` is all that inpainting may have changed."""

    scene: Scene
    before: Pixels
    after: Pixels
    painted: Region


def portraits(num: int) -> list[Scene]:
    """The first ``num`` held-out portraits without a style, whose colours the classifier can tell."""
    found: list[Scene] = []
    for seed in count(HELD_OUT_SEED):
        if len(found) == num:
            break
        scene = draw(seed)
        if scene.look and not scene.style:
            found.append(scene)
    return found


def opposite(scene: Scene) -> Presentation:
    """Whom the scene's swap is to show."""
    return Presentation.MAN if scene.subject == "woman" else Presentation.WOMAN


def figures(swaps: Sequence[Swap], num_refused: int = 0) -> dict[str, Any]:
    """Shares of all ``swaps``; a portrait that was refused counts as one that shows and keeps nothing."""
    judge = classifier.load()
    found = judge.classify(torch.from_numpy(np.stack([swap.after for swap in swaps])))
    total = len(swaps) + num_refused
    presented = [
        answers["subject"] == opposite(swap.scene) for swap, answers in zip(swaps, found, strict=True)
    ]
    kept = {key: _kept(key, swaps, found, num_refused) for key in _KEPT}
    pixels = pixel_figures(swaps)
    reached = {
        "presentation": sum(presented) / total,
        "skin": kept["skin"],
        "identical_outside_mask": pixels["identical_outside_mask"],
    }
    return {
        "num": total,
        "refused": num_refused,
        "goals": {
            key: {"goal": goal, "reached": round(reached[key], 4), "met": reached[key] >= goal}
            for key, goal in GOALS.items()
        },
        "presentation_by_look": {
            f"{look} to {target}": f"{sum(right)}/{len(right)}"
            for (look, target), right in sorted(_by_look(swaps, presented).items())
        },
        "kept": {key: round(share, 4) for key, share in kept.items()},
        "pixels": {key: round(share, 4) for key, share in pixels.items()},
        "missed": [swap.scene.seed for swap, right in zip(swaps, presented, strict=True) if not right],
    }


def pixel_figures(swaps: Sequence[Swap]) -> dict[str, float]:
    """Shares of pixels that are the portrait's own, bit for bit.

    ``background`` is that of the exact mask; ``background_still_seen`` leaves out the part of it that
    something else was painted over, such as longer hair.
    """
    same = [(swap.before == swap.after).all(axis=-1) for swap in swaps]
    background = [mask(part_map(swap.scene), "background") for swap in swaps]
    off = [np.abs(swap.after.astype(np.int16) - swap.before).max(axis=-1) for swap in swaps]
    seen = [ground & (far <= _STILL_BACKGROUND) for ground, far in zip(background, off, strict=True)]
    return {
        "identical": _share(same, [np.ones_like(part) for part in same]),
        "identical_outside_mask": _share(same, [~swap.painted for swap in swaps]),
        "identical_background": _share(same, background),
        "identical_background_still_seen": _share(same, seen),
        "background_painted_over": 1 - _share(seen, background),
    }


def _share(having: Sequence[Region], among: Sequence[Region]) -> float:
    """The share of the pixels ``among`` that are ``having``, over all pictures; 1 where there are none."""
    total = sum(int(region.sum()) for region in among)
    right = sum(int((has & region).sum()) for has, region in zip(having, among, strict=True))
    return right / total if total else 1.0


def _kept(key: str, swaps: Sequence[Swap], found: Sequence[dict[str, str]], num_refused: int) -> float:
    """The share of portraits that show ``key`` whose swap is found to show the same."""
    pairs = [
        (classifier.shown(swap.scene).get(key), answers[key])
        for swap, answers in zip(swaps, found, strict=True)
    ]
    right = [shown == answer for shown, answer in pairs if shown is not None]
    return sum(right) / max(1, len(right) + num_refused)


def _by_look(swaps: Sequence[Swap], presented: Sequence[bool]) -> dict[tuple[str, str], list[bool]]:
    groups: dict[tuple[str, str], list[bool]] = {}
    for swap, right in zip(swaps, presented, strict=True):
        groups.setdefault((swap.scene.look, opposite(swap.scene).value), []).append(right)
    return groups
