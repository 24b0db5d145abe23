from __future__ import annotations

import torch

from deployments.pipeline.embedding_cache import EmbeddingCache

ENTRY = torch.zeros(4)


def test_the_least_recently_used_goes_first() -> None:
    cache: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(2 * ENTRY.nbytes)
    cache.put("a", ENTRY)
    cache.put("b", ENTRY)
    assert cache.get("a") is ENTRY
    cache.put("c", ENTRY)
    assert cache.get("b") is None
    assert cache.get("a") is ENTRY
    assert cache.get("c") is ENTRY


def test_bytes_are_bounded_not_entries() -> None:
    cache: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(3 * ENTRY.nbytes)
    for key in "abc":
        cache.put(key, ENTRY)
    cache.put("long", torch.zeros(8))
    assert [cache.get(key) is not None for key in ("a", "b", "c", "long")] == [False, False, True, True]
    assert cache.num_bytes == 3 * ENTRY.nbytes


def test_an_entry_put_again_is_counted_once() -> None:
    cache: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(2 * ENTRY.nbytes)
    cache.put("a", ENTRY)
    cache.put("a", ENTRY)
    assert len(cache) == 1
    assert cache.num_bytes == ENTRY.nbytes


def test_an_entry_over_the_bound_is_not_kept() -> None:
    cache: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(0)
    cache.put("a", ENTRY)
    assert len(cache) == 0


def test_dropped_entries_free_their_bytes() -> None:
    cache: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(3 * ENTRY.nbytes)
    for key in ("a1", "b", "a2"):
        cache.put(key, ENTRY)
    cache.drop(lambda key: key.startswith("a"))
    assert (len(cache), cache.num_bytes) == (1, ENTRY.nbytes)
    assert cache.get("b") is not None
