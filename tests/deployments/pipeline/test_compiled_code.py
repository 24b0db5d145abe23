"""Compiled code in the store: one process compiles, the next one finds it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from deployments.pipeline.compiled_code import CompiledCode
from store.blobs import Blobs
from store.keys import compiled_file

# PyTorch's compiler uses what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

CPU = torch.device("cpu")
WEIGHT = torch.arange(12.0).reshape(3, 4)


class Unreachable:
    """A store that is down."""

    def read(self, key: str) -> bytes:
        raise OSError("no route")

    def write(self, key: str, data: bytes) -> None:
        raise OSError("no route")


@pytest.fixture
def new_process() -> Iterator[None]:
    """What a process starts with: nothing compiled, neither in memory nor on the disk."""
    with forgotten():
        yield


def forgotten() -> AbstractContextManager[None]:
    torch._dynamo.reset()
    counters.clear()
    torch.compiler._cache.CacheArtifactManager.clear()
    fresh: AbstractContextManager[None] = fresh_cache()
    return fresh


def computed() -> Tensor:
    def product(x: Tensor) -> Tensor:
        return x @ WEIGHT

    result: Tensor = torch.compile(product, fullgraph=True)(torch.ones(2, 3))
    return result


def code(blobs: Blobs | Unreachable, **options: str) -> CompiledCode:
    return CompiledCode(blobs, {"layers": 2}, CPU, options)


def test_what_one_compiled_the_next_one_takes_from_the_store(new_process: None, tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    assert not code(blobs).load()
    expected = computed()
    assert code(blobs).save()
    with forgotten():
        assert code(blobs).load()
        assert torch.equal(computed(), expected)
        assert counters["inductor"]["fxgraph_cache_hit"] == 1
        assert not code(blobs).save()


def test_other_options_are_another_file(new_process: None, tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    computed()
    assert code(blobs, mode="default").save()
    assert not code(blobs, mode="max-autotune").load()
    assert code(blobs, mode="default").load()


def test_a_store_that_is_down_stops_nobody(new_process: None) -> None:
    assert not code(Unreachable()).load()
    computed()
    assert not code(Unreachable()).save()


def test_a_torn_file_is_compiled_anew(new_process: None, tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    computed()
    code(blobs).save()
    (key,) = blobs.keys("compiled")
    blobs.write(key, blobs.read(key)[:100])
    assert not code(blobs).load()
    assert compiled_file(key.split("/")[1]) == key
