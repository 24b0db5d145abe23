from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deployments.engine.branch import BranchInput
from deployments.engine.brushnet import BrushNet
from deployments.engine.request import DenoiseRequest, noise_for
from tests.deployments.engine.plain_unet import by_plain_loops
from tests.deployments.engine.scenes import (
    CONTEXT_DIM,
    SCHEDULE,
    SHAPE,
    alone,
    engine,
    psnr_db,
    request,
    run,
    small_unet,
    submitted,
)
from tests.powerpaint_files import random_branch

UNET = small_unet()
# What the published PowerPaint v2 checkpoint was built with.
PUBLISHED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "brushnet_conditioning_channel_order": "rgb",
    "conditioning_channels": 5,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "global_pool_conditions": False,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "use_linear_projection": False,
}
PUBLISHED_FILE_BYTES = 3_544_366_408


def inputs(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample, timestep, context and conditioning."""
    return (
        noise_for(seed, (rows, *SHAPE)),
        torch.tensor([900.0, 20.0, 501.0])[:rows],
        noise_for(seed + 1, (rows, 5, CONTEXT_DIM)),
        noise_for(seed + 2, (rows, 5, *SHAPE[1:])),
    )


def branched(request_id: str, seed: int, **changes: Any) -> DenoiseRequest:
    asked = BranchInput(
        name="powerpaint",
        conditioning=noise_for(seed + 3_000, (5, *SHAPE[1:])),
        prompt_embeds=noise_for(seed + 4_000, (7, CONTEXT_DIM)),
        negative_embeds=noise_for(seed + 5_000, (7, CONTEXT_DIM)),
        **changes,
    )
    return request(request_id, seed=seed, branch=asked)


def show_hidden_states(branch: Any) -> None:
    """Make the last convolutions identities, so that the residuals are the branch's hidden states."""
    for conv in (*branch.brushnet_down_blocks, branch.brushnet_mid_block, *branch.brushnet_up_blocks):
        torch.nn.init.dirac_(conv.weight)


def test_the_published_checkpoint_would_load() -> None:
    with torch.device("meta"):
        branch = BrushNet(PUBLISHED)
        latents, context = torch.zeros(1, 4, 64, 96), torch.zeros(1, 77, 768)
        residuals = branch(latents, torch.ones(1), context, torch.zeros(1, 5, 64, 96))
    assert [tuple(residuals.down[place].shape[1:]) for place in (0, 3, -1)] == [
        (320, 64, 96),
        (320, 32, 48),
        (1280, 8, 12),
    ]
    assert [tuple(residuals.up[place].shape[1:]) for place in (0, 3, -1)] == [
        (1280, 8, 12),
        (1280, 16, 24),
        (320, 64, 96),
    ]
    tensors = branch.state_dict()
    numbers = {
        part: len({name.split(".")[1] for name in tensors if name.startswith(f"brushnet_{part}_blocks.")})
        for part in ("down", "up")
    }
    assert numbers == {"down": 12, "up": 15}
    assert tensors["conv_in_condition.weight"].shape == (320, 9, 3, 3)
    assert tensors["brushnet_mid_block.weight"].shape == (1280, 1280, 1, 1)
    # All float32: what is left of the published file is its header, some 120 bytes for each tensor.
    header = PUBLISHED_FILE_BYTES - 4 * sum(tensor.numel() for tensor in tensors.values())
    assert 110 < header / len(tensors) < 130


@pytest.mark.parametrize(
    "asked",
    [
        {"brushnet_conditioning_channel_order": "bgr"},
        {"global_pool_conditions": True},
        {"addition_embed_type": "text_time"},
        {"mid_block_type": "MidBlock2D"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_another_network_is_refused(asked: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=str(next(iter(asked.values())))):
        BrushNet(PUBLISHED | asked)


def test_weights_are_loaded_by_name_and_completely() -> None:
    branch = random_branch(UNET)
    config = {**UNET.config, "conditioning_channels": 5}
    tensors = branch.state_dict()
    loaded = BrushNet.of_weights(config, tensors)
    sample, timestep, context, conditioning = inputs(1)
    expected = branch(sample, timestep, context, conditioning)
    assert torch.equal(loaded(sample, timestep, context, conditioning).mid, expected.mid)
    del tensors["brushnet_mid_block.bias"]
    with pytest.raises(RuntimeError, match=r"brushnet_mid_block\.bias"):
        BrushNet.of_weights(config, tensors)


@torch.inference_mode()
def test_a_branch_of_a_unet_sees_what_the_unet_sees() -> None:
    branch = BrushNet.from_unet(UNET)
    show_hidden_states(branch)
    sample, timestep, context, _ = inputs(2)
    residuals = branch(sample, timestep, context, torch.zeros(2, 5, *SHAPE[1:]))
    seen: dict[str, Tensor] = {}
    watched = {"entry": UNET.conv_in, "mid": UNET.mid_block, "exit": UNET.up_blocks[-1]}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in watched.items()
    ]
    UNET(sample, timestep, context)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(residuals.down[0], seen["entry"])
    torch.testing.assert_close(residuals.mid, seen["mid"])
    torch.testing.assert_close(residuals.up[-1], seen["exit"])


@torch.inference_mode()
def test_noisy_and_masked_latents_enter_a_new_branch_alike_and_the_mask_not_yet() -> None:
    branch = BrushNet.from_unet(UNET)
    show_hidden_states(branch)
    sample, timestep, context, conditioning = inputs(1)
    latents, mask = conditioning[:, :4], conditioning[:, 4:]
    seen = branch(sample, timestep, context, conditioning).down[0]
    swapped = branch(latents, timestep, context, torch.cat([sample, mask + 1], 1)).down[0]
    torch.testing.assert_close(seen, swapped)


@torch.inference_mode()
def test_rows_are_independent_of_each_other() -> None:
    branch = random_branch(UNET)
    together = branch(*inputs(3))
    for row in range(3):
        one = branch(*(tensor[row : row + 1] for tensor in inputs(3)))
        for ours, own in zip(
            (*together.down, together.mid, *together.up), (*one.down, one.mid, *one.up), strict=True
        ):
            assert psnr_db(ours[row], own[0]) >= 100


def test_without_residuals_the_base_unet_is_exactly_itself() -> None:
    untrained = {"powerpaint": BrushNet.from_unet(UNET).eval().requires_grad_(False)}
    wanted = branched("r", seed=4)
    expected = alone(request("r", seed=4), UNET)
    assert torch.equal(alone(wanted, small_unet(), branches=untrained), expected)


@torch.inference_mode()
def test_a_mixed_batch_equals_plain_loops_of_single_rows() -> None:
    unet, branch = small_unet(), random_branch(UNET)
    plain = small_unet()
    wanted = [
        branched("removal", seed=5),
        request("no branch", seed=6),
        branched("half", seed=7, scale=0.5),
        branched("off", seed=8, scale=0.0),
    ]
    shared = engine(unet, branches={"powerpaint": branch})
    listeners = submitted(shared, *wanted)
    run(shared)
    for each in wanted:
        expected = by_plain_loops(each, SCHEDULE, plain, branch)
        assert psnr_db(listeners[each.request_id].latents, expected) >= 100
    without = by_plain_loops(request(seed=5), SCHEDULE, plain)
    assert psnr_db(listeners["removal"].latents, without) < 40


@torch.inference_mode()
def test_a_branch_acts_within_its_interval_alone() -> None:
    branch = random_branch(UNET)
    never, first = (branched("r", seed=9, interval=interval) for interval in ((0.1, 0.2), (0.0, 0.25)))
    plain = alone(request("r", seed=9), UNET)
    assert torch.equal(alone(never, small_unet(), branches={"powerpaint": branch}), plain)
    assert not torch.equal(alone(first, small_unet(), branches={"powerpaint": branch}), plain)
