"""Between host and device without either waiting for the other. Knows tensors, not what they mean."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def place(
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """``tensor`` on ``device``; as it is where it is there already and nothing changes.

    A copy from ordinary host memory waits until the device has done all that it was given before. So this
    goes by way of pinned memory, and changes the type on the device.
    """
    dtype = dtype or tensor.dtype
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device, dtype, memory_format=memory_format)
    copied = tensor.pin_memory().to(device, non_blocking=True)
    return copied.to(dtype, memory_format=memory_format)


class Fetch:
    """A copy of ``tensor`` in host memory, which may still be under way. Not an inference tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        with torch.inference_mode(False), torch.no_grad():
            if tensor.is_cuda:
                self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._copy.copy_(tensor, non_blocking=True)
                self._done = torch.cuda.Event()
                self._done.record()
            else:
                self._copy = tensor.to("cpu", copy=True)

    def wait(self) -> Tensor:
        """The copy, once it is there. Raises what the device raised on the way."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy


class OwnStream:
    """A thread's own queue on a GPU, so that others' work does not stand in front of its own.

    What was given to the device before is done first. With ``urgent`` the device prefers it. Nothing on a
    CPU. ``with stream():`` as often as one likes, from one thread.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def __call__(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
