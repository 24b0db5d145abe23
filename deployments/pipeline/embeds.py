"""What prompts become for a UNet: its text context, and added conditions where its family has them.

Knows tensors and sizes; not how text is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

# What Stable Diffusion XL's UNet calls them.
POOLED, SIZES = "text_embeds", "time_ids"


class AddedConditions(NamedTuple):
    """Those of a request, and what the unconditional row has in place of some."""

    own: Mapping[str, torch.Tensor]
    negative: Mapping[str, torch.Tensor]


class Embeds(NamedTuple):
    """Prompt embeddings ``[tokens, width]``, and pooled ones ``[width]`` in families that use them.

    Without guidance there are no negative ones.
    """

    positive: torch.Tensor
    negative: torch.Tensor | None
    pooled: torch.Tensor | None = None
    negative_pooled: torch.Tensor | None = None

    @property
    def inverse(self) -> Embeds:
        """The negative prompt's own, without any to guide away from."""
        assert self.negative is not None
        return Embeds(self.negative, None, self.negative_pooled)

    def added_conditions(self, width: int, height: int) -> AddedConditions:
        """For a picture of so many pixels, shown whole: micro-conditioning (Podell et al. 2023, §2.2)."""
        if self.pooled is None:
            return AddedConditions({}, {})
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        negative = {} if self.negative_pooled is None else {POOLED: self.negative_pooled}
        return AddedConditions({POOLED: self.pooled, SIZES: sizes}, negative)
