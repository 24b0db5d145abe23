from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from torch import Tensor

from deployments.engine.portable import PicklesArrays


@dataclass(frozen=True, eq=False)
class Parcel(PicklesArrays):
    tensor: Tensor
    others: Mapping[str, Tensor]
    words: str = ""


def test_arrays_travel_and_tensors_arrive() -> None:
    sent = Parcel(torch.rand(2, 3), {"other": torch.rand(4)}, "unchanged")
    message = pickle.dumps(sent)
    assert b"torch" not in message
    received = pickle.loads(message)
    assert torch.equal(received.tensor, sent.tensor)
    assert torch.equal(received.others["other"], sent.others["other"])
    assert received.words == "unchanged"


def test_a_part_of_a_tensor_travels_without_the_rest() -> None:
    whole = torch.rand(100, 100)
    message = pickle.dumps(Parcel(whole[:, 0], {}))
    assert len(message) < 2_000
    assert torch.equal(pickle.loads(message).tensor, whole[:, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.int64])
def test_other_tensors_keep_their_type(dtype: torch.dtype) -> None:
    received = pickle.loads(pickle.dumps(Parcel(torch.ones(3, dtype=dtype), {})))
    assert received.tensor.dtype == dtype


def test_what_arrives_is_as_frozen_as_it_was() -> None:
    received = pickle.loads(pickle.dumps(Parcel(torch.ones(1), {})))
    with pytest.raises(FrozenInstanceError):
        received.words = "changed"


def test_memory_that_is_shared_is_not_written_to() -> None:
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(Parcel(torch.ones(3), {}), protocol=5, buffer_callback=buffers.append)
    (shared,) = (bytes(buffer.raw()) for buffer in buffers)
    received = pickle.loads(message, buffers=[shared])
    received.tensor.zero_()
    assert pickle.loads(message, buffers=[shared]).tensor.tolist() == [1, 1, 1]
