"""Networks beside the UNet that add residuals to it: what they are given, what they return, ControlNet.

Knows shapes and which rows ask for which branch; does not know batches, samplers or text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from deployments.engine.portable import PicklesArrays


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchInput(PicklesArrays):
    """What one request gives to a branch of its engine. Tensors are CPU float32.

    ``conditioning`` is ``[channels, h, w]``: for a ControlNet a picture in 0 to 1 at pixel size, for a
    BrushNet the latents of the masked picture and the mask at latent size. ``prompt_embeds`` and
    ``negative_embeds`` ``[tokens, dim]`` are the branch's own text; None means the request's. The
    residuals are multiplied by ``scale``, and the branch acts in the steps that lie within ``interval``,
    in fractions of the trajectory.
    """

    name: str
    conditioning: Tensor
    prompt_embeds: Tensor | None = None
    negative_embeds: Tensor | None = None
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def acts(self, step: int, num_steps: int) -> bool:
        """Whether the branch is called in ``step`` of ``num_steps``, by the rule of diffusers."""
        start, stop = self.interval
        return self.scale != 0 and start <= step / num_steps and (step + 1) / num_steps <= stop


@dataclass(frozen=True, eq=False)
class Residuals:
    """What a branch adds to the UNet, one tensor ``[rows, channels, h, w]`` per place.

    ``down``: after conv_in, after each layer of every down block, after each downsampler. ``mid``: after
    the middle block. ``up``: after each layer of every up block, after each upsampler; empty for "skip".
    """

    down: tuple[Tensor, ...]
    mid: Tensor
    up: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, tensors: Iterable[Tensor], num_down: int) -> Residuals:
        """Those whose :attr:`tensors` these are, the first ``num_down`` of the down path."""
        down, (mid, *up) = (every := tuple(tensors))[:num_down], every[num_down:]
        return cls(down, mid, tuple(up))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.down, self.mid, *self.up)


class BranchSum(NamedTuple):
    """What the branches of a step add: to the skip connections, and to the stream; None for nothing."""

    skip: Residuals | None = None
    stream: Residuals | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for each in self if each is not None for tensor in each.tensors)

    def holding(self, tensors: Iterable[Tensor]) -> BranchSum:
        """The same places with these tensors instead, in the order of :attr:`tensors`."""
        rest = iter(tensors)
        return BranchSum(
            *(
                each and Residuals.of(islice(rest, len(each.tensors)), len(each.down))
                for each in (self.skip, self.stream)
            )
        )


NO_RESIDUALS = BranchSum()


class Branch(Protocol):
    """A network beside the UNet, called on the rows that use it.

    ``style`` says where the residuals go: "skip" adds them to the skip connections and the middle
    (ControlNet, Zhang et al. 2023), "stream" to the hidden states themselves, from where they reach the
    skips too (BrushNet, Ju et al. 2024). The conditioning of latents ``[c, h, w]`` must be
    ``[conditioning_channels, h * conditioning_factor, w * conditioning_factor]``.
    """

    style: Literal["skip", "stream"]
    conditioning_channels: int
    conditioning_factor: int
    context_dim: int

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None,
    ) -> Residuals:
        """``sample`` ``[rows, channels, h, w]`` is the scaled latents; ``timestep`` ``[rows]``; ``added``
        are the rows' added conditions, None for a UNet without."""
        ...


class ControlNetBranch(nn.Module):
    """A diffusers ``ControlNetModel`` as a branch."""

    style: Literal["skip"] = "skip"

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        config = network.config
        self.conditioning_channels: int = config.conditioning_channels
        self.conditioning_factor: int = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
        self.context_dim: int = config.cross_attention_dim

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Residuals:
        down, mid = self.network(
            sample, timestep, context, conditioning, added_cond_kwargs=added, return_dict=False
        )
        return Residuals(tuple(down), mid)
