"""Pictures inside requests: base64, ``data:`` URLs or the bytes of a form's part. Headers are checked here.

Knows nothing of pixels: replicas decode them.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.uploads import UploadFacts, inspect

_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)
_MAX_HEAD_CHARS = 200
# A multiple of four: each piece decodes alone.
_PIECE_CHARS = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Upload:
    """A picture file as the client sent it, and what its header says."""

    data: bytes
    facts: UploadFacts

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_read_upload)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return self.facts.width, self.facts.height


def _read_upload(value: Any, info: ValidationInfo) -> Upload:
    limits: RequestLimits = info.context or RequestLimits()
    if isinstance(value, str):
        # Four characters hold three bytes; line breaks and the URL's head may come on top.
        if len(value) > limits.max_upload_bytes * 1.4 + 1_000:
            raise _too_large(limits)
        value = _from_base64(value)
    if not isinstance(value, bytes):
        raise PydanticCustomError("upload", "A picture is text in base64, or a form's file part.")
    if len(value) > limits.max_upload_bytes:
        raise _too_large(limits)
    field = info.field_name or "image"
    try:
        return Upload(value, inspect(value, field=field, max_pixels=limits.max_upload_pixels))
    except InvalidRequest as error:
        message = error.message.replace("{", "(").replace("}", ")")
        raise PydanticCustomError("upload", message, {"limit": error.limit}) from error


def _from_base64(text: str) -> bytes:
    head = _DATA_URL.match(text, 0, _MAX_HEAD_CHARS)
    encoded = text[head.end() :] if head else text
    try:
        return _decoded("".join(encoded.split()))
    except ValueError as error:
        raise PydanticCustomError(
            "base64", "The text is neither base64 nor a data URL with base64. In forms, send a file part."
        ) from error


def _decoded(encoded: str) -> bytes:
    # In pieces, so that other threads get their turn between them.
    pieces = [encoded[start : start + _PIECE_CHARS] for start in range(0, len(encoded), _PIECE_CHARS)]
    if any("=" in piece for piece in pieces[:-1]):
        raise ValueError("padding before the end")
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def _too_large(limits: RequestLimits) -> PydanticCustomError:
    return PydanticCustomError(
        "upload", "A picture file may have {limit} bytes.", {"limit": limits.max_upload_bytes}
    )
