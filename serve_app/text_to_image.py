"""``POST /v1/text-to-image``: one request, three representations (JSON, a picture file, an event stream)."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from core.errors import GenerationFailed, InvalidRequest, NotAcceptable
from core.settings import RequestLimits
from core.types import (
    Accepted,
    Completed,
    ModelInfo,
    OutputFormat,
    PipelineEvent,
    Preview,
    Progress,
    Timings,
)
from serve_app import problems
from serve_app.body_limit import require_json
from serve_app.disconnect import unless_disconnected
from serve_app.examples import REQUESTS, RESPONSES
from serve_app.negotiation import EVENT_STREAM, JSON, preferred
from serve_app.pipelines import Pipelines
from serve_app.resolve import Resolved, resolve
from serve_app.schemas import (
    GeneratedImage,
    StageTimings,
    TextToImageRequest,
    TextToImageResponse,
)
from serve_app.sse import EventStream, encode_event
from serve_app.styles import Style

Events = AsyncGenerator[PipelineEvent, None]


def build_router(
    pipelines: Pipelines, models: Sequence[ModelInfo], styles: Sequence[Style], limits: RequestLimits
) -> APIRouter:
    """The route, over the pipelines of ``models``."""
    router = APIRouter(tags=["generate"])

    @router.post(
        "/v1/text-to-image",
        operation_id="text_to_image",
        summary="Draw pictures from a prompt",
        dependencies=[Depends(require_json)],
        response_model=TextToImageResponse,
        responses=RESPONSES,
    )
    async def text_to_image(
        request: Request, body: Annotated[TextToImageRequest, Body(openapi_examples=REQUESTS)]
    ) -> Response:
        """Disconnecting cancels the work. The same seed and settings draw the same picture.

        * `Accept: application/json` (or none): the pictures in base64, with everything that made them.
        * `Accept: image/png`, `image/jpeg`, `image/webp` or `image/*`: the picture file itself, for `n` 1.
        * `"stream": true` or `Accept: text/event-stream`: the events `accepted`, `progress`, `preview`, and
          at the end either `completed` (the JSON answer) or `error` (a problem). What is refused before the
          first event is an ordinary HTTP error.
        """
        media_type, output_format = choose_representation(body, request.headers.get("accept"))
        if body.preview_every and media_type != EVENT_STREAM:
            raise InvalidRequest("Previews need a stream.", field="preview_every", limit=0)
        resolved = resolve(body, models, styles, limits, output_format)
        events = pipelines.text_to_image(resolved.parameters.model).generate(resolved.spec)
        if media_type == EVENT_STREAM:
            return await _stream(request, resolved, events)
        completed = await unless_disconnected(request, _completed(events))
        headers = _headers(resolved) | {"Server-Timing": server_timing(completed.timings)}
        if media_type == JSON:
            answer = _answer(resolved, completed)
            return Response(answer.model_dump_json(), headers=headers, media_type=JSON)
        picture = completed.pictures[0]
        headers |= {
            "Limner-Seed": str(picture.seed),
            "Content-Disposition": f'inline; filename="{resolved.spec.request_id}.{output_format}"',
        }
        return Response(picture.image, headers=headers, media_type=picture.media_type)

    return router


def choose_representation(body: TextToImageRequest, accept: str | None) -> tuple[str, OutputFormat]:
    """The media type to answer with, and the picture format inside.

    Raises:
        NotAcceptable: if the ``Accept`` header excludes everything that the request can have.
        InvalidRequest: if it would have allowed a picture file, were there one picture only.
    """
    wanted = body.output_format or OutputFormat.PNG
    if body.stream:
        return EVENT_STREAM, wanted
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
    return chosen, files.get(chosen, wanted)


def server_timing(timings: Timings) -> str:
    """The ``Server-Timing`` header, in milliseconds."""
    stages = {name.removesuffix("_s"): seconds for name, seconds in asdict(timings).items()}
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in stages.items())


async def _completed(events: Events) -> Completed:
    """The last event of a request whose other events nobody wants."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Completed):
                return event
    raise _no_result()


async def _stream(request: Request, resolved: Resolved, events: Events) -> EventStream:
    """The answer as a stream, once the pipeline has accepted the request; errors before that are raised."""
    try:
        accepted = await unless_disconnected(request, _accepted(events))
    except BaseException:
        await events.aclose()
        raise
    encoded = _encoded(accepted, events, resolved, problems.request_id_of(request))
    return EventStream(encoded, events, _headers(resolved))


async def _accepted(events: Events) -> Accepted:
    async for event in events:
        if isinstance(event, Accepted):
            return event
    raise _no_result()


async def _encoded(
    accepted: Accepted, events: Events, resolved: Resolved, request_id: str
) -> AsyncGenerator[bytes, None]:
    """The events in wire format, ending in exactly one ``completed`` or ``error``."""
    yield encode_event(
        "accepted",
        {
            "id": resolved.spec.request_id,
            "predicted_finish_s": accepted.predicted_finish_s,
            "seed": resolved.spec.seed,
            "parameters": resolved.parameters.model_dump(mode="json"),
        },
    )
    try:
        async for event in events:
            if isinstance(event, Completed):
                last = encode_event("completed", _answer(resolved, event).model_dump(mode="json"))
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
        last = encode_event("error", problems.problem(known, request_id))
    yield last


def _no_result() -> GenerationFailed:
    return GenerationFailed("The pipeline ended without a result.")


def _preview(event: Preview) -> dict[str, Any]:
    return {
        "index": event.index,
        "step": event.step,
        "media_type": OutputFormat.PNG.media_type,
        "b64_json": _base64(event.image),
    }


def _answer(resolved: Resolved, completed: Completed) -> TextToImageResponse:
    return TextToImageResponse(
        id=resolved.spec.request_id,
        created=int(time.time()),
        model=resolved.parameters.model,
        prompt=resolved.spec.prompt,
        negative_prompt=resolved.spec.negative_prompt,
        images=[
            GeneratedImage(
                index=picture.index,
                seed=picture.seed,
                media_type=picture.media_type,
                b64_json=_base64(picture.image),
            )
            for picture in completed.pictures
        ],
        parameters=resolved.parameters,
        timings=StageTimings(**asdict(completed.timings)),
    )


def _headers(resolved: Resolved) -> dict[str, str]:
    return {"Limner-Request-Id": resolved.spec.request_id, "Cache-Control": "no-store", "Vary": "Accept"}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
