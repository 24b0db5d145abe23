"""``multipart/form-data`` as the members that JSON would have had. Knows no route.

Numbers and booleans come as text, lists as repeated fields, objects as JSON text, pictures as files. What
text does not say is left as it is, so that validation names the member as it would in JSON.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from core.errors import InvalidRequest, MalformedRequest
from core.settings import RequestLimits
from serve_app.members import MAX_MEMBERS

MAX_FILES = 8
_WHOLE = re.compile(r"[+-]?\d{1,40}")
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?")
Part = str | bytes


class _InMemoryParser(MultiPartParser):
    """Members' photos stay in memory: the body's limit bounds them, and disks keep what is deleted."""

    spool_max_size = 1 << 30


async def read_parts(request: Request, limits: RequestLimits) -> list[tuple[str, Part]]:
    """The parts of a form by name: the bytes of files, whatever type they claim, and the text of fields.

    Raises:
        MalformedRequest: if the body is no form, or has too many parts.
    """
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=MAX_FILES,
        max_fields=MAX_MEMBERS,
        max_part_size=limits.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The body cannot be read as a form. {error.message}", field="body") from error
    try:
        return [
            (name, await part.read() if isinstance(part, UploadFile) else part)
            for name, part in form.multi_items()
            # What browsers send for a file that was not chosen.
            if not (isinstance(part, UploadFile) and not part.filename and not part.size)
        ]
    finally:
        await form.close()


def members_of(parts: list[tuple[str, Part]], model: type[BaseModel]) -> dict[str, Any]:
    """The members of a ``model``, for it to validate.

    Raises:
        InvalidRequest: for a member that is sent twice and is no list.
    """
    by_name: dict[str, list[Part]] = defaultdict(list)
    for name, part in parts:
        by_name[name].append(part)
    members: dict[str, Any] = {}
    for name, values in by_name.items():
        kinds = _kinds(model.model_fields[name].annotation) if name in model.model_fields else {str}
        if list in kinds:
            members[name] = values
        elif len(values) > 1:
            raise InvalidRequest("The field was sent more than once.", field=name[:100], limit=1)
        elif values[0] != "" or str in kinds:
            # Clients send an empty text for a member that is not set.
            members[name] = _typed(values[0], kinds)
    return members


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*(_kinds(choice) for choice in get_args(annotation)))
    return {origin or annotation}


def _typed(part: Part, kinds: set[Any]) -> Any:
    if isinstance(part, bytes) or str in kinds:
        return part
    if bool in kinds and part.lower() in ("true", "false"):
        return part.lower() == "true"
    if int in kinds and _WHOLE.fullmatch(part):
        return int(part)
    if float in kinds and _NUMBER.fullmatch(part):
        return float(part)
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        try:
            return json.loads(part)
        except (ValueError, RecursionError):
            return part
    return part
