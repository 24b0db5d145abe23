"""Where a branch of the style "stream" adds its residuals: hooks on the modules of a diffusers UNet.

diffusers' own arguments reach the skip connections and the middle only. Knows modules, not rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from deployments.engine.branch import Residuals


class ResidualPorts:
    """Adds residuals to the hidden states of a ``UNet2DConditionModel``, after every layer of it.

    A layer is a resnet with the attention that follows it, a downsampler or an upsampler. Without
    residuals the UNet computes exactly what it does without ports. The weights published for BrushNet
    were trained with the first residual added behind the skip connection of ``conv_in``, not before it;
    all other residuals of the down path reach the skips.
    """

    def __init__(self, unet: Any) -> None:
        self._current: Residuals | None = None
        down, up = _layers(unet.down_blocks, "downsamplers"), _layers(unet.up_blocks, "upsamplers")
        self._num_places = (len(down) + 1, len(up))
        unet.down_blocks[0].register_forward_pre_hook(self._on_entering, with_kwargs=True)
        for place, layer in enumerate(down, start=1):
            layer.register_forward_hook(self._adding(lambda now, place=place: now.down[place]))  # type: ignore[misc]
        unet.mid_block.register_forward_hook(self._adding(lambda now: now.mid))
        for place, layer in enumerate(up):
            layer.register_forward_hook(self._adding(lambda now, place=place: now.up[place]))  # type: ignore[misc]

    @contextmanager
    def adding(self, residuals: Residuals | None) -> Iterator[None]:
        """Within the context the UNet's calls carry ``residuals``. Raises ValueError if they do not fit."""
        if residuals is not None and (len(residuals.down), len(residuals.up)) != self._num_places:
            raise ValueError(
                f"{len(residuals.down)} and {len(residuals.up)} residuals for {self._num_places} places"
            )
        self._current = residuals
        try:
            yield
        finally:
            self._current = None

    def _on_entering(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._current is None:
            return None
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + self._current.down[0]}

    def _adding(self, chosen: Callable[[Residuals], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(layer: nn.Module, args: Any, output: Any) -> Any:
            if self._current is None:
                return None
            residual = chosen(self._current)
            # Attention returns a tuple, everything else a tensor.
            if isinstance(output, tuple):
                return (output[0] + residual, *output[1:])
            return output + residual

        return hook


def _layers(blocks: Any, samplers: str) -> list[nn.Module]:
    """The modules whose output is the hidden state after a layer, in the order of their calls."""
    layers: list[nn.Module] = []
    for block in blocks:
        layers += getattr(block, "attentions", None) or block.resnets
        layers += getattr(block, samplers) or ()
    return layers
