"""A diffusers UNet called layer by layer, without the bookkeeping between its layers.

A step of the embedded model on two cores spends a third of its time in Python: modules that call modules,
checks of arguments, hooks. This calls the layers themselves, adds residuals inside of products, and leaves
the weights where they are. Knows the blocks of Stable Diffusion 1, 2 and XL; not rows, nor adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from deployments.engine.branch import Residuals
from deployments.engine.cpu_layers import MixedGroupNorm, attend, is_plain


def is_lean(unet: Any) -> bool:
    """Whether calls of ``unet`` take the short way."""
    return isinstance(getattr(unet, "forward", None), LeanForward)


def make_lean(unet: nn.Module) -> bool:
    """Let calls of ``unet`` take the short way, in place. False, and nothing changes, where there is none."""
    if not isinstance(unet, UNet2DConditionModel) or not _is_known(unet):
        return False
    unet.__dict__["forward"] = LeanForward(unet)
    return True


@contextmanager
def as_published(unet: Any) -> Iterator[None]:
    """Within the context ``unet`` is called as diffusers does, with the hooks of all its modules."""
    lean = vars(unet).pop("forward", None)
    try:
        yield
    finally:
        if lean is not None:
            unet.__dict__["forward"] = lean


class LeanForward:
    """``UNet2DConditionModel.forward``; the short way is for the arguments that the engine gives."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._unet = unet

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        stream: Residuals | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """The model's output ``[rows, channels, h, w]`` for latents of that shape.

        ``timestep`` is ``[rows]``, ``encoder_hidden_states`` ``[rows, tokens, width]``. ``stream`` are
        residuals for the places that ``ResidualPorts`` describes. Raises ValueError if they do not fit.
        Any other argument, or no ``return_dict=False``, is answered by diffusers' own forward.
        """
        unet, context = self._unet, encoder_hidden_states
        if return_dict or any(other is not None for other in others.values()):
            return type(unet).forward(
                unet,
                sample,
                timestep,
                context,
                added_cond_kwargs=added_cond_kwargs,
                down_block_additional_residuals=down_block_additional_residuals,
                mid_block_additional_residual=mid_block_additional_residual,
                return_dict=return_dict,
                **others,
            )
        embedding = self._embedding(sample, timestep, context, added_cond_kwargs)
        add = _Stream(stream)
        hidden = unet.conv_in(sample)
        skips = [hidden]
        hidden = add.down(hidden)
        for block in unet.down_blocks:
            for resnet, attention in _pairs(block):
                hidden = add.down(_transformer(attention, _resnet(resnet, hidden, embedding), context))
                skips.append(hidden)
            for sampler in block.downsamplers or ():
                hidden = add.down(sampler(hidden))
                skips.append(hidden)
        if down_block_additional_residuals is not None:
            skips = [skip + more for skip, more in zip(skips, down_block_additional_residuals, strict=True)]
        hidden = add.mid(_middle(unet.mid_block, hidden, embedding, context))
        if mid_block_additional_residual is not None:
            hidden = hidden + mid_block_additional_residual
        for block in unet.up_blocks:
            for resnet, attention in _pairs(block):
                hidden = torch.cat([hidden, skips.pop()], 1)
                hidden = add.up(_transformer(attention, _resnet(resnet, hidden, embedding), context))
            for sampler in block.upsamplers or ():
                hidden = add.up(sampler(hidden, skips[-1].shape[2:]))
        add.check()
        return (unet.conv_out(_normalized(unet.conv_norm_out, hidden)),)

    def _embedding(
        self, sample: Tensor, timestep: Tensor, context: Tensor, added: dict[str, Tensor] | None
    ) -> Tensor:
        """The activated embedding ``[rows, width]`` of the timesteps and the added conditions."""
        unet = self._unet
        embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
        more = unet.get_aug_embed(emb=embedding, encoder_hidden_states=context, added_cond_kwargs=added)
        return F.silu(embedding if more is None else embedding + more)


