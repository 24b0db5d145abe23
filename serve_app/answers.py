"""One answer in three representations: JSON, a picture file, an event stream. The same for every pipeline."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic

from starlette.requests import Request
from starlette.responses import Response

from core.errors import GenerationFailed, InvalidRequest, NotAcceptable
from core.types import Accepted, Completed, OutputFormat, PipelineEvent, Preview, Progress, Timings
from serve_app import problems
from serve_app.answer_schemas import DrawingResponse, GeneratedImage, StageTimings
from serve_app.disconnect import unless_disconnected
from serve_app.members import DrawingRequest
from serve_app.negotiation import EVENT_STREAM, JSON, preferred
from serve_app.pipelines import GenerationPipeline
from serve_app.resolve import Resolved, S
from serve_app.sse import EventStream, encode_event
from serve_app.traces import with_trace
from serve_app.traffic import Ending, ending_of

Events = AsyncGenerator[PipelineEvent, None]


@dataclass(frozen=True, slots=True)
class Representation:
    """The media type to answer with, and the picture format inside."""

    media_type: str
    output_format: OutputFormat


async def answer(
    request: Request,
    representation: Representation,
    resolved: Resolved[S],
    pipeline: GenerationPipeline[S],
    response_model: type[DrawingResponse],
) -> Response:
    """What ``pipeline`` makes of the request. Disconnecting cancels the work."""
    followed = representation.media_type == EVENT_STREAM
    spec = replace(resolved.spec, progress=followed)
    events = pipeline.generate(with_trace(request.scope, spec))
    telling = _Telling(resolved, response_model)
    if followed:
        return await _stream(request, telling, events)
    began = float(request.scope.get("limner.began", time.monotonic()))
    predicted_s, completed = await unless_disconnected(request, _completed(events, began))
    ending = ending_of(request.scope)
    ending.predicted_s, ending.completed = predicted_s, completed
    router_s = time.monotonic() - began - completed.timings.total_s
    headers = telling.headers | {"Server-Timing": server_timing(completed.timings, router_s, predicted_s)}
    if representation.media_type == JSON:
        return Response(telling.completed(completed).model_dump_json(), headers=headers, media_type=JSON)
    picture = completed.pictures[0]
    name = f"{resolved.spec.request_id}.{representation.output_format}"
    headers |= {"Limner-Seed": str(picture.seed), "Content-Disposition": f'inline; filename="{name}"'}
    return Response(picture.image, headers=headers, media_type=picture.media_type)


def choose_representation(body: DrawingRequest, accept: str | None) -> Representation:
    """What suits both the request and its ``Accept`` header.

    Raises:
        NotAcceptable: if the header excludes everything that the request can have.
        InvalidRequest: if it would have allowed a picture file, were there one picture only; or for
            previews without a stream.
    """
    chosen = _chosen(body, accept)
    if body.preview_every and chosen.media_type != EVENT_STREAM:
        raise InvalidRequest("Previews need a stream.", field="preview_every", limit=0)
    return chosen


def _chosen(body: DrawingRequest, accept: str | None) -> Representation:
    wanted = body.output_format or OutputFormat.PNG
    if body.stream:
        return Representation(EVENT_STREAM, wanted)
    formats = [body.output_format] if body.output_format else list(OutputFormat)
    files = {file_format.media_type: file_format for file_format in formats}
    offered = [JSON, *(files if body.n == 1 else ()), EVENT_STREAM]
    try:
        chosen = preferred(accept, offered)
    except NotAcceptable:
        if body.n > 1:
            preferred(accept, list(files))
            raise InvalidRequest(
                "A picture file holds one picture; ask for JSON to get several.", field="n", limit=1
            ) from None
        raise
    return Representation(chosen, files.get(chosen, wanted))


def server_timing(timings: Timings, router_s: float, predicted_s: float) -> str:
    """The ``Server-Timing`` header, in milliseconds.

    ``router_s`` is what came on top of the pipeline's total, ``predicted_s`` the whole as it was foretold
    when the request was accepted.
    """
    stages = {name.removesuffix("_s"): seconds for name, seconds in asdict(timings).items()}
    stages |= {"router": router_s, "predicted": predicted_s}
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in stages.items())


async def _completed(events: Events, began: float) -> tuple[float, Completed]:
    """The last event of a request whose other events nobody wants, and how long it was foretold to take
    from ``began``, a ``time.monotonic``."""
    predicted_s = 0.0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Accepted):
                predicted_s = time.monotonic() - began + event.predicted_finish_s
            if isinstance(event, Completed):
                return predicted_s, event
    raise _no_result()


class _Telling(Generic[S]):
    """The words of an answer."""

    def __init__(self, resolved: Resolved[S], response_model: type[DrawingResponse]) -> None:
        self._spec = resolved.spec
        self._parameters = resolved.parameters
        self._response_model = response_model

    @property
    def headers(self) -> dict[str, str]:
        return {"Limner-Request-Id": self._spec.request_id, "Cache-Control": "no-store", "Vary": "Accept"}

    def accepted(self, event: Accepted) -> dict[str, Any]:
        return {
            "id": self._spec.request_id,
            "predicted_finish_s": event.predicted_finish_s,
            "seed": self._spec.seed,
            "parameters": self._parameters.model_dump(mode="json"),
        }

    def completed(self, event: Completed) -> DrawingResponse:
        return self._response_model(
            id=self._spec.request_id,
            created=int(time.time()),
            model=self._parameters.model,
            prompt=self._spec.prompt,
            negative_prompt=self._spec.negative_prompt,
            images=[
                GeneratedImage(
                    index=picture.index,
                    seed=picture.seed,
                    media_type=picture.media_type,
                    width=picture.width,
                    height=picture.height,
                    b64_json=to_base64(picture.image),
                )
                for picture in event.pictures
            ],
            parameters=self._parameters,
            timings=StageTimings(**asdict(event.timings)),
        )


async def _stream(request: Request, telling: _Telling[S], events: Events) -> EventStream:
    """The answer as a stream, once the pipeline has accepted the request; errors before that are raised."""
    try:
        accepted = await unless_disconnected(request, _accepted(events))
    except BaseException:
        await events.aclose()
        raise
    ending = ending_of(request.scope)
    began = float(request.scope.get("limner.began", time.monotonic()))
    ending.predicted_s = time.monotonic() - began + accepted.predicted_finish_s
    encoded = _encoded(accepted, events, telling, problems.request_id_of(request), ending)
    return EventStream(encoded, events, telling.headers)


async def _accepted(events: Events) -> Accepted:
    async for event in events:
        if isinstance(event, Accepted):
            return event
    raise _no_result()


async def _encoded(
    accepted: Accepted, events: Events, telling: _Telling[S], request_id: str, ending: Ending
) -> AsyncGenerator[bytes, None]:
    """The events in wire format, ending in exactly one ``completed`` or ``error``."""
    yield encode_event("accepted", telling.accepted(accepted))
    try:
        async for event in events:
            if isinstance(event, Completed):
                last = encode_event("completed", telling.completed(event).model_dump(mode="json"))
                ending.completed = event
                break
            if isinstance(event, Progress):
                yield encode_event("progress", asdict(event))
            elif isinstance(event, Preview):
                yield encode_event("preview", _preview(event))
        else:
            raise _no_result()
    except Exception as error:
        # The status line is out already: here the stream's last event is what a 500 is elsewhere.
        known = problems.known_error(error, request_id)
        ending.problem(known.status, known.code)
        last = encode_event("error", problems.problem(known, request_id))
    yield last


def _no_result() -> GenerationFailed:
    return GenerationFailed("The pipeline ended without a result.")


def _preview(event: Preview) -> dict[str, Any]:
    return {
        "index": event.index,
        "step": event.step,
        "media_type": OutputFormat.PNG.media_type,
        "b64_json": to_base64(event.image),
    }


def to_base64(content: bytes) -> str:
    """``content`` as JSON can hold it."""
    return base64.b64encode(content).decode("ascii")
