from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BrokenAdapter, GenerationFailed, LimnerError, NotFound
from deployments.engine.request import AdapterInput
from deployments.pipeline import adapter_cache
from deployments.pipeline.adapter_cache import AdapterCache, BlobsAtNeed, Reads
from store.blobs import Blobs
from store.keys import adapter_file
from tests.adapter_files import ADAPTER_BYTES, FILES, GatedStore, put, small_adapter
from weights.adapters import text_encoder_factors, unet_factors


def asked(*adapter_ids: str, sha256: str = "") -> list[AdapterInput]:
    return [AdapterInput(adapter_id=each, weight=1.0, sha256=sha256) for each in adapter_ids]


@pytest.fixture
def store() -> Iterator[GatedStore]:
    made = GatedStore()
    yield made
    made.gate.set()


@pytest_asyncio.fixture
async def cache(store: GatedStore) -> AsyncGenerator[AdapterCache, None]:
    made = AdapterCache(store, 2 * ADAPTER_BYTES, unet_factors)
    yield made
    made.close()


def stored(tmp_path: Path) -> tuple[Blobs, AdapterCache]:
    blobs = Blobs(f"file://{tmp_path}")
    return blobs, AdapterCache(blobs, 10_000_000, unet_factors)


async def hold(cache: AdapterCache, *adapter_ids: str) -> None:
    async with cache.holding(asked(*adapter_ids)):
        pass


async def waiting(cache: AdapterCache, store: GatedStore, *adapter_ids: str) -> asyncio.Task[None]:
    """A task that holds ``adapter_ids`` once the gate opens, and whose reading has begun."""
    task = asyncio.create_task(hold(cache, *adapter_ids))
    await asyncio.to_thread(store.reading.wait, 10)
    return task