class _Stream:
    """The residuals of a stream, one place after the other."""

    def __init__(self, residuals: Residuals | None) -> None:
        self._residuals = residuals
        self._down = list(reversed(residuals.down)) if residuals else []
        self._up = list(reversed(residuals.up)) if residuals else []

    def down(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else self._added(hidden, self._down)

    def up(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else self._added(hidden, self._up)

    def mid(self, hidden: Tensor) -> Tensor:
        return hidden if self._residuals is None else hidden + self._residuals.mid

    def check(self) -> None:
        if self._down or self._up:
            raise ValueError("there are more residuals than places in the UNet")

    @staticmethod
    def _added(hidden: Tensor, left: list[Tensor]) -> Tensor:
        if not left:
            raise ValueError("there are fewer residuals than places in the UNet")
        return hidden + left.pop()


def _middle(block: Any, hidden: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
    first, *others = block.resnets
    hidden = _resnet(first, hidden, embedding)
    for attention, resnet in zip(block.attentions, others, strict=True):
        hidden = _resnet(resnet, _transformer(attention, hidden, context), embedding)
    return hidden


def _pairs(block: Any) -> Iterator[tuple[ResnetBlock2D, Transformer2DModel | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _resnet(block: Any, x: Tensor, embedding: Tensor) -> Tensor:
    hidden = block.conv1.forward(_normalized(block.norm1, x))
    hidden = hidden.add_(block.time_emb_proj.forward(embedding)[:, :, None, None])
    hidden = _normalized(block.norm2, hidden)
    shortcut = x if block.conv_shortcut is None else block.conv_shortcut.forward(x)
    return _plus(block.conv2, hidden, shortcut)


def _transformer(module: Any, x: Tensor, context: Tensor) -> Tensor:
    """``x`` ``[rows, channels, h, w]`` itself where there is no attention."""
    if module is None:
        return x
    height, width = x.shape[2:]
    hidden = _normalized(module.norm, x, activate=False)
    if module.use_linear_projection:
        hidden = module.proj_in.forward(hidden.permute(0, 2, 3, 1).flatten(1, 2))
    else:
        hidden = module.proj_in.forward(hidden).permute(0, 2, 3, 1).flatten(1, 2)
    for block in module.transformer_blocks:
        normal = block.norm1.forward(hidden)
        hidden = _attention(block.attn1, normal, normal, hidden)
        hidden = _attention(block.attn2, block.norm2.forward(hidden), context, hidden)
        first, _, last = block.ff.net
        hidden = _plus(last, first.forward(block.norm3.forward(hidden)), hidden)
    if module.use_linear_projection:
        hidden = module.proj_out.forward(hidden).unflatten(1, (height, width))
        return torch.add(hidden.permute(0, 3, 1, 2), x)
    return _plus(module.proj_out, hidden.unflatten(1, (height, width)).permute(0, 3, 1, 2), x)


def _attention(attn: Any, x: Tensor, context: Tensor, residual: Tensor) -> Tensor:
    query, key, value = attn.to_q.forward(x), attn.to_k.forward(context), attn.to_v.forward(context)
    return _plus(attn.to_out[0], attend(query, key, value, attn.heads, attn.scale), residual)


def _plus(layer: Any, x: Tensor, residual: Tensor) -> Tensor:
    """``layer(x) + residual``, in one go where the layer can."""
    plus = getattr(layer, "plus", None)
    output: Tensor = layer.forward(x).add_(residual) if plus is None else plus(x, residual)
    return output


def _normalized(norm: Any, x: Tensor, activate: bool = True) -> Tensor:
    if isinstance(norm, MixedGroupNorm):
        return norm.activated(x) if activate else norm.forward(x)
    output: Tensor = norm.forward(x)
    return F.silu(output, inplace=True) if activate else output


def _is_known(unet: UNet2DConditionModel) -> bool:
    """Whether this module computes the same as ``unet.forward``."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    plain_blocks = (DownBlock2D, CrossAttnDownBlock2D, UNetMidBlock2DCrossAttn, UpBlock2D, CrossAttnUpBlock2D)
    return bool(
        all(type(block) in plain_blocks for block in blocks)
        and all(_knows_part(module) for block in blocks for module in block.modules())
        and isinstance(unet.conv_norm_out, nn.GroupNorm)
        and isinstance(unet.conv_act, nn.SiLU)
        and unet.config.addition_embed_type in (None, "text_time")
        and not unet.config.center_input_sample
        and all(each is None for each in (unet.time_embed_act, unet.class_embedding, unet.encoder_hid_proj))
        and unet.time_embedding.cond_proj is None
    )


def _knows_part(module: Any) -> bool:
    match module:
        case ResnetBlock2D():
            return bool(
                module.time_embedding_norm == "default"
                and not module.skip_time_act
                and module.upsample is None
                and module.downsample is None
                and module.output_scale_factor == 1
                and isinstance(module.nonlinearity, nn.SiLU)
                and module.time_emb_proj is not None
            )
        case Transformer2DModel():
            return bool(module.is_input_continuous and module.config.norm_type == "layer_norm")
        case BasicTransformerBlock():
            return bool(
                not module.only_cross_attention
                and module.pos_embed is None
                and module.attn2 is not None
                and is_plain(module.attn1)
                and is_plain(module.attn2)
                and len(module.ff.net) == 3
                and isinstance(module.ff.net[0], GEGLU)
            )
        case Downsample2D() | Upsample2D():
            return bool(module.norm is None)
    return True
