"""What a client may ask of the baselines, and which requests can share a pipeline call. Knows no torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Pipeline = Literal["text", "image", "inpaint"]
Item = TypeVar("Item")

# Ray's and LitServe's batching alike: a call of eight is the most that pays on two cores, and nobody waits
# long for others.
MAX_BATCH = 8
BATCH_WAIT_S = 0.01


class Asking(BaseModel):
    """The body of ``POST /draw``. Pictures are files in base64; ``adapter`` is one that is loaded already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: Pipeline
    prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    strength: float = 1.0
    image: str | None = None
    mask: str | None = None
    adapter: str | None = None

    @property
    def settings(self) -> Hashable:
        """What all requests of one pipeline call have in common."""
        return (
            self.pipeline,
            self.num_inference_steps,
            self.guidance_scale,
            self.strength,
            self.adapter,
        )


def grouped(asked: Sequence[tuple[Asking, Item]]) -> list[list[tuple[Asking, Item]]]:
    """Those of equal settings together, in the order in which the first of each came."""
    groups: dict[Hashable, list[tuple[Asking, Item]]] = {}
    for asking, item in asked:
        groups.setdefault(asking.settings, []).append((asking, item))
    return list(groups.values())
