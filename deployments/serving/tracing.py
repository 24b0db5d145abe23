"""Spans of what replicas do: a pipeline with its stages, a Denoiser with waiting and steps. Knows events.

Stages are told afterwards, from the times that the events carry, so that nothing is recorded while steps run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from core.specs import GenerationSpec
from core.tracing import Span, Tracing
from core.types import Accepted, Completed, PipelineEvent

if TYPE_CHECKING:
    from deployments.engine.request import DenoiseEvent, DenoiseRequest
    from deployments.pipeline.denoising import Denoise

S = TypeVar("S", bound=GenerationSpec)
Generate = Callable[[S], AsyncGenerator[PipelineEvent, None]]


def pictures_traced(tracing: Tracing | None, name: str, generate: Generate[S]) -> Generate[S]:
    """``generate`` with a span ``name`` around each request that is traced; itself where nothing is."""
    if tracing is None:
        return generate
    return partial(_traced_pictures, tracing, name, generate)


def steps_traced(tracing: Tracing | None, denoise: Denoise) -> Denoise:
    """``denoise`` with a span around each request that is traced; itself where nothing is."""
    return denoise if tracing is None else partial(_traced_steps, tracing, denoise)


async def _traced_pictures(
    tracing: Tracing, name: str, generate: Generate[S], spec: S
) -> AsyncGenerator[PipelineEvent, None]:
    began = time.monotonic()
    with tracing.within(name, spec.traceparent) as span:
        told = spec if span is None else replace(spec, traceparent=span.traceparent)
        async with aclosing(generate(told)) as events:
            async for event in events:
                if span is not None:
                    _note_picture(span, event, began)
                yield event


async def _traced_steps(
    tracing: Tracing, denoise: Denoise, request: DenoiseRequest
) -> AsyncGenerator[DenoiseEvent, None]:
    with tracing.within("denoise", request.traceparent) as span:
        if span is not None:
            steps = request.num_inference_steps - request.first_step
            span.note(num_steps=steps, sampler=request.sampler.value, num_adapters=len(request.adapters))
        num_progressed = 0
        async with aclosing(denoise(request)) as events:
            async for event in events:
                if span is not None:
                    num_progressed = _note_step(span, event, num_progressed)
                yield event


def _note_picture(span: Span, event: PipelineEvent, began: float) -> None:
    match event:
        case Accepted(predicted_finish_s=predicted_s):
            span.event("accepted", predicted_finish_s=predicted_s)
        case Completed(pictures=pictures, timings=timings):
            encoded = began + timings.encode_s
            denoised = encoded + timings.denoise_s
            ended = denoised + timings.decode_s
            span.stage("encode prompt", began, encoded)
            span.stage("denoise all", encoded, denoised)
            span.stage("decode", denoised, ended - timings.file_s)
            span.stage("file", ended - timings.file_s, ended)
            span.note(num_pictures=len(pictures))
            # Who asked may close the stream before this generator is asked for more.
            span.end()


def _note_step(span: Span, event: DenoiseEvent, num_progressed: int) -> int:
    from deployments.engine import request as engine

    match event:
        case engine.Accepted():
            span.event("accepted")
        case engine.Progressed(step=step):
            if not num_progressed:
                span.event("first step told", step=step)
            return num_progressed + 1
        case engine.HandedBack():
            span.event("handed back")
            span.end()
        case engine.Failed(error=error):
            span.end(error.code)
        case engine.Done(queued_s=queued_s, denoise_s=denoise_s):
            now = time.monotonic()
            span.stage("wait", now - denoise_s - queued_s, now - denoise_s)
            span.stage("steps", now - denoise_s, now)
            span.end()
    return num_progressed
