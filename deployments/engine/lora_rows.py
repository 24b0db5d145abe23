"""Which lines of the slots each row of a call uses. Knows slots by number; not whose adapters are in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.engine.transfer import place

# The slot of rows without an adapter. It stays zero.
NO_SLOT = 0
# Rows are as wide as the next of these, so that few different widths are ever asked for.
WIDTHS = (8, 16, 32, 64, 128, 256)

# Slot, rank and weight of an adapter.
Use = tuple[int, int, float]


@dataclass(frozen=True, eq=False)
class LoraRows:
    """What each row of a call uses: ``lines`` of the slots and their ``weights``, ``[rows, width]`` each.

    ``kept`` is each row's weight of the adapter that is kept without a slot: ``[rows, 1, 1]``, 1 where it is
    that for all, None where it is 0. For as long as it lives, its adapters stay where they are.
    """

    num_rows: int
    lines: Tensor
    weights: Tensor
    slots: frozenset[int]
    kept: Tensor | float | None = None

    def __bool__(self) -> bool:
        """Whether any row has an adapter."""
        return bool(self.slots) or self.kept is not None

    @property
    def width(self) -> int:
        """Lines per row, those of no adapter among them."""
        return self.lines.shape[1]


def laid_out(
    stacks: Sequence[Sequence[Use]],
    kept: Sequence[float],
    max_rank: int,
    device: torch.device,
    *,
    steady: bool,
) -> LoraRows:
    """Row by row, as lines of slots of ``max_rank`` lines each; the rest of a row is zeros.

    ``kept`` are the rows' weights of the adapter without a slot, a tensor in any case where ``steady``.
    """
    most = max((sum(rank for _, rank, _ in stack) for stack in stacks), default=0)
    width = next((width for width in WIDTHS if width >= most), most)
    lines = torch.full((len(stacks), width), NO_SLOT)
    weights = torch.zeros(len(stacks), width)
    for row, stack in enumerate(stacks):
        start = 0
        for slot, rank, weight in stack:
            first = slot * max_rank
            lines[row, start : start + rank] = torch.arange(first, first + rank)
            weights[row, start : start + rank] = weight
            start += rank
    slots = frozenset(slot for stack in stacks for slot, _, _ in stack)
    scale: Tensor | float | None = None
    if any(kept):
        alike = not steady and all(weight == 1 for weight in kept)
        scale = 1.0 if alike else place(torch.tensor(kept), device).view(-1, 1, 1)
    return LoraRows(len(stacks), place(lines, device), place(weights, device), slots, scale)
