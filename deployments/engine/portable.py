"""Dataclasses of tensors on their way between processes. Knows pickling; nothing of what the tensors are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch


class PicklesArrays:
    """Pickles its float32 tensors as NumPy arrays, and those in mappings: its fields hold no other arrays.

    A tensor goes through its storage. That of a request costs 1.1 ms more than an array, half at each end,
    in processes that do it once in a while: most of it is code and memory that are not in the caches.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {name: _converted(value, _packed) for name, value in vars(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # Written past ``__setattr__``: the dataclasses are frozen.
        vars(self).update({name: _converted(value, _unpacked) for name, value in state.items()})


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: convert(member) for name, member in value.items()}
    return convert(value)


def _packed(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype is torch.float32 and value.is_cpu:
        return value.numpy()
    return value


def _unpacked(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # Memory that processes share is read-only, which a tensor cannot be.
    return torch.from_numpy(value if value.flags.writeable else value.copy())
