"""Which networks a Denoiser runs: the UNet of its model, or one made for inpainting, and what goes beside.

Knows the registry's parts; nothing of requests. Heavy imports happen inside the loaders.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from weights import registry
from weights.loading import load_unet
from weights.powerpaint import is_v2

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel
    from torch import nn

CONTROLNET, INPAINT, POWERPAINT = "controlnet", "inpaint", "powerpaint"
# What requests call the branches.
STRUCTURE_BRANCH, POWERPAINT_BRANCH = "structure", "powerpaint"
_INPAINTING_CHANNELS = 9


def has_controlnet(model_id: str) -> bool:
    """Whether the model's Denoiser has a ControlNet on edges."""
    return registry.has_part(model_id, CONTROLNET)


def has_inpainting_unet(model_id: str) -> bool:
    """Whether a UNet made for inpainting is installed, which needs a Denoiser of its own."""
    return _has_powerpaint_unet(model_id) or registry.has_part(model_id, INPAINT)


def inpainting_channels(model_id: str) -> int:
    """How many input channels the UNet has that paints inside masks: nine, or those of the model's own."""
    if has_inpainting_unet(model_id):
        return _INPAINTING_CHANNELS
    config = json.loads((registry.verified_part(model_id, "unet") / "config.json").read_text("utf-8"))
    return int(config["in_channels"])


def load_inpainting_unet(
    model_id: str, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> UNet2DConditionModel:
    """The UNet of nine channels that goes with ``model_id``; PowerPaint's where several are installed.

    ``dtype`` is float32 unless given. On the device "meta" it has shapes and no values.
    """
    import torch

    dtype = dtype or torch.float32
    if _has_powerpaint_unet(model_id):
        from deployments.pipeline.powerpaint.loading import load_v1_unet

        unet = load_v1_unet(model_id)
        assert unet is not None, "its files were found"
        return unet.to(device, dtype)
    return load_unet(registry.part_folder(model_id, INPAINT) / "unet", dtype, device)


def load_branches(model_id: str, dtype: torch.dtype | None = None) -> dict[str, nn.Module]:
    """The branches beside the model's own UNet, by the names that requests use, on the CPU.

    ``dtype`` is float32 unless given.
    """
    branches: dict[str, nn.Module] = {}
    if has_controlnet(model_id):
        import torch
        from diffusers import ControlNetModel

        from deployments.engine.branch import ControlNetBranch

        network = ControlNetModel.from_pretrained(
            registry.part_folder(model_id, CONTROLNET), dtype=dtype or torch.float32, local_files_only=True
        )
        branches[STRUCTURE_BRANCH] = ControlNetBranch(network)
    if registry.has_part(model_id, POWERPAINT):
        from deployments.pipeline.powerpaint.loading import load_branch

        branch = load_branch(model_id)
        if branch is not None:
            branches[POWERPAINT_BRANCH] = branch if dtype is None else branch.to(dtype)
    return branches


def _has_powerpaint_unet(model_id: str) -> bool:
    return registry.has_part(model_id, POWERPAINT) and not is_v2(registry.part_folder(model_id, POWERPAINT))
