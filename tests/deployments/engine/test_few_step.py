"""The model's own few-step adapter: the same as if the request had brought it along."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.few_step import FEW_STEP
from deployments.engine.lora import LoraFactors
from deployments.engine.network import native_key
from deployments.engine.pricing import cost_rows
from deployments.engine.request import AdapterInput, DenoiseRequest, HandedBack
from tests.deployments.engine.lora_scenes import ATTENTION, EVERYTHING, random_factors, relative_error
from tests.deployments.engine.scenes import Listener, engine, request, run, small_unet

OWN = random_factors(small_unet(), 16, 0, EVERYTHING, size=0.1)
MEMBERS: Mapping[str, LoraFactors] = {
    f"a{index}": random_factors(small_unet(), 4, index + 1, ATTENTION, size=0.15) for index in range(4)
}
STACK = tuple(AdapterInput(name, 0.5) for name in MEMBERS)


def distilled(**changes: object) -> Engine:
    return engine(small_unet(), adapter_slots=4, few_step=OWN, **changes)


def drawn(
    own: Engine, *wanted: DenoiseRequest, adapters: Mapping[str, LoraFactors] = MEMBERS
) -> list[Tensor]:
    heard = [Listener() for _ in wanted]
    for each, listener in zip(wanted, heard, strict=True):
        own.submit(each, listener, adapters)
    run(own)
    return [listener.latents for listener in heard]


def test_it_acts_as_an_adapter_of_weight_one() -> None:
    (got,) = drawn(distilled(), request(sampler=SamplerName.LCM, guidance_scale=1.0, few_step=True))
    brought = request(sampler=SamplerName.LCM, guidance_scale=1.0, adapters=(AdapterInput("brought", 1.0),))
    (expected,) = drawn(engine(small_unet(), adapter_slots=4), brought, adapters={"brought": OWN})
    (without,) = drawn(distilled(), request(sampler=SamplerName.LCM, guidance_scale=1.0))
    assert torch.equal(got, expected)
    assert relative_error(got[None], without[None]) > 0.1


def test_it_has_room_beside_as_many_adapters_as_a_request_may_have() -> None:
    wanted = request("r", few_step=True, adapters=STACK)
    (got,) = drawn(distilled(), wanted)
    brought = request("r", adapters=(*STACK[:3], AdapterInput("both", 1.0)))
    both = {
        path: (torch.cat([down, 0.5 * more[0]]), torch.cat([up, more[1]], 1)) if more else (down, up)
        for path, (down, up) in OWN.items()
        for more in [MEMBERS["a3"].get(path)]
    }
    (expected,) = drawn(engine(small_unet(), adapter_slots=4), brought, adapters={**MEMBERS, "both": both})
    assert relative_error(got[None], expected[None]) < 1e-4


def test_rows_with_and_without_it_share_a_batch_and_do_not_mix() -> None:
    wanted = [
        request("few", seed=1, few_step=True, guidance_scale=1.0),
        request("plain", seed=2),
        request("both", seed=3, few_step=True, adapters=STACK[:1], guidance_scale=1.0),
        request("member", seed=4, adapters=STACK[1:2], guidance_scale=1.0),
    ]
    together = drawn(distilled(), *wanted)
    for each, got in zip(wanted, together, strict=True):
        assert relative_error(got[None], drawn(distilled(), each)[0][None]) < 1e-4


def test_without_one_a_request_for_it_is_refused() -> None:
    own = engine(small_unet(), adapter_slots=4)
    with pytest.raises(InvalidRequest) as refused:
        own.submit(request(few_step=True), Listener())
    assert (refused.value.field, refused.value.limit) == ("few_step", False)


def test_an_engine_without_slots_for_members_has_one_for_it() -> None:
    own = engine(small_unet(), few_step=OWN)
    (got,) = drawn(own, request(few_step=True))
    assert torch.equal(got, drawn(distilled(), request(few_step=True))[0])
    with pytest.raises(InvalidRequest, match="takes no adapters"):
        own.submit(request("r2", adapters=STACK[:1]), Listener(), MEMBERS)


def test_one_that_does_not_fit_the_network_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidRequest, match="no layer elsewhere"):
        engine(small_unet(), few_step={"elsewhere": next(iter(OWN.values()))})


def test_a_request_that_was_handed_back_goes_on_with_it() -> None:
    wanted = request(few_step=True, sampler=SamplerName.LCM)
    own, heard = distilled(), Listener()
    own.submit(wanted, heard)
    own.step()
    own.hand_back()
    run(own)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    resumed = request(few_step=True, sampler=SamplerName.LCM, snapshot=end.snapshot)
    assert torch.equal(drawn(distilled(), resumed)[0], drawn(distilled(), wanted)[0])


def test_its_cost_is_measured_and_charged() -> None:
    cost = CostModel()
    own = distilled(cost=cost)
    own.warm_up([native_key(small_unet().config)])
    assert not own.resident_adapters()
    member = request(adapters=STACK[:1])
    plain, few, adapted, both = (
        cost_rows(each, 0, cost)
        for each in (request(), request(few_step=True, adapters=()), member, request(few_step=True))
    )
    assert plain == 2
    assert few == both > plain
    assert adapted >= plain
    priced = CostModel()
    priced.calibrate_few_step(0.5)
    priced.calibrate_adapters(0.25)
    with_both = request(few_step=True, adapters=(AdapterInput(FEW_STEP, 1.0), *STACK[:1]))
    assert cost_rows(with_both, 0, priced) == 2 * 1.75
    assert cost_rows(request(few_step=True, adapters=(AdapterInput(FEW_STEP, 1.0),)), 0, priced) == 2 * 1.5
