from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio
import torch

from core.errors import DeadlineExceeded
from core.types import SamplerName
from deployments.engine.lora import LoraFactors
from deployments.engine.request import (
    Accepted,
    AdapterInput,
    DenoiseEvent,
    DenoiseRequest,
    Done,
    noise_for,
)
from deployments.pipeline.adapter_cache import AdapterCache
from deployments.pipeline.adapter_streaming import stream_with_adapters
from tests.adapter_files import ADAPTER_BYTES, GatedStore
from weights.adapters import unet_factors


class PatientEngine:
    """Accepts everything and ends nothing by itself."""

    def __init__(self) -> None:
        self.requests: list[DenoiseRequest] = []
        self.adapters: list[Mapping[str, LoraFactors]] = []
        self.tell: list[Callable[[DenoiseEvent], None]] = []
        self.cancelled: list[str] = []

    def submit(
        self,
        request: DenoiseRequest,
        on_event: Callable[[DenoiseEvent], None],
        adapters: Mapping[str, LoraFactors] = {},
    ) -> Accepted:
        self.requests.append(request)
        self.adapters.append(adapters)
        self.tell.append(on_event)
        return Accepted(request.request_id, 1.0)

    def cancel(self, request_id: str) -> bool:
        self.cancelled.append(request_id)
        return True


def request(*adapter_ids: str, deadline_s: float | None = None) -> DenoiseRequest:
    return DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.zeros(2, 8),
        noise=noise_for(0, (4, 8, 8)),
        sampler=SamplerName.DDIM,
        num_inference_steps=3,
        guidance_scale=1.0,
        seed=0,
        deadline_s=deadline_s,
        adapters=tuple(AdapterInput(adapter_id=each, weight=1.0) for each in adapter_ids),
    )


@pytest.fixture
def store() -> Iterator[GatedStore]:
    made = GatedStore()
    yield made
    made.gate.set()


@pytest_asyncio.fixture
async def cache(store: GatedStore) -> AsyncGenerator[AdapterCache, None]:
    made = AdapterCache(store, ADAPTER_BYTES, unet_factors)
    yield made
    made.close()


@pytest.mark.parametrize("to_the_end", [True, False])
async def test_adapters_are_held_until_the_stream_ends_or_is_closed(
    cache: AdapterCache, to_the_end: bool
) -> None:
    engine = PatientEngine()
    stream = stream_with_adapters(engine, cache, request("a", "b"))
    assert isinstance(await anext(stream), Accepted)
    assert set(engine.adapters[0]) == {"a", "b"}
    # Twice the bound.
    assert cache.stats().num_bytes == 2 * ADAPTER_BYTES
    if to_the_end:
        engine.tell[0](Done("r", torch.zeros(4, 8, 8), 3, 0.0, 1.0))
        assert isinstance(await anext(stream), Done)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    else:
        await stream.aclose()
    assert cache.stats().num_bytes == ADAPTER_BYTES
    assert engine.cancelled == ([] if to_the_end else ["r"])


async def test_the_time_that_loading_takes_is_part_of_the_deadline(cache: AdapterCache) -> None:
    engine = PatientEngine()
    for asked in (request("a", deadline_s=5.0), request(deadline_s=5.0)):
        stream = stream_with_adapters(engine, cache, asked)
        await anext(stream)
        await stream.aclose()
    loaded, plain = engine.requests
    assert loaded.deadline_s is not None
    assert 0 < loaded.deadline_s < 5.0
    assert plain.deadline_s == 5.0


async def test_a_store_that_hangs_holds_up_nobody_beyond_the_deadline(
    cache: AdapterCache, store: GatedStore
) -> None:
    engine = PatientEngine()
    store.gate.clear()
    waiting = [
        asyncio.ensure_future(anext(stream_with_adapters(engine, cache, request(name, deadline_s=0.02))))
        for name in "abcdef"
    ]
    stream = stream_with_adapters(engine, cache, request())
    assert isinstance(await anext(stream), Accepted)
    await stream.aclose()
    for late in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(late, DeadlineExceeded)
    assert len(engine.requests) == 1
