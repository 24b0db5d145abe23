"""What is kept of an adapter as files: the adapter itself, and the pictures drawn while it was trained."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from core.errors import NotFound
from core.training import Adapter, AdapterFormat
from serve_app.adapter_examples import FILE_RESPONSES, SAMPLE_RESPONSES
from serve_app.adapter_schemas import ADAPTERS
from serve_app.caller import Caller
from serve_app.records import Records, Store, is_id, no_adapter
from serve_app.trainer import Trainer
from store import keys

SAFETENSORS = "application/octet-stream"
_MAX_NAME_CHARS = 60
# Asked about every time, since a shared cache or a deleted adapter must give nothing away.
_CACHING = "private, no-cache"


async def _adapter_id(adapter_id: Annotated[str, Path(description="An id from `GET /v1/adapters`.")]) -> str:
    if not is_id(adapter_id):
        raise no_adapter()
    return adapter_id


AdapterId = Annotated[str, Depends(_adapter_id)]


def build_router(trainer: Trainer, records: Records) -> APIRouter:
    """The routes; ``trainer`` writes an adapter in other layouts than the one it is kept in."""
    router = APIRouter(tags=["adapters"])

    @router.get(
        ADAPTERS + "/{adapter_id}/file",
        operation_id="get_adapter_file",
        summary="Download an adapter",
        response_class=Response,
        responses=FILE_RESPONSES,
    )
    async def get_adapter_file(
        request: Request, adapter_id: AdapterId, caller: Caller, format: AdapterFormat = AdapterFormat.PEFT
    ) -> Response:
        """A safetensors file, for PEFT and diffusers or for the tools that read kohya's layout."""
        adapter = await records.adapter(adapter_id, caller)
        etag = _etag(adapter, format)
        headers = {"ETag": etag, "Cache-Control": _CACHING}
        if _matches(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        if format is AdapterFormat.PEFT:
            content = await records.ask(lambda store: store.blobs.read(keys.adapter_file(adapter_id)))
        else:
            content = await trainer.export(adapter, format)
        headers["Content-Disposition"] = f'attachment; filename="{_file_name(adapter, format)}"'
        return Response(content, headers=headers, media_type=SAFETENSORS)

    @router.get(
        ADAPTERS + "/{adapter_id}/samples/{number}",
        operation_id="get_adapter_sample",
        summary="Look at a sample picture",
        response_class=Response,
        responses=SAMPLE_RESPONSES,
    )
    async def get_adapter_sample(
        adapter_id: AdapterId, number: Annotated[int, Path(ge=0, le=999_999)], caller: Caller
    ) -> Response:
        """As soon as it has been drawn, while the training still goes on."""
        picture = await records.ask(lambda store: _sample(store, adapter_id, number, caller))
        return Response(picture, headers={"Cache-Control": _CACHING}, media_type="image/png")

    return router


def _sample(store: Store, adapter_id: str, number: int, user_id: str) -> bytes:
    try:
        try:
            store.jobs.find_by_adapter(adapter_id, user_id)
        except NotFound:
            store.adapters.get(adapter_id, user_id)
        return store.blobs.read(keys.sample(adapter_id, number))
    except NotFound:
        raise NotFound("There is no such picture.") from None


def _etag(adapter: Adapter, layout: AdapterFormat) -> str:
    suffix = "" if layout is AdapterFormat.PEFT else f"-{layout}"
    return f'"{adapter.sha256}{suffix}"'


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, section 13.1.2."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def _file_name(adapter: Adapter, layout: AdapterFormat) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", adapter.name).strip("-").lower()[:_MAX_NAME_CHARS]
    suffix = "" if layout is AdapterFormat.PEFT else f"-{layout}"
    return f"{name or adapter.adapter_id}{suffix}.safetensors"
