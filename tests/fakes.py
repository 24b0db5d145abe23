"""Fakes for tests: small real things that behave, not mocks that record."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from core.specs import Face, FoundMask, MaskSpec, Verdict
from core.uploads import open_picture
from deployments.engine.request import DenoiseEvent, DenoiseRequest


class VirtualClock:
    """A clock that moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TinyUNet(nn.Module):
    """A UNet of ten lines: its output depends on sample, timestep and context of its own row alone.

    A context that holds 13.0 in its first place raises, and one that holds 666.0 gives NaN.
    Every call moves ``clock``, if there is one, by ``row_s`` per row.
    """

    def __init__(self, context_dim: int = 8, clock: VirtualClock | None = None, row_s: float = 0.01) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            in_channels=4, out_channels=4, sample_size=8, cross_attention_dim=context_dim
        )
        self.clock, self.row_s = clock, row_s
        self.rows_seen: list[int] = []

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: object
    ) -> tuple[Tensor]:
        self.rows_seen.append(len(sample))
        if self.clock is not None:
            self.clock.advance(self.row_s * len(sample))
        marks = encoder_hidden_states[:, 0, 0]
        if bool((marks == 13.0).any()):
            raise RuntimeError("the model does not like this picture")
        tone = encoder_hidden_states.mean((1, 2)) + torch.where(marks == 666.0, torch.nan, 0.0)
        scale = 0.5 + timestep.to(sample) / 2_000
        return ((sample * scale[:, None, None, None]).tanh() + tone[:, None, None, None],)


class ScriptedDenoiser:
    """Plays one script per request: yields its events, raises its errors, waits for ever at a None."""

    def __init__(self, *scripts: Sequence[DenoiseEvent | Exception | None]) -> None:
        self._scripts = list(scripts)
        self.requests: list[DenoiseRequest] = []
        self.num_closed = 0

    async def __call__(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        self.requests.append(request)
        try:
            for entry in self._scripts[len(self.requests) - 1]:
                if entry is None:
                    await asyncio.get_running_loop().create_future()
                elif isinstance(entry, Exception):
                    raise entry
                else:
                    yield entry
        finally:
            self.num_closed += 1


class FakeDenoiserHandle:
    """A Serve handle whose ``denoise`` streams plays scripts, and counts the streams cancelled."""

    def __init__(self, *scripts: Sequence[DenoiseEvent | Exception | None]) -> None:
        self.scripted = ScriptedDenoiser(*scripts)
        self.num_cancelled = 0
        self.routing_ids: list[str] = []

    def options(self, *, stream: bool, multiplexed_model_id: str) -> FakeDenoiserHandle:
        assert stream
        self.routing_ids.append(multiplexed_model_id)
        return self

    @property
    def denoise(self) -> FakeDenoiserHandle:
        return self

    def remote(self, request: DenoiseRequest) -> FakeDenoiserStream:
        return FakeDenoiserStream(self, self.scripted(request))


class FakeDenoiserStream:
    """What a handle's streaming call returns."""

    def __init__(self, handle: FakeDenoiserHandle, events: AsyncGenerator[DenoiseEvent, None]) -> None:
        self._handle = handle
        self._events = events

    def __aiter__(self) -> AsyncGenerator[DenoiseEvent, None]:
        return self._events

    def cancel(self) -> None:
        self._handle.num_cancelled += 1


class FakePerception:
    """Perception with answers given beforehand; ``asked`` holds the methods that were called, in order.

    ``masks`` are by words, and words without one match nothing. A question without ``answers`` has phrases
    that are all as likely. ``faces`` and ``blocked`` hold for every picture.
    """

    def __init__(
        self,
        *,
        masks: Mapping[str, FoundMask] | None = None,
        answers: Mapping[str, dict[str, float]] | None = None,
        faces: Sequence[Face] = (),
        blocked: bool = False,
    ) -> None:
        self._masks = masks or {}
        self._answers = answers or {}
        self._faces = tuple(faces)
        self._blocked = blocked
        self.asked: list[str] = []

    async def mask(self, spec: MaskSpec) -> FoundMask:
        self.asked.append("mask")
        found = self._masks.get(spec.words)
        if found is not None:
            return found
        width, height = open_picture(spec.image).size
        file = io.BytesIO()
        Image.new("L", (width, height)).save(file, "PNG")
        return FoundMask(mask=file.getvalue(), coverage=0.0, width=width, height=height)

    async def describe(
        self, image: bytes, questions: Mapping[str, tuple[str, ...]]
    ) -> dict[str, dict[str, float]]:
        self.asked.append("describe")
        return {
            question: self._answers.get(question, dict.fromkeys(phrases, 1 / len(phrases)))
            for question, phrases in questions.items()
        }

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        self.asked.append("faces")
        return self._faces

    async def moderate(self, pictures: tuple[bytes, ...]) -> tuple[Verdict, ...]:
        self.asked.append("moderate")
        return tuple(Verdict(blocked=self._blocked) for _ in pictures)


class FakePerceptionHandle:
    """A Serve handle of Perception: every method has a ``remote``."""

    def __init__(self, perception: FakePerception) -> None:
        self._perception = perception

    def __getattr__(self, method: str) -> FakeRemote:
        return FakeRemote(getattr(self._perception, method))


class FakeRemote:
    """A method of a handle; ``called`` may be any function that returns an awaitable."""

    def __init__(self, called: Callable[..., Awaitable[Any]]) -> None:
        self._called = called

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        return self._called(*arguments)
