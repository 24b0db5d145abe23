"""Requests with adapters in one running batch: each equals itself alone, whoever comes and goes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.lora import LoraFactors
from deployments.engine.request import AdapterInput, DenoiseRequest, Done, Failed, HandedBack
from tests.deployments.engine.lora_scenes import ATTENTION, EVERYTHING, random_factors, relative_error
from tests.deployments.engine.scenes import Listener, engine, request, run, small_unet

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUM_ADAPTERS = 5
FACTORS: Mapping[str, LoraFactors] = {
    f"a{index}": random_factors(
        small_unet(), (4, 8, 16, 3, 32)[index], index, EVERYTHING if index == 1 else ATTENTION, size=0.15
    )
    for index in range(NUM_ADAPTERS)
}


def using(**weights: float) -> tuple[AdapterInput, ...]:
    return tuple(AdapterInput(name, weight) for name, weight in weights.items())


def submit(on: Engine, *wanted: DenoiseRequest) -> dict[str, Listener]:
    heard = {each.request_id: Listener() for each in wanted}
    for each in wanted:
        on.submit(each, heard[each.request_id], FACTORS)
    return heard


def drawn(wanted: DenoiseRequest, slots: int = 8) -> Tensor:
    """What the request draws alone, in an engine of its own."""
    own = engine(small_unet(), adapter_slots=slots)
    heard = submit(own, wanted)
    run(own)
    return heard[wanted.request_id].latents


def assert_equal(got: Tensor, expected: Tensor) -> None:
    assert relative_error(got[None], expected[None]) < 1e-4


def test_eight_rows_with_five_adapters_equal_each_alone() -> None:
    wanted = [
        request("one", seed=1, adapters=using(a0=1.0)),
        request("none", seed=2, guidance_scale=1.0),
        request("another", seed=3, guidance_scale=1.0, adapters=using(a1=0.6)),
        request("stack", seed=4, guidance_scale=1.0, adapters=using(a2=0.5, a3=-1.0, a4=0.3, a0=0.2)),
        request("same", seed=5, guidance_scale=1.0, sampler=SamplerName.EULER_A, adapters=using(a0=0.4)),
        request("guided", seed=6, adapters=using(a3=1.5)),
    ]
    own = engine(small_unet(), adapter_slots=8)
    heard = submit(own, *wanted)
    assert own.step().num_rows == 8
    run(own)
    for each in wanted:
        assert_equal(heard[each.request_id].latents, drawn(each))
    plain = drawn(replace(wanted[0], adapters=()))
    assert relative_error(heard["one"].latents[None], plain[None]) > 0.1


def test_without_adapters_nothing_changes_by_a_bit() -> None:
    wanted = request()
    expected = engine(small_unet())
    heard = submit(expected, wanted)
    run(expected)
    assert torch.equal(drawn(wanted), heard["r"].latents)
    used = engine(small_unet(), adapter_slots=4)
    submit(used, request("before", adapters=using(a0=1.0)))
    run(used)
    again = submit(used, wanted)
    run(used)
    assert torch.equal(again["r"].latents, heard["r"].latents)


def test_joining_and_leaving_in_the_middle_of_a_run() -> None:
    first = request("first", seed=1, num_inference_steps=6, adapters=using(a0=1.0))
    second = request("second", seed=2, num_inference_steps=2, adapters=using(a1=1.0, a0=0.5))
    third = request(
        "third", seed=3, num_inference_steps=3, guidance_interval=(0.3, 0.7), adapters=using(a2=1.0)
    )
    own = engine(small_unet(), adapter_slots=4)
    heard = submit(own, first)
    own.step()
    heard |= submit(own, second)
    own.step()
    heard |= submit(own, third)
    own.step()
    own.cancel("second")
    run(own)
    for each in (first, third):
        assert_equal(heard[each.request_id].latents, drawn(each))


def test_a_request_that_was_handed_back_goes_on_with_its_adapter() -> None:
    wanted = request(num_inference_steps=5, sampler=SamplerName.DPMPP_2M, adapters=using(a0=1.0, a1=0.5))
    own = engine(small_unet(), adapter_slots=4)
    heard = submit(own, wanted)
    own.step()
    own.step()
    own.hand_back()
    own.step()
    (end,) = heard["r"].ends
    assert isinstance(end, HandedBack)
    assert_equal(drawn(replace(wanted, snapshot=end.snapshot)), drawn(wanted))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, NUM_ADAPTERS - 1), max_size=2, unique=True),
            st.integers(1, 3),
            st.integers(0, 2),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(2, 3),
)
def test_with_fewer_slots_than_adapters_everyone_is_served_in_turn(mix: Any, num_slots: int) -> None:
    own = engine(small_unet(), adapter_slots=num_slots, max_rows=6)
    heard: dict[str, Listener] = {}
    wanted = {
        f"r{index}": (
            request(
                f"r{index}",
                seed=index,
                num_inference_steps=num_steps,
                guidance_scale=5.0 if guided else 1.0,
                adapters=using(**{f"a{number}": 0.7 for number in numbers}),
            ),
            arrives_at,
        )
        for index, (numbers, num_steps, arrives_at, guided) in enumerate(mix)
    }
    for step in range(3):
        heard |= submit(own, *[each for each, arrives_at in wanted.values() if arrives_at == step])
        own.step()
    run(own)
    assert all(isinstance(each.ends[0], Done) and len(each.ends) == 1 for each in heard.values())
    assert len(own.resident_adapters()) <= num_slots
    name = max(wanted)
    assert_equal(heard[name].latents, drawn(wanted[name][0]))


def test_stats_tell_loads_and_hits() -> None:
    own = engine(small_unet(), adapter_slots=2)
    for name in ("a0", "a0", "a1", "a2"):
        submit(own, request(adapters=using(**{name: 1.0})))
        run(own)
    stats = own.stats()
    assert (stats.num_resident_adapters, stats.num_adapter_loads, stats.num_adapter_hits) == (2, 3, 1)
    assert own.resident_adapters() == {"a1", "a2"}


def test_a_forgotten_adapter_serves_the_request_in_flight_and_is_gone_after_it() -> None:
    wanted = request(adapters=using(a0=1.0))
    own = engine(small_unet(), adapter_slots=2)
    heard = submit(own, wanted, request("other", adapters=using(a1=1.0)))
    own.step()
    own.forget_adapter("a0")
    own.forget_adapter("never here")
    assert own.resident_adapters() == {"a1"}
    run(own)
    assert_equal(heard["r"].latents, drawn(wanted))
    assert own.resident_adapters() == {"a1"}
    assert own.stats().num_resident_adapters == 1
    own.forget_adapter("a1")
    assert own.resident_adapters() == frozenset()


def test_an_idle_engine_holds_no_factors() -> None:
    own, factors = engine(small_unet(), adapter_slots=2), dict(FACTORS)
    down = factors["a0"] = {path: (each.clone(), up) for path, (each, up) in FACTORS["a0"].items()}
    watched = weakref.ref(next(iter(down.values()))[0])
    own.submit(request(adapters=using(a0=1.0)), Listener(), factors)
    del factors, down
    own.step()
    assert watched() is not None
    run(own)
    assert watched() is None


MISFIT: LoraFactors = {
    "down_blocks.0.attentions.0.proj_in": (torch.ones(2, 5, 1, 1), torch.ones(32, 2, 1, 1))
}


@pytest.mark.parametrize(
    ("adapters", "field", "limit"),
    [
        ((AdapterInput("a0", 5.0),), "adapters[0].weight", [-4.0, 4.0]),
        ((AdapterInput("a1", 1.0), AdapterInput("a0", float("nan"))), "adapters[1].weight", [-4.0, 4.0]),
        ((AdapterInput("unknown", 1.0),), "adapters[0].adapter_id", None),
        ((AdapterInput("a0", 1.0), AdapterInput("misfit", 1.0)), "adapters[1]", None),
        (tuple(AdapterInput("a0", 0.1) for _ in range(5)), "adapters", 4),
    ],
)
def test_bad_adapters_are_refused_at_submission(
    adapters: tuple[AdapterInput, ...], field: str, limit: object
) -> None:
    own = engine(small_unet(), adapter_slots=8)
    with pytest.raises(InvalidRequest) as refused:
        own.submit(request(adapters=adapters), Listener(), {**FACTORS, "misfit": MISFIT})
    assert (refused.value.field, refused.value.limit) == (field, limit)
    assert own.num_queued == 0


def test_an_engine_without_slots_refuses_adapters() -> None:
    own = engine(small_unet())
    with pytest.raises(InvalidRequest, match="takes no adapters") as refused:
        own.submit(request(adapters=using(a0=1.0)), Listener(), FACTORS)
    assert refused.value.field == "adapters"


def test_an_adapter_that_breaks_later_fails_its_request_alone() -> None:
    """Its factors change after they were checked, as those of a cache that is not what it says."""
    broken = dict(FACTORS["a0"])
    own, heard = engine(small_unet(), adapter_slots=4), Listener()
    good = request("good", seed=3, adapters=using(a1=1.0))
    neighbour = submit(own, good)["good"]
    own.submit(request("bad", adapters=using(bad=1.0)), heard, {"bad": broken})
    broken["no.such.layer"] = next(iter(broken.values()))
    run(own)
    assert isinstance(heard.ends[0], Failed)
    assert_equal(neighbour.latents, drawn(good))


def test_rows_with_adapters_cost_what_warm_up_measured() -> None:
    cost = CostModel()
    own = engine(small_unet(), adapter_slots=4, cost=cost)
    assert cost.rows(2, None, adapted=True) == pytest.approx(2.2)
    own.warm_up()
    assert own.resident_adapters() == frozenset()
    assert cost.rows(2, None) == 2
    assert cost.rows(2, None, adapted=True) >= 2
    cost.calibrate_adapters(0.5)
    assert cost.rows(2, None, adapted=True) == 3.0
    assert cost.rows(2, "edges", adapted=True) == 4.0


def test_predictions_count_adapters() -> None:
    cost = CostModel(default_row_ms=100.0)
    cost.calibrate_adapters(0.5)
    own = engine(small_unet(), adapter_slots=4, cost=cost)
    wanted = request(num_inference_steps=8, adapters=using(a0=1.0))
    assert own.submit(wanted, Listener(), FACTORS).predicted_finish_s == pytest.approx(8 * 2 * 0.15)
