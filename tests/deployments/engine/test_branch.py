"""Branches in a shared batch: ControlNet against diffusers' pipeline, BrushNet rows, neighbours unharmed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline
from torch import Tensor, nn

from core.types import SamplerName
from deployments.engine.branch import BranchInput, ControlNetBranch, Residuals
from deployments.engine.brushnet import BrushNet
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.network import native_key
from deployments.engine.request import Cancelled, DenoiseRequest, Failed, HandedBack, noise_for
from tests.deployments.engine.references import drawn, pipeline_of
from tests.deployments.engine.scenes import (
    CONTEXT_DIM,
    SCHEDULE,
    alone,
    engine,
    request,
    run,
    small_unet,
    submitted,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Pixels are twice as dense as latents here.
EDGES = noise_for(70, (3, 16, 16)).sigmoid()
HOLE = noise_for(71, (5, 8, 8))
VAE = AutoencoderKL(
    block_out_channels=(8, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
    latent_channels=4,
)


def awake(network: Any) -> Any:
    """The network with its zero convolutions filled, so that its residuals matter."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


CONTROL = awake(ControlNetModel.from_unet(small_unet(), conditioning_embedding_out_channels=(8, 16)))
BRUSH = awake(BrushNet.from_unet(small_unet()))


def branched_engine(**changes: Any) -> Engine:
    branches = {"edges": ControlNetBranch(CONTROL), "brush": BRUSH}
    return engine(small_unet(), branches=branches, **changes)


def edges(**changes: Any) -> BranchInput:
    return BranchInput(**{"name": "edges", "conditioning": EDGES, **changes})


def brush(**changes: Any) -> BranchInput:
    return BranchInput(**{"name": "brush", "conditioning": HOLE, **changes})


def results(*wanted: DenoiseRequest) -> dict[str, Tensor]:
    shared = branched_engine(max_rows=12)
    heard = submitted(shared, *wanted)
    run(shared)
    return {request_id: listener.latents for request_id, listener in heard.items()}


def by_diffusers(wanted: DenoiseRequest) -> Tensor:
    asked = wanted.branch
    assert asked is not None
    pipeline = pipeline_of(
        StableDiffusionControlNetPipeline, small_unet(), wanted.sampler, SCHEDULE, vae=VAE, controlnet=CONTROL
    )
    start, stop = asked.interval
    return drawn(
        pipeline,
        wanted,
        image=asked.conditioning[None],
        controlnet_conditioning_scale=asked.scale,
        control_guidance_start=start,
        control_guidance_end=stop,
    )


@pytest.mark.parametrize(
    ("sampler", "guidance_scale", "asked"),
    [
        (SamplerName.DDIM, 5.0, edges()),
        (SamplerName.EULER_A, 5.0, edges(scale=0.6, interval=(0.2, 0.7))),
        (SamplerName.DPMPP_2M, 1.0, edges(scale=1.4)),
    ],
)
def test_a_controlnet_row_of_a_mixed_batch_equals_the_pipeline(
    sampler: SamplerName, guidance_scale: float, asked: BranchInput
) -> None:
    wanted = request(
        seed=4, sampler=sampler, guidance_scale=guidance_scale, num_inference_steps=6, branch=asked
    )
    plain = request("plain", seed=8, num_inference_steps=7)
    other = request("other", seed=9, branch=brush(scale=0.5), guidance_scale=1.0, num_inference_steps=5)
    together = results(plain, wanted, other)
    torch.testing.assert_close(together["r"], by_diffusers(wanted), atol=1e-4, rtol=0)
    torch.testing.assert_close(together["plain"], alone(plain, small_unet()), atol=1e-4, rtol=0)
    torch.testing.assert_close(together["other"], results(other)["other"], atol=1e-4, rtol=0)
    assert not torch.allclose(together["r"], alone(replace(wanted, branch=None), small_unet()), atol=1e-2)


