"""What is refused before it is queued, with the field at fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.branch import Branch, BranchInput, Residuals
from deployments.engine.check import ModelShape, check
from deployments.engine.request import Snapshot
from tests.deployments.engine.scenes import CONTEXT_DIM, SHAPE, request

ZEROS = torch.zeros(SHAPE)
MASK = torch.ones(1, 8, 8)
MODEL = ModelShape(4, CONTEXT_DIM)


class Sketch:
    """A branch that is asked for its sizes only."""

    style: Literal["skip", "stream"] = "skip"
    conditioning_channels = 3
    conditioning_factor = 2
    context_dim = CONTEXT_DIM

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Residuals:
        raise NotImplementedError


BRANCHES: dict[str, Branch] = {"edges": Sketch()}


def branched(**changes: Any) -> dict[str, Any]:
    """Changes that give a request this branch."""
    values = {"name": "edges", "conditioning": torch.zeros(3, 16, 16), **changes}
    return {"branch": BranchInput(**values)}


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
        ("sampler", {"invert": True, "source": ZEROS, "sampler": SamplerName.EULER}),
        ("source", {"invert": True}),
        ("mask", {"invert": True, "source": ZEROS, "mask": MASK}),
        ("start_latents", {"invert": True, "source": ZEROS, "start_latents": ZEROS}),
        ("start_latents", {"source": ZEROS, "start_latents": ZEROS}),
        ("start_latents", {"start_latents": torch.zeros(4, 8, 9)}),
        ("start_latents", {"start_latents": torch.full(SHAPE, float("nan"))}),
        ("source", {"start_latents": ZEROS, "mask": MASK}),
        ("extra_channels", {"extra_channels": torch.zeros(5, 8, 8)}),
        ("branch.name", branched(name="lines")),
        ("branch.scale", branched(scale=float("inf"))),
        ("branch.interval", branched(interval=(0.5, 1.5))),
        ("branch.conditioning", branched(conditioning=torch.zeros(3, 8, 8))),
        ("branch.conditioning", branched(conditioning=torch.full((3, 16, 16), float("nan")))),
        ("branch.prompt_embeds", branched(prompt_embeds=torch.zeros(5, CONTEXT_DIM + 1))),
        ("branch.prompt_embeds", branched(prompt_embeds=torch.full((5, CONTEXT_DIM), float("nan")))),
        ("branch.negative_embeds", branched(negative_embeds=torch.zeros(6, CONTEXT_DIM))),
        ("branch.negative_embeds", branched(prompt_embeds=torch.zeros(6, CONTEXT_DIM))),
        ("negative_added_conditions", {"negative_added_conditions": {"text_embeds": torch.zeros(3)}}),
        ("added_conditions", {"added_conditions": {"text_embeds": torch.zeros(3)}}),
    ],
)
def test_a_request_that_cannot_succeed_is_refused_with_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(replace(request(), **changes), MODEL, BRANCHES)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_embeds": None, "guidance_scale": 1.0},
        {"source": ZEROS, "start_step": 3},
        {"source": ZEROS, "mask": torch.zeros(1, 8, 8)},
        {"guidance_interval": (0.0, 0.0)},
        {"invert": True, "source": ZEROS, "start_step": 2},
        {"start_latents": ZEROS, "start_step": 2},
        {"start_latents": ZEROS, "start_step": 2, "source": ZEROS, "mask": MASK},
        branched(interval=(0.2, 0.2), scale=-1.0),
        branched(prompt_embeds=torch.zeros(6, CONTEXT_DIM), negative_embeds=torch.zeros(6, CONTEXT_DIM)),
        {**branched(prompt_embeds=torch.zeros(6, CONTEXT_DIM)), "guidance_scale": 1.0},
    ],
)
def test_a_request_that_can_succeed_is_not(changes: dict[str, Any]) -> None:
    check(replace(request(), **changes), MODEL, BRANCHES)


@pytest.mark.parametrize("given", [None, torch.zeros(4, 8, 8), torch.full((5, 8, 8), float("inf"))])
def test_a_wide_model_needs_all_its_extra_channels(given: torch.Tensor | None) -> None:
    model = ModelShape(4, CONTEXT_DIM, extra_channels=5)
    check(request(extra_channels=torch.zeros(5, 8, 8)), model)
    with pytest.raises(InvalidRequest) as refused:
        check(request(extra_channels=given), model)
    assert refused.value.field == "extra_channels"


ADDED = {"text_embeds": torch.zeros(3), "time_ids": torch.zeros(6)}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("added_conditions", {}),
        ("added_conditions", {"added_conditions": {"time_ids": torch.zeros(6)}}),
        ("added_conditions", {"added_conditions": {**ADDED, "aesthetic_score": torch.zeros(1)}}),
        ("added_conditions.time_ids", {"added_conditions": {**ADDED, "time_ids": torch.zeros(5)}}),
        (
            "added_conditions.text_embeds",
            {"added_conditions": {**ADDED, "text_embeds": torch.full((3,), float("nan"))}},
        ),
        (
            "negative_added_conditions.text_embeds",
            {"added_conditions": ADDED, "negative_added_conditions": {"text_embeds": torch.zeros(4)}},
        ),
    ],
)
def test_added_conditions_have_to_be_those_of_the_model(field: str, changes: dict[str, Any]) -> None:
    model = ModelShape(4, CONTEXT_DIM, added=(("text_embeds", (3,)), ("time_ids", (6,))))
    check(replace(request(), added_conditions=ADDED), model)
    with pytest.raises(InvalidRequest) as refused:
        check(replace(request(), **changes), model)
    assert refused.value.field == field