async def test_it_returns_the_factors_of_the_networks_own_part(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    weights = small_adapter()
    sha256 = put(blobs, "adp_1", weights)
    for part in (unet_factors, text_encoder_factors):
        cache = AdapterCache(blobs, 10_000_000, part)
        async with cache.holding(asked("adp_1", sha256=sha256)) as held:
            (path,) = part(weights)
            for got, expected in zip(held["adp_1"][path], part(weights)[path], strict=True):
                assert got.equal(expected)
        cache.close()


async def test_requests_share_a_load_and_its_result(cache: AdapterCache, store: GatedStore) -> None:
    store.gate.clear()
    first, second = await waiting(cache, store, "a"), asyncio.create_task(hold(cache, "a"))
    store.gate.set()
    await asyncio.gather(first, second)
    async with cache.holding(asked("a")) as one, cache.holding(asked("a")) as other:
        assert one["a"] is other["a"]
    assert store.read_keys == [adapter_file("a")]
    assert cache.stats() == (3, 1, 0, 1, ADAPTER_BYTES)


async def test_a_request_without_adapters_asks_for_nothing(cache: AdapterCache, store: GatedStore) -> None:
    async with cache.holding([]) as held:
        assert held == {}
    assert not store.read_keys


@pytest.mark.parametrize("num_staying", [1, 0])
async def test_a_cancelled_request_does_not_end_the_load(
    cache: AdapterCache, store: GatedStore, num_staying: int
) -> None:
    store.gate.clear()
    leaving = await waiting(cache, store, "a")
    staying = [asyncio.create_task(hold(cache, "a")) for _ in range(num_staying)]
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    store.gate.set()
    await asyncio.gather(*staying)
    await hold(cache, "a")
    assert len(store.read_keys) == 1


async def test_what_is_held_stays_and_of_the_rest_the_oldest_goes(
    cache: AdapterCache, store: GatedStore
) -> None:
    async with cache.holding(asked("a", "b", "c")) as held:
        # In use they may be more than the bound.
        assert cache.stats().num_bytes == 3 * ADAPTER_BYTES
        async with cache.holding(asked("a")) as again:
            assert again["a"] is held["a"]
    # "a" was asked for last, so "b" has made way.
    assert cache.stats().num_bytes == 2 * ADAPTER_BYTES
    store.read_keys.clear()
    await hold(cache, "a", "c")
    assert store.read_keys == []
    await hold(cache, "b")
    assert store.read_keys == [adapter_file("b")]
    assert cache.stats().num_evictions == 2


async def test_an_adapter_that_is_gone_is_told_and_not_remembered(tmp_path: Path) -> None:
    blobs, cache = stored(tmp_path)
    for _ in range(2):
        with pytest.raises(NotFound, match="deleted") as caught:
            await hold(cache, "adp_1")
        assert caught.value.field == "adapters"
    put(blobs, "adp_1", small_adapter())
    await hold(cache, "adp_1")
    assert cache.stats().num_resident == 1
    cache.close()


@pytest.mark.parametrize("spoilt", [b"no adapter at all", FILES["b"]], ids=["another format", "another file"])
async def test_a_corrupt_file_is_told_and_not_remembered(tmp_path: Path, spoilt: bytes) -> None:
    blobs, cache = stored(tmp_path)
    sha256 = put(blobs, "adp_1", small_adapter())
    blobs.write(adapter_file("adp_1"), spoilt)
    with pytest.raises(BrokenAdapter) as caught:
        await cache.holding(asked("adp_1", sha256=sha256)).__aenter__()
    assert caught.value.field == "adapters"
    put(blobs, "adp_1", small_adapter())
    async with cache.holding(asked("adp_1", sha256=sha256)) as held:
        assert set(held) == {"adp_1"}
    cache.close()


async def test_a_file_of_another_format_without_a_hash_to_check(tmp_path: Path) -> None:
    blobs, cache = stored(tmp_path)
    blobs.write(adapter_file("adp_1"), b"no adapter at all")
    with pytest.raises(BrokenAdapter, match="cannot be used"):
        await hold(cache, "adp_1")
    cache.close()


async def test_a_store_that_fails_is_told_as_one_error_and_asked_again(
    cache: AdapterCache, store: GatedStore
) -> None:
    store.lost = ConnectionError("s3://secret-bucket is away")
    with pytest.raises(GenerationFailed) as caught:
        await hold(cache, "a")
    assert caught.value.retryable
    assert "secret" not in caught.value.message
    store.lost = None
    await hold(cache, "a")


async def test_a_load_that_does_not_end_is_given_up(
    cache: AdapterCache, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "_LOAD_TIMEOUT_S", 0.01)
    store.gate.clear()
    with pytest.raises(GenerationFailed):
        await hold(cache, "a")
    assert cache.resident == frozenset()


async def test_one_bad_adapter_fails_its_request_alone(cache: AdapterCache, store: GatedStore) -> None:
    with pytest.raises(GenerationFailed):
        await hold(cache, "a", "unknown")
    await hold(cache, "a")
    assert store.read_keys == [adapter_file("a"), adapter_file("unknown")]
    await hold(cache, "b", "c")
    assert cache.stats().num_bytes == 2 * ADAPTER_BYTES, "what failed beside it is not held"


async def test_a_forgotten_adapter_serves_those_who_hold_it(cache: AdapterCache, store: GatedStore) -> None:
    async with cache.holding(asked("a")) as held:
        cache.forget("a")
        assert cache.stats()[3:] == (0, ADAPTER_BYTES)
        assert set(held["a"]) == {"mid_block.attentions.0.proj_in"}
        store.lost = NotFound("gone")
        with pytest.raises(NotFound):
            await hold(cache, "a")
    assert cache.stats().num_bytes == 0


async def test_an_adapter_forgotten_while_it_loads_does_not_stay(
    cache: AdapterCache, store: GatedStore
) -> None:
    store.gate.clear()
    task = await waiting(cache, store, "a")
    cache.forget("a")
    cache.forget("never seen")
    store.gate.set()
    await task
    assert cache.stats()[3:] == (0, 0)
    await hold(cache, "a")
    assert len(store.read_keys) == 2


async def test_a_store_that_cannot_be_opened_hinders_only_those_who_need_it() -> None:
    cache = AdapterCache(BlobsAtNeed("nowhere://at.all"), 1_000, unet_factors)
    await hold(cache)
    with pytest.raises(GenerationFailed):
        await hold(cache, "a")
    cache.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.lists(st.sampled_from("abcdex"), min_size=1, max_size=3, unique=True)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("forget"), st.sampled_from("abcde")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, room=st.integers(0, 4))
def test_in_any_order_what_is_held_stays_and_the_rest_is_bounded(
    steps: list[tuple[str, object]], room: int
) -> None:
    asyncio.run(_walk(steps, room))


async def _walk(steps: list[tuple[str, object]], room: int) -> None:
    store: Reads = GatedStore()
    cache = AdapterCache(store, room * ADAPTER_BYTES, unet_factors)
    holders: list[tuple[AsyncExitStack, Mapping[str, object]]] = []
    # What each name last stood for, until it is forgotten.
    current: dict[str, object] = {}
    missing = object()
    for kind, value in steps:
        if kind == "hold":
            assert isinstance(value, list)
            stack = AsyncExitStack()
            try:
                held = await stack.enter_async_context(cache.holding(asked(*value)))
            except LimnerError:
                assert "x" in value
            else:
                for name in value:
                    if any(mine.get(name) is current.get(name, missing) for _, mine in holders):
                        assert held[name] is current[name]
                    current[name] = held[name]
                holders.append((stack, held))
        elif kind == "release" and holders:
            assert isinstance(value, int)
            await holders.pop(value % len(holders))[0].aclose()
        elif kind == "forget":
            assert isinstance(value, str)
            cache.forget(value)
            current.pop(value, None)
        in_use_bytes = ADAPTER_BYTES * len({id(each) for _, mine in holders for each in mine.values()})
        assert in_use_bytes <= cache.stats().num_bytes <= max(in_use_bytes, room * ADAPTER_BYTES)
    for stack, _ in holders:
        await stack.aclose()
    assert cache.stats().num_bytes == ADAPTER_BYTES * cache.stats().num_resident <= room * ADAPTER_BYTES
    cache.close()