@pytest.mark.parametrize("asked", [edges(), brush()], ids=["skip", "stream"])
def test_a_branch_changes_nothing_for_its_neighbours(asked: BranchInput) -> None:
    plain, branched = request("plain", seed=8), request(seed=1, branch=asked)
    assert torch.equal(
        results(plain, branched)["plain"], results(plain, replace(branched, branch=None))["plain"]
    )


@pytest.mark.parametrize("asked", [edges(scale=0.0), edges(interval=(0.5, 0.5)), brush(scale=0.0)])
def test_a_branch_that_never_acts_is_the_unet_alone(asked: BranchInput) -> None:
    wanted = request(branch=asked)
    assert torch.equal(results(wanted)["r"], alone(replace(wanted, branch=None), small_unet()))


def test_a_brushnet_of_zeros_is_the_unet_alone() -> None:
    wanted = request(branch=brush())
    blank = engine(small_unet(), branches={"brush": BrushNet.from_unet(small_unet()).eval()})
    heard = submitted(blank, wanted)["r"]
    run(blank)
    assert torch.equal(heard.latents, alone(replace(wanted, branch=None), small_unet()))


def test_a_branch_reads_its_own_text_and_any_length_of_it() -> None:
    long_text = noise_for(60, (9, CONTEXT_DIM))
    own = request("own", branch=edges(prompt_embeds=long_text, negative_embeds=-long_text))
    shared = request("shared", branch=edges())
    together = results(own, shared)
    assert not torch.allclose(together["own"], together["shared"], atol=1e-3)
    for each in (own, shared):
        name = each.request_id
        torch.testing.assert_close(together[name], results(each)[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("asked", [edges(interval=(0.2, 0.9)), brush()], ids=["skip", "stream"])
def test_handed_back_and_resumed(asked: BranchInput) -> None:
    wanted = request(branch=asked, sampler=SamplerName.EULER_A, num_inference_steps=6)
    first = branched_engine()
    heard = submitted(first, wanted)["r"]
    run(first, until=lambda: len(heard.events) == 2)
    first.hand_back()
    run(first)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    assert torch.equal(results(replace(wanted, snapshot=end.snapshot))["r"], results(wanted)["r"])


def test_cancelled_beside_others() -> None:
    own = branched_engine()
    heard = submitted(own, request("gone", branch=edges()), request("stays", seed=2))
    own.step()
    assert own.cancel("gone")
    run(own)
    assert heard["gone"].ends == [Cancelled("gone")]
    torch.testing.assert_close(
        heard["stays"].latents, alone(request("stays", seed=2), small_unet()), atol=1e-4, rtol=0
    )


class Moody(ControlNetBranch):
    """Raises for a conditioning of ones."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Residuals:
        if bool(conditioning.eq(1).flatten(1).all(1).any()):
            raise RuntimeError("the branch does not like this picture")
        return super().forward(sample, timestep, context, conditioning)


def test_a_branch_that_raises_fails_its_own_request_alone() -> None:
    own = engine(small_unet(), branches={"edges": Moody(CONTROL)})
    bad, good = request("bad", branch=edges(conditioning=torch.ones(3, 16, 16))), request(branch=edges())
    heard = submitted(own, bad, good)
    run(own)
    assert isinstance(heard["bad"].ends[0], Failed)
    torch.testing.assert_close(heard["r"].latents, results(good)["r"], atol=1e-4, rtol=0)


def test_rows_with_a_branch_cost_more() -> None:
    cost = CostModel()
    own = branched_engine(cost=cost, max_rows=4)
    own.warm_up()
    assert cost.rows(2, "edges") > 2
    assert cost.rows(2, None) == 2
    key = native_key(small_unet().config)
    # Known durations: measured ones of a busy machine may be as long for four rows as for two.
    for rows in (1, 2, 4):
        cost.calibrate(key, rows, 10.0 * rows)
    assert cost.step_ms(key, cost.rows(2, "brush")) > cost.step_ms(key, 2) > 0
