"""The running batch: rows, masks, and who goes where when members change."""

from __future__ import annotations

import torch

from core.types import SamplerName
from deployments.engine.network import Network, measure_step_ms, native_key
from deployments.engine.request import DenoiseRequest, noise_for
from deployments.engine.rows import RunningBatch
from deployments.engine.samplers import sampler_table
from deployments.engine.trajectory import Trajectory, table_of
from tests.deployments.engine.scenes import CONTEXT_DIM, SCHEDULE, SHAPE, request
from tests.fakes import TinyUNet

CPU = torch.device("cpu")


def trajectory(wanted: DenoiseRequest) -> Trajectory:
    return Trajectory(wanted, table_of(wanted, SCHEDULE), SCHEDULE)


def batch_of(*members: Trajectory, unet: TinyUNet | None = None) -> RunningBatch:
    batch = RunningBatch(Network(unet or TinyUNet(CONTEXT_DIM)), torch.float32, CPU)
    batch.pack(members)
    return batch


def test_guidance_combines_the_two_rows_of_a_request() -> None:
    wanted = request(guidance_scale=3.0)
    member = trajectory(wanted)
    unet = TinyUNet(CONTEXT_DIM)
    assert wanted.negative_embeds is not None
    context = torch.stack([wanted.negative_embeds, wanted.prompt_embeds])
    timestep = member.coefficients[0, 0].expand(2)
    uncond, cond = unet(member.state[0].expand(2, *SHAPE), timestep, context)[0]
    guided = batch_of(member).predict()
    torch.testing.assert_close(guided[0], uncond + 3.0 * (cond - uncond))


def test_one_row_without_guidance_two_with() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    batch = batch_of(trajectory(request()), trajectory(request(guidance_scale=1.0)), unet=unet)
    assert batch.num_rows == 3
    batch.step()
    assert unet.rows_seen == [3]


def test_outside_the_mask_are_the_latents_of_the_noised_source() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1.0
    source = noise_for(9, SHAPE)
    masked = trajectory(request("masked", source=source, mask=mask, num_inference_steps=5))
    free = trajectory(request("free", num_inference_steps=5))
    table = sampler_table(SamplerName.DDIM, SCHEDULE, 5)
    batch, unmasked = batch_of(masked, free), batch_of(trajectory(request("free", num_inference_steps=5)))
    for step in range(5):
        batch.step()
        unmasked.step()
        last = step == 4
        signal, noise = (1.0, 0.0) if last else (float(table.signal[step + 1]), float(table.noise[step + 1]))
        expected = signal * source + noise * masked.request.noise
        torch.testing.assert_close(batch.x[0][:, 4:], expected[:, 4:])
        assert not torch.allclose(batch.x[0][:, :4], expected[:, :4])
        torch.testing.assert_close(batch.x[1], unmasked.x[0])


def test_members_keep_their_state_when_others_join_and_leave() -> None:
    first, second = trajectory(request("a", seed=1)), trajectory(request("b", seed=2, num_inference_steps=9))
    batch = batch_of(first)
    batch.step()
    batch.pack([second, first])
    batch.step()
    batch.pack([second])
    assert torch.equal(first.state[0], batch_after(2, request("a", seed=1)).x[0])
    assert torch.equal(batch.x[0], batch_after(1, request("b", seed=2, num_inference_steps=9)).x[0])
    assert (first.step, second.step) == (2, 1)


def batch_after(num_steps: int, wanted: DenoiseRequest) -> RunningBatch:
    batch = batch_of(trajectory(wanted))
    for _ in range(num_steps):
        batch.step()
    return batch


def test_packing_the_same_members_moves_nothing() -> None:
    member = trajectory(request())
    batch = batch_of(member)
    before = batch.x.data_ptr()
    batch.pack([member])
    assert batch.x.data_ptr() == before


def test_native_key_and_measurement_follow_the_configuration() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    key = native_key(unet.config)
    assert (key.channels, key.height, key.width, key.context_dim) == (4, 8, 8, CONTEXT_DIM)
    assert measure_step_ms(unet, key, 3, torch.float32, CPU, repeats=2) > 0
    assert unet.rows_seen == [3, 3, 3]
