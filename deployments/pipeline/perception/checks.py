"""Whether pictures may be shown: the Stable Diffusion safety checker, or zero-shot CLIP where there is none.

A check gives verdicts; it never changes a picture, and logs nothing of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from core.settings import SafetySettings
from core.specs import Verdict
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.views import Pixels, square_views
from weights.perception import PreprocessFacts

# The checker holds embeddings alone; the words behind its concepts were never published.
EXPLICIT = "explicit content"
# A picture that looks like one of the special concepts (children) is held to thresholds lower by this.
_SPECIAL_CARE = 0.01
# A check crops nothing away: whatever is not square is seen in overlapping squares, each as large as can be.
_NO_PADDING = 1.0


class PictureCheck(Protocol):
    """Judges pictures by square views of ``side`` pixels."""

    side: int

    async def verdict(self, views: Pixels) -> Verdict: ...

    def close(self) -> None: ...


def views_of(picture: Image.Image, check: PictureCheck) -> Pixels:
    """All of an RGB picture in square views ``[n, side, side, 3]``."""
    return square_views(picture, check.side, max_padded_ratio=_NO_PADDING).pixels


class ConceptCheck:
    """Stable Diffusion's safety checker: a picture near one of 17 concepts is blocked.

    The scores are those of diffusers' ``StableDiffusionSafetyChecker``; pictures that wait are judged
    together, at most ``max_batch`` of them.
    """

    def __init__(
        self, checker: Any, preprocessing: PreprocessFacts, *, device: str = "cpu", max_batch: int = 8
    ) -> None:
        self.side = preprocessing.size
        self._checker = checker.to(device).eval()
        self._device = torch.device(device)
        self._max_batch = max_batch
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._batcher: Batcher[Pixels, Verdict] = Batcher(self.judge_batch, max_batch, name="safety")

    async def verdict(self, views: Pixels) -> Verdict:
        """Blocked if any of the views ``[n, side, side, 3]`` of a picture is."""
        return await self._batcher.submit(views)

    def close(self) -> None:
        self._batcher.close()

    @torch.inference_mode()
    def judge_batch(self, pictures: Sequence[Pixels]) -> list[Verdict]:
        """One verdict per picture, each given by its views."""
        rows = np.concatenate(list(pictures))
        starts = range(0, len(rows), self._max_batch)
        explicit = np.concatenate([self._explicit(rows[start : start + self._max_batch]) for start in starts])
        ends = np.cumsum([len(views) for views in pictures])[:-1]
        return [
            Verdict(blocked=bool(of_one.any()), concepts=(EXPLICIT,) if of_one.any() else ())
            for of_one in np.split(explicit, ends)
        ]

    def _explicit(self, pixels: Pixels) -> np.ndarray[Any, np.dtype[np.bool_]]:
        checker = self._checker
        shown = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 255
        pooled = checker.vision_model((shown - self._mean) / self._std).pooler_output
        embeddings = F.normalize(checker.visual_projection(pooled), dim=-1)
        special = embeddings @ F.normalize(checker.special_care_embeds, dim=-1).T
        care = _over(special, checker.special_care_embeds_weights).any(1, keepdim=True) * _SPECIAL_CARE
        concepts = embeddings @ F.normalize(checker.concept_embeds, dim=-1).T
        explicit: np.ndarray[Any, np.dtype[np.bool_]] = (
            _over(concepts + care, checker.concept_embeds_weights).any(1).cpu().numpy()
        )
        return explicit


def _over(cosines: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Which cosines are over their thresholds, to three decimals as diffusers rounds them."""
    return (cosines - thresholds).round(decimals=3) > 0


class ZeroShotCheck:
    """Blocks pictures that probably show one of the settings' concepts rather than something harmless."""

    def __init__(self, zero_shot: ZeroShot, settings: SafetySettings, neutral: tuple[str, ...]) -> None:
        self.side = zero_shot.side
        self._zero_shot = zero_shot
        self._settings = settings
        self._neutral = neutral

    async def verdict(self, views: Pixels) -> Verdict:
        """Blocked if one of the views ``[n, side, side, 3]`` is over the threshold.

        The concepts told are those likelier than everything harmless, or else the likeliest one.
        """
        concepts = self._settings.concepts
        if not concepts:
            return Verdict(blocked=False)
        shown: set[str] = set()
        for answer in await self._zero_shot.describe(views, {"shows": concepts + self._neutral}):
            told = answer["shows"]
            if sum(told[concept] for concept in concepts) > self._settings.threshold:
                harmless = max(told[phrase] for phrase in self._neutral)
                shown |= {concept for concept in concepts if told[concept] > harmless}
                shown.add(max(concepts, key=told.__getitem__))
        return Verdict(blocked=bool(shown), concepts=tuple(c for c in concepts if c in shown))

    def close(self) -> None:
        """The network is closed by who owns it."""
