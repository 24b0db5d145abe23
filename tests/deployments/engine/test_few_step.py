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
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.network import native_key
from deployments.engine.pricing import cost_rows
from deployments.engine.request import AdapterInput, DenoiseRequest, HandedBack
from tests.deployments.engine.lora_scenes import ATTENTION, EVERYTHING, random_factors, relative_error
from tests.deployments.engine.scenes import CONTEXT_DIM, Listener, engine, request, run, small_unet

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
    assert relative_error(got[None], expected[None]) < 1e-4
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
    assert relative_error(got[None], drawn(distilled(), request(few_step=True))[0][None]) < 1e-5
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
    before = cost.rows(1, None, few_step=True)
    own.warm_up([native_key(small_unet().config)])
    assert cost.rows(1, None, few_step=True) != before
    assert not own.resident_adapters()
    cost.calibrate_few_step(0.5)
    cost.calibrate_adapters(0.25)
    assert cost_rows(request(), 0, cost) == 2
    assert cost_rows(request(few_step=True), 0, cost) == 2 * 1.5
    assert cost_rows(request(few_step=True, adapters=STACK[:1]), 0, cost) == 2 * 1.75
    assert cost_rows(request(few_step=True, guidance_scale=1.0), 0, cost) == 1.5


def test_layers_that_only_it_acts_in_have_no_buffers_for_members() -> None:
    unet = small_unet()
    own = engine(unet, adapter_slots=4, few_step=OWN)
    drawn(own, request("few", few_step=True), request("member", adapters=STACK[:1]))
    sizes = {
        path: sum(tensor.numel() for tensor in (layer.lora._downs, layer.lora._ups))
        for path, layer in unet.named_modules()
        if hasattr(layer, "lora")
    }
    assert set(sizes) == set(OWN)
    assert {path for path, size in sizes.items() if size} == set(MEMBERS["a0"])


def test_each_row_uses_it_by_its_own_weight() -> None:
    unet = small_unet()
    slots = LoraSlots(unet, 2)
    slots.keep("own", OWN)
    inputs = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 900]), torch.randn(3, 5, CONTEXT_DIM)
    with torch.inference_mode(), slots.acting(slots.rows([[("own", 0.5)], [], [("own", 1.0)]], {})):
        mixed = unet(*inputs).sample
    assert slots.rows([[]], {}).kept is None
    for row, weight in enumerate((0.5, 0.0, 1.0)):
        merged = small_unet()
        for path, (down, up) in OWN.items():
            layer_weight = merged.get_submodule(path).get_parameter("weight")
            layer_weight += weight * (up.flatten(1) @ down.flatten(1)).view_as(layer_weight)
        expected = merged(*(each[row : row + 1] for each in inputs)).sample
        assert relative_error(mixed[row : row + 1], expected) < 1e-4
