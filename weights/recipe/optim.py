"""The update rule: Muon for matrices and convolutions, Adam for the rest, power-function averages of both.

Knows tensors by name and shape; nothing about models, processes or files.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
ADAM_PARTS: Final = ("token_embedding", "position_embedding", "conv_in", "conv_out", "quant_conv", "heads.")


@dataclass(frozen=True)
class Slot:
    """One parameter and its optimizer state; all tensors share the parameter's shape."""

    name: str
    value: Tensor
    average: Tensor
    momentum: Tensor
    second_moment: Tensor
    lr_scale: float


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return roughly the nearest semi-orthogonal matrices of a stack [K, m, n] (Newton-Schulz, Jordan 2024).

    Works in bfloat16, several times faster than float32 on a processor that has it; precise it need not be.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.transpose(1, 2), iterations).transpose(1, 2)
    a, b, c = NEWTON_SCHULZ
    x = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.float()
    return result


def uses_muon(name: str, value: Tensor) -> bool:
    """Tell whether a parameter is a hidden matrix or convolution."""
    return value.ndim >= 2 and not any(part in name for part in ADAM_PARTS)


def learning_rate(step: int, peak: float, warmup: int, cooldown_from: int | None, steps: int) -> float:
    """Return the warm-up, constant, linear-cooldown rate of step (0-based)."""
    rate = peak * min(1.0, (step + 1) / max(1, warmup))
    if cooldown_from is not None and step >= cooldown_from:
        rate *= max(0.0, (steps - step) / max(1, steps - cooldown_from))
    return rate


class Optimizer:
    """Updates a fixed list of slots in place.

    Muon's update is scaled to the root mean square of Adam's (Liu et al. 2025), so one learning rate serves
    both. The average follows the power function of Karras et al. 2024 with exponent `ema_power`.
    """

    def __init__(self, slots: list[Slot], muon: bool = True, ema_power: float = 12.0) -> None:
        self.slots = slots
        self.ema_power = ema_power
        self._adam = [s for s in slots if not (muon and uses_muon(s.name, s.value))]
        buckets: dict[tuple[int, int], list[Slot]] = defaultdict(list)
        for slot in slots:
            if muon and uses_muon(slot.name, slot.value):
                buckets[(slot.value.shape[0], slot.value[0].numel())].append(slot)
        self._muon = list(buckets.values())

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], rate: float, step: int) -> None:
        """Apply one update; step is 0-based and sets Adam's bias correction and the average's decay."""
        for bucket in self._muon:
            self._muon_step(bucket, gradients, rate)
        for slot in self._adam:
            self._adam_step(slot, gradients[slot.name], rate, step)
        blend = 1 - (1 - 1 / (step + 1)) ** (self.ema_power + 1)
        for slot in self.slots:
            slot.average.lerp_(slot.value, blend)

    def _muon_step(self, bucket: list[Slot], gradients: dict[str, Tensor], rate: float) -> None:
        updates = []
        for slot in bucket:
            gradient = gradients[slot.name]
            slot.momentum.lerp_(gradient, 0.05)
            updates.append(gradient.lerp(slot.momentum, 0.95).flatten(1))
        rows, columns = updates[0].shape
        scale = 0.2 * max(rows, columns) ** 0.5
        for slot, update in zip(bucket, orthogonalize(torch.stack(updates)), strict=True):
            slot.value.sub_(update.view(slot.value.shape), alpha=rate * scale * slot.lr_scale)

    def _adam_step(self, slot: Slot, gradient: Tensor, rate: float, step: int) -> None:
        slot.momentum.lerp_(gradient, 0.1)
        slot.second_moment.lerp_(gradient.square(), 0.01)
        mean = slot.momentum / (1 - 0.9 ** (step + 1))
        spread = (slot.second_moment / (1 - 0.99 ** (step + 1))).sqrt_().add_(1e-8)
        slot.value.addcdiv_(mean, spread, value=-rate * slot.lr_scale)
