"""A diffusers UNet called layer by layer, without the bookkeeping between its layers.

A step of the embedded model on two cores spends a third of its time in Python: modules that call modules,
checks of arguments, hooks. This calls the layers themselves, joins those of one input, adds residuals
inside of products, and keeps what depends on the texts alone. Knows the blocks of Stable Diffusion 1, 2
and XL; not rows, nor adapters.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from deployments.engine.branch import Residuals
from deployments.engine.cpu_layers import MixedGroupNorm, attend_by_head, by_head
from deployments.engine.joint import Joint
from deployments.engine.known_unets import is_known
from deployments.engine.row_threads import by_rows, parts_of
from deployments.engine.unet_inputs import Inputs, Stream

# An attention layer -> whether its weights were folded, its keys and its values.
_Kept = dict[nn.Module, tuple[bool, Tensor, Tensor]]


def is_lean(unet: Any) -> bool:
    """Whether calls of ``unet`` take the short way."""
    return isinstance(getattr(unet, "forward", None), LeanForward)


def make_lean(unet: nn.Module, *, split_rows: bool = False) -> bool:
    """Let calls of ``unet`` take the short way, in place. False, and nothing changes, where there is none.

    To be called once the weights are in their final place and precision: layers of the same input get
    views of one weight. With ``split_rows`` every thread computes rows of its own where there are enough.
    """
    if not isinstance(unet, UNet2DConditionModel) or not is_known(unet):
        return False
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            own, cross = module.attn1, module.attn2
            own.__dict__["joint"] = Joint([own.to_q, own.to_k, own.to_v])
            cross.__dict__["joint"] = Joint([cross.to_k, cross.to_v])
    unet.__dict__["joint"] = Joint([resnet.time_emb_proj for resnet in _resnets(unet)])
    unet.__dict__["forward"] = LeanForward(unet, split_rows)
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

    def __init__(self, unet: UNet2DConditionModel, split_rows: bool) -> None:
        self._unet, self._splits_rows = unet, split_rows
        self._resnets = _resnets(unet)
        self._texts = _Texts()

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

        ``timestep`` is ``[rows]``, ``encoder_hidden_states`` ``[rows, tokens, width]``, which must not
        change in place. ``stream`` are residuals for the places that ``ResidualPorts`` describes. Raises
        ValueError if they do not fit. Any other argument, or no ``return_dict=False``, is answered by
        diffusers' own forward.
        """
        unet, context = self._unet, encoder_hidden_states
        skips, mid = down_block_additional_residuals, mid_block_additional_residual
        if return_dict or any(other is not None for other in others.values()):
            return type(unet).forward(
                unet,
                sample,
                timestep,
                context,
                added_cond_kwargs=added_cond_kwargs,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=mid,
                return_dict=return_dict,
                **others,
            )
        inputs = Inputs(sample, timestep, context, added_cond_kwargs, skips, mid, stream)
        parts = parts_of(len(sample)) if self._splits_rows else []
        kept = self._texts.kept(context, parts)
        if not parts:
            return (self._output(inputs, kept[0]),)
        of_part = {part.start: each for part, each in zip(parts, kept, strict=True)}
        return (torch.cat(by_rows(lambda part: self._output(inputs.rows(part), of_part[part.start]), parts)),)

    def _output(self, inputs: Inputs, kept: _Kept | None) -> Tensor:
        unet, context = self._unet, inputs.context
        times = dict(zip(self._resnets, unet.joint(self._embedding(inputs)), strict=True))
        add = Stream(inputs.stream)
        hidden = unet.conv_in(inputs.sample)
        skips = [hidden]
        hidden = add.down(hidden)
        for block in unet.down_blocks:
            for resnet, attention in _pairs(block):
                hidden = _resnet(resnet, hidden, times[resnet])
                hidden = add.down(_transformer(attention, hidden, context, kept))
                skips.append(hidden)
            for sampler in block.downsamplers or ():
                hidden = add.down(sampler(hidden))
                skips.append(hidden)
        if inputs.skips is not None:
            skips = [skip + more for skip, more in zip(skips, inputs.skips, strict=True)]
        first, *others = unet.mid_block.resnets
        hidden = _resnet(first, hidden, times[first])
        for attention, resnet in zip(unet.mid_block.attentions, others, strict=True):
            hidden = _resnet(resnet, _transformer(attention, hidden, context, kept), times[resnet])
        hidden = add.mid(hidden)
        if inputs.mid is not None:
            hidden = hidden + inputs.mid
        for block in unet.up_blocks:
            for resnet, attention in _pairs(block):
                hidden = _resnet(resnet, torch.cat([hidden, skips.pop()], 1), times[resnet])
                hidden = add.up(_transformer(attention, hidden, context, kept))
            for sampler in block.upsamplers or ():
                hidden = add.up(sampler(hidden, skips[-1].shape[2:]))
        add.check()
        output: Tensor = unet.conv_out(_normalized(unet.conv_norm_out, hidden))
        return output

    def _embedding(self, inputs: Inputs) -> Tensor:
        """The activated embedding ``[rows, width]`` of the timesteps and the added conditions."""
        unet = self._unet
        time = unet.get_time_embed(sample=inputs.sample, timestep=inputs.timestep)
        embedding = unet.time_embedding(time)
        more = unet.get_aug_embed(
            emb=embedding, encoder_hidden_states=inputs.context, added_cond_kwargs=inputs.added
        )
        return F.silu(embedding if more is None else embedding + more)


