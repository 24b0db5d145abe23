"""What a request may say, and that it travels."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from core.errors import InvalidRequest
from deployments.engine.request import Snapshot, check, noise_for
from deployments.engine.scheduler import BatchKey
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


def test_two_rows_while_guided_and_one_otherwise() -> None:
    interval = request(num_inference_steps=10, guidance_interval=(0.2, 0.5))
    assert [interval.num_rows(step) for step in range(10)] == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    assert {request(guidance_scale=1.0).num_rows(step) for step in range(4)} == {1}
    assert {request().num_rows(step) for step in range(4)} == {2}


def test_survives_pickling() -> None:
    snapshot = Snapshot(latents=ZEROS, x_prev=ZEROS, m_prev=ZEROS, step=2)
    sent = request(snapshot=snapshot, mask=torch.ones(1, 8, 8), source=ZEROS)
    received = pickle.loads(pickle.dumps(sent))
    assert torch.equal(received.noise, sent.noise)
    assert (received.first_step, received.key) == (2, sent.key)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("num_inference_steps", {"num_inference_steps": 0}),
        ("start_step", {"start_step": 4, "source": ZEROS}),
        ("start_step", {"start_step": -1, "source": ZEROS}),
        ("source", {"start_step": 1}),
        ("source", {"mask": torch.ones(1, 8, 8)}),
        ("source", {"source": torch.zeros(4, 8, 9)}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("guidance_scale", {"guidance_scale": float("inf")}),
        ("guidance_interval", {"guidance_interval": (0.6, 0.4)}),
        ("guidance_interval", {"guidance_interval": (0.0, float("nan"))}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**64}),
        ("deadline_s", {"deadline_s": 0.0}),
        ("deadline_s", {"deadline_s": float("nan")}),
        ("preview_every", {"preview_every": -1}),
        ("noise", {"noise": torch.zeros(3, 8, 8)}),
        ("noise", {"noise": torch.zeros(1, 4, 8, 8)}),
        ("noise", {"noise": torch.zeros(4, 0, 8)}),
        ("noise", {"noise": torch.full(SHAPE, float("nan"))}),
        ("noise", {"noise": torch.zeros(SHAPE, dtype=torch.int64)}),
        ("mask", {"mask": torch.ones(8, 8), "source": ZEROS}),
        ("prompt_embeds", {"prompt_embeds": torch.zeros(5, CONTEXT_DIM + 1)}),
        ("prompt_embeds", {"prompt_embeds": torch.zeros(CONTEXT_DIM)}),
        ("prompt_embeds", {"prompt_embeds": torch.zeros(0, CONTEXT_DIM)}),
        ("prompt_embeds", {"prompt_embeds": torch.full((5, CONTEXT_DIM), float("inf"))}),
        ("negative_embeds", {"negative_embeds": None}),
        ("negative_embeds", {"negative_embeds": torch.zeros(6, CONTEXT_DIM)}),
        ("snapshot", {"snapshot": Snapshot(latents=ZEROS, x_prev=ZEROS, m_prev=ZEROS, step=4)}),
        (
            "snapshot.x_prev",
            {"snapshot": Snapshot(latents=ZEROS, x_prev=torch.zeros(1), m_prev=ZEROS, step=1)},
        ),
        ("negative_added_conditions", {"negative_added_conditions": {"text_embeds": torch.zeros(3)}}),
    ],
)
def test_a_request_that_cannot_succeed_is_refused_with_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(replace(request(), **changes), channels=4, context_dim=CONTEXT_DIM)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_embeds": None, "guidance_scale": 1.0},
        {"source": ZEROS, "start_step": 3},
        {"source": ZEROS, "mask": torch.zeros(1, 8, 8)},
        {"guidance_interval": (0.0, 0.0)},
    ],
)
def test_a_request_that_can_succeed_is_not(changes: dict[str, Any]) -> None:
    check(replace(request(), **changes), channels=4, context_dim=CONTEXT_DIM)
