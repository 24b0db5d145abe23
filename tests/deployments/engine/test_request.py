"""What a request may say, and that it travels."""

from __future__ import annotations

import pickle
from dataclasses import replace

import torch
from diffusers.utils.torch_utils import randn_tensor

from deployments.engine.branch import BranchInput
from deployments.engine.request import Done, Snapshot, noise_for
from deployments.engine.work import BatchKey
from tests.deployments.engine.scenes import CONTEXT_DIM, SHAPE, request

ZEROS = torch.zeros(SHAPE)


def test_noise_is_what_a_diffusers_pipeline_draws() -> None:
    expected = randn_tensor((1, *SHAPE), generator=torch.Generator().manual_seed(7))
    assert torch.equal(noise_for(7, SHAPE), expected[0])


def test_key_holds_the_shapes_and_nothing_else() -> None:
    one = request(seed=1, num_inference_steps=3, guidance_scale=1.0)
    other = request(seed=2, source=ZEROS, start_step=1)
    assert one.key == other.key == BatchKey(4, 8, 8, 5, CONTEXT_DIM)
    with_size = replace(one, added_conditions={"time_ids": torch.zeros(6)})
    assert with_size.key == BatchKey(4, 8, 8, 5, CONTEXT_DIM, (("time_ids", (6,)),))


def test_extra_channels_are_channels_of_the_key() -> None:
    wide = request(extra_channels=torch.zeros(5, 8, 8))
    assert wide.key == BatchKey(9, 8, 8, 5, CONTEXT_DIM)


def test_an_inversion_is_guided_at_the_noise_levels_where_the_trajectory_is() -> None:
    there = request(num_inference_steps=10, start_step=4, guidance_interval=(0.5, 0.8), source=ZEROS)
    back = replace(there, invert=True)
    assert [back.position(step) for step in range(4, 10)] == [9, 8, 7, 6, 5, 4]
    guided = {step for step in range(4, 10) if there.guided(step)}
    assert {back.position(step) for step in range(4, 10) if back.guided(step)} == guided == {5, 6, 7}


def test_two_rows_while_guided_and_one_otherwise() -> None:
    interval = request(num_inference_steps=10, guidance_interval=(0.2, 0.5))
    assert [interval.num_rows(step) for step in range(10)] == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    assert {request(guidance_scale=1.0).num_rows(step) for step in range(4)} == {1}
    assert {request().num_rows(step) for step in range(4)} == {2}


def test_survives_pickling() -> None:
    state = torch.Generator().get_state()
    snapshot = Snapshot(latents=ZEROS, x_prev=ZEROS, m_prev=ZEROS, step=2, generator_state=state)
    branch = BranchInput(name="controlnet", conditioning=torch.ones(3, 64, 64), scale=0.5)
    sizes = {"time_ids": torch.arange(6.0)}
    sent = request(
        snapshot=snapshot, mask=torch.ones(1, 8, 8), source=ZEROS, branch=branch, added_conditions=sizes
    )
    received = pickle.loads(pickle.dumps(sent))
    assert torch.equal(received.noise, sent.noise)
    assert torch.equal(received.source, ZEROS)
    assert (received.first_step, received.key, received.sampler) == (2, sent.key, sent.sampler)
    assert torch.equal(received.snapshot.generator_state, state)
    assert torch.equal(received.added_conditions["time_ids"], sizes["time_ids"])
    assert torch.equal(received.branch.conditioning, branch.conditioning)
    assert received.branch.scale == 0.5
    assert received.start_latents is None


def test_the_latents_that_come_back_survive_pickling() -> None:
    latents = noise_for(1, SHAPE)
    sent = Done("r", latents, num_steps=3, queued_s=0.1, denoise_s=0.2)
    received = pickle.loads(pickle.dumps(sent))
    assert torch.equal(received.latents, latents)
    assert (received.request_id, received.num_steps, received.denoise_s) == ("r", 3, 0.2)
    # Writable, as the tensor was.
    received.latents.add_(1)
    assert torch.equal(received.latents, latents + 1)