class _Texts:
    """Keys and values of the texts ``[rows, tokens, width]`` called with last, for as long as those live."""

    def __init__(self) -> None:
        self._context: weakref.ref[Tensor] | None = None
        self._kept: list[_Kept] = []

    def kept(self, context: Tensor, parts: Sequence[slice]) -> Sequence[_Kept | None]:
        """What is kept for each part, or for all rows if there are none; None where nothing may be.

        Calls that are compiled or captured read their texts where others may come to lie.
        """
        num_parts = max(1, len(parts))
        called_once = torch.compiler.is_compiling() or not torch.is_inference_mode_enabled()
        if context.device.type != "cpu" or called_once:
            return [None] * num_parts
        if self._context is None or self._context() is not context or len(self._kept) != num_parts:
            self._context = weakref.ref(context, self._forget)
            self._kept = [{} for _ in range(num_parts)]
        return self._kept

    def _forget(self, context: weakref.ref[Tensor]) -> None:
        if self._context is context:
            self._context, self._kept = None, []


def _resnets(unet: nn.Module) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]


def _pairs(block: Any) -> Iterator[tuple[ResnetBlock2D, Transformer2DModel | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _resnet(block: Any, x: Tensor, time: Tensor) -> Tensor:
    """``time`` is the timesteps' part ``[rows, channels]``."""
    hidden = block.conv1.forward(_normalized(block.norm1, x)).add_(time[:, :, None, None])
    hidden = _normalized(block.norm2, hidden)
    shortcut = x if block.conv_shortcut is None else block.conv_shortcut.forward(x)
    return _plus(block.conv2, hidden, shortcut)


def _transformer(module: Any, x: Tensor, context: Tensor, kept: _Kept | None) -> Tensor:
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
        own, cross = block.attn1, block.attn2
        query, *others = own.joint(block.norm1.forward(hidden))
        key, value = (by_head(each, own.heads) for each in others)
        hidden = _plus(own.to_out[0], attend_by_head(query, key, value, own.scale), hidden)
        query = cross.to_q.forward(block.norm2.forward(hidden))
        key, value = _of_texts(cross, context, kept)
        hidden = _plus(cross.to_out[0], attend_by_head(query, key, value, cross.scale), hidden)
        first, _, last = block.ff.net
        hidden = _plus(last, first.forward(block.norm3.forward(hidden)), hidden)
    if module.use_linear_projection:
        hidden = module.proj_out.forward(hidden).unflatten(1, (height, width))
        return torch.add(hidden.permute(0, 3, 1, 2), x)
    return _plus(module.proj_out, hidden.unflatten(1, (height, width)).permute(0, 3, 1, 2), x)


def _of_texts(attn: Any, context: Tensor, kept: _Kept | None) -> tuple[Tensor, Tensor]:
    """Keys and values by head. Those that adapters change are not kept."""
    joint: Joint = attn.joint
    if kept is None or joint.is_adapted:
        key, value = (by_head(each, attn.heads) for each in joint(context))
        return key, value
    if attn not in kept or kept[attn][0] != joint.is_folded:
        key, value = (by_head(each, attn.heads).contiguous() for each in joint(context))
        kept[attn] = (joint.is_folded, key, value)
    return kept[attn][1:]


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
