"""BrushNet (Ju et al. 2024, arXiv:2403.06976): a copy of the UNet that reads the masked picture beside it.

PowerPaint's second form (Zhuang et al. 2024, arXiv:2312.03594) keeps the copy's cross-attention and says
there which task it is for. Knows the network and its checkpoint layout; not files, text or pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from deployments.engine.branch import Residuals

# The members of a diffusers UNet configuration that a BrushNet configuration shares.
_SHARED = (
    "act_fn",
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "mid_block_type",
    "norm_eps",
    "norm_num_groups",
    "num_attention_heads",
    "only_cross_attention",
    "resnet_time_scale_shift",
    "transformer_layers_per_block",
    "up_block_types",
    "upcast_attention",
    "use_linear_projection",
)
# Members of published configurations that change the network in ways no published weights use.
_UNUSED = {
    "addition_embed_type": None,
    "brushnet_conditioning_channel_order": "rgb",
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "global_pool_conditions": False,
    "num_class_embeds": None,
}
_MASKED_LATENTS_AND_MASK = 5


class BrushNet(nn.Module):
    """The branch, with the parameter names of the published checkpoints.

    ``config`` is a checkpoint's ``config.json``. The conditioning is ``[5, h, w]`` at latent size: the
    latents of the picture with its hole painted black, then the mask, 1 where the picture is kept and 0
    in the hole. Raises ValueError for a configuration that asks for another network.
    """

    style: Literal["skip", "stream"] = "stream"
    conditioning_factor = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        for name, expected in _UNUSED.items():
            if config.get(name, expected) != expected:
                raise ValueError(f"BrushNet with {name} {config[name]!r} is not supported")
        parts = UNet2DConditionModel(**{name: config[name] for name in _SHARED if name in config})
        self.conditioning_channels: int = config.get("conditioning_channels", _MASKED_LATENTS_AND_MASK)
        self.context_dim: int = parts.config.cross_attention_dim
        entry = parts.conv_in
        self.conv_in_condition = nn.Conv2d(
            entry.in_channels + self.conditioning_channels, entry.out_channels, entry.kernel_size, padding=1
        )
        self.time_proj, self.time_embedding = parts.time_proj, parts.time_embedding
        self.down_blocks, self.mid_block, self.up_blocks = parts.down_blocks, parts.mid_block, parts.up_blocks
        sizes = parts.config.block_out_channels
        down = [sizes[0]] + [size for block in self.down_blocks for size in _widths(block)]
        self.brushnet_down_blocks = nn.ModuleList(map(_zero_conv, down))
        self.brushnet_mid_block = _zero_conv(sizes[-1])
        up = [size for block in self.up_blocks for size in _widths(block)]
        self.brushnet_up_blocks = nn.ModuleList(map(_zero_conv, up))

    @classmethod
    def of_weights(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """A checkpoint's network, in evaluation mode. RuntimeError unless every name and shape fits."""
        with torch.device("meta"):
            branch = cls(config)
        branch.load_state_dict(weights, strict=True, assign=True)
        return branch.eval().requires_grad_(False)

    @classmethod
    def from_unet(cls, unet: Any) -> Self:
        """A branch to start training from: the weights of ``unet``, and residuals of zero."""
        branch = cls({name: unet.config[name] for name in _SHARED})
        for part in ("time_embedding", "down_blocks", "mid_block", "up_blocks"):
            getattr(branch, part).load_state_dict(getattr(unet, part).state_dict())
        entry, channels = branch.conv_in_condition, unet.conv_in.in_channels
        with torch.no_grad():
            entry.weight.zero_()
            # The noisy latents and those of the masked picture enter alike, the mask not at all yet.
            entry.weight[:, :channels] = entry.weight[:, channels : 2 * channels] = unet.conv_in.weight
            entry.bias.copy_(unet.conv_in.bias)  # type: ignore[union-attr]
        return branch

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Residuals:
        """Residuals for ``sample`` ``[rows, 4, h, w]``; ``context`` is ``[rows, tokens, context_dim]``.

        It knows no ``added`` conditions.
        """
        embedded = self.time_embedding(self.time_proj(timestep).to(sample.dtype))
        x = self.conv_in_condition(torch.cat([sample, conditioning], dim=1))
        down = [x]
        for block in self.down_blocks:
            attends = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
            x, states = block(x, embedded, **attends)
            down += states
        x = middle = self.mid_block(x, embedded, encoder_hidden_states=context)
        up: list[Tensor] = []
        skips = list(down)
        for block in self.up_blocks:
            up += _up_states(block, x, skips, embedded, context)
            x = up[-1]
        return Residuals(
            tuple(conv(state) for conv, state in zip(self.brushnet_down_blocks, down, strict=True)),
            self.brushnet_mid_block(middle),
            tuple(conv(state) for conv, state in zip(self.brushnet_up_blocks, up, strict=True)),
        )


def _widths(block: nn.Module) -> list[int]:
    """Channels after each layer of a block and after its down- or upsampler."""
    width = block.resnets[-1].out_channels  # type: ignore[union-attr,index]
    samplers = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or ()
    return [width] * (len(block.resnets) + len(samplers))  # type: ignore[arg-type]


def _zero_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, kernel_size=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _up_states(block: Any, x: Tensor, skips: list[Tensor], embedded: Tensor, context: Tensor) -> list[Tensor]:
    """Hidden states after each layer of an up block and its upsampler; takes its skips off the end.

    The block's own forward tells the last one only.
    """
    states = []
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        x = resnet(torch.cat([x, skips.pop()], dim=1), embedded)
        if attention is not None:
            x = attention(x, encoder_hidden_states=context, return_dict=False)[0]
        states.append(x)
    for upsampler in block.upsamplers or ():
        x = upsampler(x, skips[-1].shape[2:])
        states.append(x)
    return states
