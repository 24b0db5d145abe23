"""What is asked of a personal adapter, and how much of it pictures show. Knows the attribute classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch

from benchmarks.characters import IDENTITY, Character, Wear
from benchmarks.swaps import Pixels
from weights.recipe import classifier
from weights.recipe.captions import canonical
from weights.recipe.evaluate import held_out_scenes
from weights.recipe.scenes import Scene

Shares = dict[str, float]

PROMPTED = ("clothes_color", "background")
GOALS = {"identity": 0.8, "prompt": 0.8}
# What a gender swap is to keep; beards come and go with it.
KEPT_IN_SWAP = ("look", "skin", "hair_color", "glasses")
# Of pictures of others: what an adapter may take from them, in share of attributes.
UNHARMED = 0.05
_SAME_COLOR = 6


def prompt_of(subject_words: str, wear: Wear) -> str:
    """The subject in new clothes before a new background, as a member would ask for it."""
    return f"portrait of {subject_words}, {wear.clothes_color} {wear.clothes}, {wear.background} background"


def new_wears(character: Character, num: int, known: Sequence[Wear]) -> list[Wear]:
    """So many that the photos do not show."""
    return [wear for wear in character.wears(2 * num + len(known), 1) if wear not in known][:num]


def strangers(num: int) -> list[Scene]:
    """Held-out portraits of others, whose captions say all that the classifier can tell."""
    scenes = held_out_scenes(6 * num)
    return [scene for scene in scenes if scene.look and not scene.style][:num]


def caption_of(scene: Scene) -> str:
    """What a stranger's picture is asked for with."""
    return canonical(scene)


class Judge:
    """The attribute classifier, asked how often pictures show what they should."""

    def __init__(self) -> None:
        self._classifier = classifier.load()

    def shares(self, pictures: Sequence[Pixels], wanted: Sequence[Mapping[str, str]]) -> Shares:
        """The share of ``pictures`` that show each attribute of ``wanted``, one of which each has."""
        found = self._classifier.classify(torch.from_numpy(np.stack(pictures)))
        right: dict[str, list[bool]] = {}
        for answers, facts in zip(found, wanted, strict=True):
            for key, value in facts.items():
                right.setdefault(key, []).append(answers[key] == value)
        return {key: fmean(answers) for key, answers in right.items()}

    def identity(self, character: Character, pictures: Sequence[Pixels]) -> Shares:
        return self.shares(pictures, [character.attributes] * len(pictures))

    def prompted(self, wears: Sequence[Wear], pictures: Sequence[Pixels]) -> Shares:
        return self.shares(pictures, [{key: getattr(wear, key) for key in PROMPTED} for wear in wears])

    def strangers(self, scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> Shares:
        keys = {*IDENTITY, *PROMPTED}
        wanted = [
            {key: value for key, value in classifier.shown(scene).items() if key in keys} for scene in scenes
        ]
        return self.shares(pictures, wanted)


def mean_of(shares: Mapping[str, float]) -> float:
    return fmean(shares.values())


def skin_distance(character: Character, photo: Pixels, picture: Pixels) -> float:
    """How far ``picture`` is, in levels of 255, from the character's skin colour where ``photo`` shows it.

    The median over those pixels of the largest difference of a channel: it tells shades apart that have
    one name.
    """
    skin = np.array(character.skin, np.int16)
    shown = np.abs(photo.astype(np.int16) - skin).max(axis=-1) <= _SAME_COLOR
    return float(np.median(np.abs(picture.astype(np.int16) - skin).max(axis=-1)[shown]))


def by_attribute(of_all: Sequence[Mapping[str, float]]) -> Shares:
    """The mean share of each attribute over those of ``of_all`` that have it."""
    keys = dict.fromkeys(key for shares in of_all for key in shares)
    return {key: round(fmean(shares[key] for shares in of_all if key in shares), 3) for key in keys}
