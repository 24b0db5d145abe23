"""A UNet and its BrushNet without batches, blocks or hooks: one row, layer after layer, spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deployments.engine.request import DenoiseRequest
from deployments.engine.samplers import NoiseSchedule, scheduler_for


def by_plain_loops(wanted: DenoiseRequest, schedule: NoiseSchedule, unet: Any, branch: Any = None) -> Tensor:
    """The whole trajectory of one guided request: row by row, step by step, with diffusers' own scheduler."""
    scheduler = scheduler_for(wanted.sampler, schedule)
    scheduler.set_timesteps(wanted.num_inference_steps)
    x = wanted.noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        outputs = []
        for side in ("negative_embeds", "prompt_embeds"):
            row = {
                "sample": scheduler.scale_model_input(x, timestep),
                "timestep": timestep,
                "context": getattr(wanted, side),
            }
            if wanted.extra_channels is not None:
                row["extra"] = wanted.extra_channels
            if wanted.branch is not None:
                row["conditioning"] = wanted.branch.conditioning
                row["branch_context"] = getattr(wanted.branch, side)
            outputs.append(_output(unet, branch, row, 1.0 if wanted.branch is None else wanted.branch.scale))
        uncond, cond = outputs
        x = scheduler.step(uncond + wanted.guidance_scale * (cond - uncond), timestep, x).prev_sample
    return x


def _output(unet: Any, branch: Any, row: dict[str, Tensor], scale: float) -> Tensor:
    """The UNet's output for one ``sample`` ``[c, h, w]``, with its branch where ``row`` has input for it."""
    sample, timestep = row["sample"][None], row["timestep"].reshape(1)
    residuals: list[Tensor] | None = None
    if "conditioning" in row:
        widened = torch.cat([sample, row["conditioning"][None]], 1)
        states = list(_walk(branch, branch.conv_in_condition(widened), timestep, row["branch_context"], None))
        convs = [*branch.brushnet_down_blocks, branch.brushnet_mid_block, *branch.brushnet_up_blocks]
        residuals = [conv(state) * scale for conv, state in zip(convs, states, strict=True)]
    if "extra" in row:
        sample = torch.cat([sample, row["extra"][None]], 1)
    *_, x = _walk(unet, unet.conv_in(sample), timestep, row["context"], residuals)
    output: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return output[0]


def _walk(
    network: Any, x: Tensor, timestep: Tensor, context: Tensor, residuals: list[Tensor] | None
) -> Iterator[Tensor]:
    """Yield every hidden state, each with the next of the ``residuals`` added to it."""
    added = iter(residuals or ())
    temb = network.time_embedding(network.time_proj(timestep))

    def attended(block: Any, index: int, x: Tensor) -> Tensor:
        if not hasattr(block, "attentions"):
            return x
        seen: Tensor = block.attentions[index](x, encoder_hidden_states=context[None], return_dict=False)[0]
        return seen

    # The first skip leaves before the first residual comes.
    skips = [x]
    x = x + next(added, 0)
    yield x
    for block in network.down_blocks:
        for index, resnet in enumerate(block.resnets):
            x = attended(block, index, resnet(x, temb)) + next(added, 0)
            skips.append(x)
            yield x
        for downsampler in block.downsamplers or ():
            x = downsampler(x) + next(added, 0)
            skips.append(x)
            yield x
    middle = network.mid_block
    x = middle.resnets[0](x, temb)
    x = middle.resnets[1](attended(middle, 0, x), temb) + next(added, 0)
    yield x
    for block in network.up_blocks:
        for index, resnet in enumerate(block.resnets):
            x = resnet(torch.cat([x, skips.pop()], 1), temb)
            x = attended(block, index, x) + next(added, 0)
            yield x
        for upsampler in block.upsamplers or ():
            x = upsampler(x) + next(added, 0)
            yield x
