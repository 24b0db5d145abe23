"""What each PowerPaint task asks for, as data. Knows words and numbers; no tensors, no pictures.

The tokens and words are those that the published weights were trained and released with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.specs import Task

_CONTEXT, _SHAPE, _OBJECT = "P_ctxt", "P_shape", "P_obj"
_POOR_QUALITY = "worst quality, low quality, normal quality, bad quality, blurry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A task. ``token`` is where ``fitting_degree`` 1 leads and ``loose_token`` where 0 does.

    ``scene`` joins the prompt. ``negative_words`` join the negative prompt where one text encoder reads
    words and task tokens together. Where the learned tokens are used, guidance below
    ``min_guidance_scale`` is raised to it: less lets objects through.
    """

    token: str
    loose_token: str
    negative_token: str
    loose_negative_token: str
    scene: str = ""
    negative_words: str = ""
    min_guidance_scale: float = 1.0

    @property
    def uses_fitting_degree(self) -> bool:
        return self.token != self.loose_token


# Filling from the surroundings: context wanted, objects not.
_BACKGROUND = Preset(
    token=_CONTEXT,
    loose_token=_CONTEXT,
    negative_token=_OBJECT,
    loose_negative_token=_OBJECT,
    scene="empty scene blur",
    min_guidance_scale=10.0,
)

PRESETS: Mapping[Task, Preset] = MappingProxyType(
    {
        Task.TEXT_GUIDED: Preset(
            token=_OBJECT,
            loose_token=_OBJECT,
            negative_token=_OBJECT,
            loose_negative_token=_OBJECT,
            negative_words=_POOR_QUALITY,
        ),
        Task.SHAPE_GUIDED: Preset(
            token=_SHAPE,
            loose_token=_CONTEXT,
            negative_token=_SHAPE,
            loose_negative_token=_CONTEXT,
            negative_words=_POOR_QUALITY,
        ),
        Task.OBJECT_REMOVAL: _BACKGROUND,
        Task.OUTPAINTING: _BACKGROUND,
    }
)
