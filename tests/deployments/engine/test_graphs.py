"""Recorded calls: what is played back reads the places that were recorded, whoever's rows are in them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from deployments.engine.acceleration import Acceleration
from deployments.engine.engine import Engine
from deployments.engine.graphs import GraphedCalls
from deployments.engine.lean_unet import make_lean
from deployments.engine.lora import LoraSlots
from deployments.engine.network import native_key
from deployments.engine.probe import probe
from deployments.engine.recordings import Output, buckets
from deployments.engine.request import AdapterInput, noise_for
from tests.deployments.engine.lora_scenes import random_factors
from tests.deployments.engine.scenes import (
    CONTEXT_DIM,
    SHAPE,
    Listener,
    engine,
    psnr_db,
    request,
    run,
    small_unet,
)
from tests.fakes import TinyUNet

CPU = torch.device("cpu")
UNET = small_unet()
FACTORS = {
    "narrow": random_factors(UNET, 3, seed=1),
    "typical": random_factors(UNET, 16, seed=4, size=0.1),
    "wide": random_factors(UNET, 40, seed=2, size=0.05),
    "convolutions": random_factors(UNET, 4, seed=3, targets=("conv1", "conv2", "proj_in")),
}


class Tape:
    """Records as a CUDA graph does: the operations of one call, on the tensors it saw, where they lay; all
    recordings share the memory of what they return."""

    def __init__(self) -> None:
        self.num_rows: list[int] = []
        self.num_played = 0
        self._returned: list[Tensor] = []

    def __call__(self, call: Callable[..., Output], inputs: Sequence[Tensor]) -> Callable[[], Output]:
        self.num_rows.append(len(inputs[0]))
        operations: Any = make_fx(call)(*inputs)

        def play() -> Output:
            self.num_played += 1
            for each in self._returned:
                each.fill_(torch.nan)
            played: Output = operations(*inputs)
            self._returned = [played] if isinstance(played, Tensor) else list(cast("tuple[Tensor]", played))
            return played

        return play


def recorded(unet: Any = None, **changes: Any) -> tuple[Engine, Tape]:
    tape = Tape()
    own = engine(unet or small_unet(), acceleration=Acceleration(record=tape), adapter_slots=4, **changes)
    return own, tape


def drawn(own: Engine, *waves: Sequence[Any], gap: int = 7) -> dict[str, Tensor]:
    """The latents of all requests; each wave comes ``gap`` steps after the one before."""
    heard = {}
    for wave in waves:
        for each in wave:
            heard[each.request_id] = Listener()
            used = {use.adapter_id: FACTORS[use.adapter_id] for use in each.adapters}
            own.submit(each, heard[each.request_id], used)
        for _ in range(gap):
            own.step()
    run(own)
    return {request_id: listener.latents for request_id, listener in heard.items()}


def wanted(request_id: str, seed: int, *adapters: str, **changes: Any) -> Any:
    uses = tuple(AdapterInput(name, 0.8) for name in adapters)
    return request(request_id, seed=seed, adapters=uses, **{"num_inference_steps": 30, **changes})


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for request_id, latents in got.items():
        assert psnr_db(latents, expected[request_id]) > 60, request_id


WAVES = (
    [wanted("a", 1), wanted("b", 2, guidance_scale=1.0)],
    [wanted("c", 3)],
    [wanted("d", 4, guidance_interval=(0.0, 0.5))],
)
ADAPTED = (
    [wanted("a", 1, "narrow"), wanted("b", 2, guidance_scale=1.0)],
    [wanted("c", 3, "wide")],
    [wanted("d", 4, "convolutions"), wanted("e", 5, "narrow", "wide")],
    [wanted("f", 6, "narrow")],
)


def test_rows_come_and_go_and_pictures_stay_the_same() -> None:
    own, tape = recorded()
    assert_same(drawn(own, *WAVES), drawn(engine(small_unet()), *WAVES))
    assert tape.num_played > 5
    assert set(tape.num_rows) <= {1, 2, 3, 4, 6, 8}


def test_adapters_come_and_go_and_pictures_stay_the_same() -> None:
    own, tape = recorded(max_rows=12)
    assert_same(drawn(own, *ADAPTED), drawn(engine(small_unet(), adapter_slots=4, max_rows=12), *ADAPTED))
    assert tape.num_played > 5


def test_warm_up_records_every_bucket_with_adapters_and_without() -> None:
    own, tape = recorded(max_rows=4)
    own.warm_up()
    assert sorted(tape.num_rows) == sorted(2 * buckets(4))
    before = tape.num_played
    native = request(
        "r", prompt_embeds=noise_for(1, (77, CONTEXT_DIM)), negative_embeds=None, guidance_scale=1
    )
    assert_same(drawn(own, [native]), drawn(engine(small_unet()), [native]))
    assert tape.num_played == before + 4


def test_recordings_of_warm_up_serve_adapters_that_come_later() -> None:
    own, _ = recorded(max_rows=4)
    own.warm_up()
    assert_same(drawn(own, *ADAPTED), drawn(engine(small_unet(), adapter_slots=4, max_rows=4), *ADAPTED))


def test_recordings_of_warm_up_outlive_the_models_own_adapter() -> None:
    own, tape = recorded(max_rows=2, few_step=FACTORS["narrow"])
    own.warm_up()
    before = len(tape.num_rows), tape.num_played
    embeds = noise_for(1, (77, CONTEXT_DIM))
    native: dict[str, Any] = {"prompt_embeds": embeds, "negative_embeds": None, "guidance_scale": 1.0}
    drawn(own, [request("distilled", few_step=True, **native)])
    drawn(own, [request("adapted", adapters=(AdapterInput("typical", 1.0),), **native)])
    assert (len(tape.num_rows), tape.num_played) == (before[0], before[1] + 4)


def test_the_models_own_adapter_acts_in_the_rows_that_want_it() -> None:
    own, tape = recorded(few_step=FACTORS["narrow"])
    plain = engine(small_unet(), adapter_slots=4, few_step=FACTORS["narrow"])
    waves = [wanted("a", 1, few_step=True), wanted("b", 2)], [wanted("c", 3, "wide", few_step=True)]
    assert_same(drawn(own, *waves), drawn(plain, *waves))
    assert tape.num_played > 5


def test_channels_that_follow_the_latents_are_those_of_the_rows_at_hand() -> None:
    unet = small_unet(in_channels=9)
    waves = [
        [wanted(f"r{seed}", seed, extra_channels=noise_for(50 + seed, (5, *SHAPE[1:])))] for seed in (1, 2)
    ]
    own, tape = recorded(unet)
    assert_same(drawn(own, *waves), drawn(engine(unet), *waves))
    assert tape.num_played > 5


def test_a_call_that_cannot_be_recorded_is_made_as_ever() -> None:
    # A branch on a value is nothing that a recording could repeat.
    own, tape = recorded(TinyUNet())
    assert_same(drawn(own, *WAVES), drawn(engine(TinyUNet()), *WAVES))
    assert tape.num_rows
    assert tape.num_played == 0


def test_rows_that_are_gone_are_not_read_again() -> None:
    own, _ = recorded()
    drawn(own, [wanted("a", 1, "narrow")])
    gc.collect()
    other = [wanted("b", 2, "wide")]
    assert_same(drawn(own, other), drawn(engine(small_unet(), adapter_slots=4), other))


def test_the_compiled_way_is_taken_for_what_is_prepared_alone() -> None:
    unet, taken = small_unet(), []

    def way(name: str) -> Any:
        def call(sample: Tensor, timestep: Tensor, context: Tensor, added: Any, _: Any) -> Tensor:
            taken.append(name)
            output: Tensor = unet(sample, timestep, context, return_dict=False)[0]
            return output

        return call

    calls = GraphedCalls(way("plain"), Tape(), 4, fast=way("compiled"))
    for rows, prepared in ((4, True), (2, False)):
        sample, timestep, layout = probe(native_key(unet.config), 4, rows, torch.float32, CPU)
        with torch.inference_mode():
            if prepared:
                calls.prepare(sample, layout, None)
            for _ in range(12):
                calls(sample, timestep, layout, None)
    assert set(taken[:1]) == {"compiled"}
    assert set(taken[1:]) == {"plain"}
    assert calls.num_recordings == 2


def test_what_cannot_be_compiled_is_recorded_as_it_is() -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no C compiler")

    unet = small_unet()
    sample, timestep, layout = probe(native_key(unet.config), 4, 2, torch.float32, CPU)

    def plain(sample: Tensor, timestep: Tensor, context: Tensor, added: Any, _: Any) -> Tensor:
        output: Tensor = unet(sample, timestep, context, return_dict=False)[0]
        return output

    tape = Tape()
    calls = GraphedCalls(plain, tape, 4, fast=broken)
    with torch.inference_mode():
        calls.prepare(sample, layout, None)
        got = calls(sample, timestep, layout, None)
    assert tape.num_played == 1
    assert torch.allclose(got, plain(sample, timestep, layout.context, None, None), atol=1e-5)


def test_the_compiler_sees_the_whole_call_with_adapters_in_it() -> None:
    unet = small_unet()
    assert make_lean(unet)
    slots = LoraSlots(unet, 2, steady_rows=4)
    compiled: Any = torch.compile(unet.forward, fullgraph=True, backend="eager")
    with torch.inference_mode():
        for rows in (4, 3):
            sample, timestep, layout = probe(native_key(unet.config), 4, rows, torch.float32, CPU)
            given = (torch.randn_like(sample), timestep, layout.context)
            with slots.acting(slots.rows([[("narrow", 1.0)]] * rows, FACTORS)):
                assert torch.equal(compiled(*given, return_dict=False)[0], unet(*given, return_dict=False)[0])


@pytest.mark.parametrize("max_rows", [2, 5, 16, 64])
def test_buckets_waste_at_most_a_third(max_rows: int) -> None:
    counts = buckets(max_rows)
    assert counts[-1] == max_rows
    for rows in range(1, max_rows + 1):
        padded = next(count for count in counts if count >= rows)
        assert padded - rows <= padded / 3
