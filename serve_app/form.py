"""``multipart/form-data`` as the members that JSON would have had. Knows no route.

Numbers and booleans come as text, lists as repeated fields, objects and lists of objects as JSON text,
pictures as files. What text does not say is left as it is, so that validation names the member as it would
in JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from core.errors import InvalidRequest, MalformedRequest
from core.settings import RequestLimits
from serve_app.members import MAX_MEMBERS

_WHOLE = re.compile(r"[+-]?\d{1,40}")
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?")
Part = str | bytes


@dataclass(frozen=True, slots=True)
class FormLimits:
    """How many files a form may hold, and how large each may be, None for as large as the body.

    Both are checked while the form arrives; what is beyond them is not read.
    """

    max_files: int = 8
    max_file_bytes: int | None = None


class _InMemoryParser(MultiPartParser):
    """Members' photos stay in memory: the body's limit bounds them, and disks keep what is deleted."""

    spool_max_size = 1 << 30

    def __init__(self, request: Request, form_limits: FormLimits, max_part_size: int) -> None:
        super().__init__(
            request.headers, request.stream(), max_fields=MAX_MEMBERS, max_part_size=max_part_size
        )
        self._form_limits = form_limits
        self._num_files: Counter[str] = Counter()
        self._file_bytes = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is not None:
            name, most = self._current_part.field_name[:100], self._form_limits.max_files
            self._num_files[name] += 1
            self._file_bytes = 0
            if self._num_files.total() > most:
                raise InvalidRequest(f"At most {most} files.", field=name, limit=most)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        most = self._form_limits.max_file_bytes
        if self._current_part.file is not None and most is not None:
            self._file_bytes += end - start
            if self._file_bytes > most:
                name = self._current_part.field_name[:100]
                field = name if self._form_limits.max_files == 1 else f"{name}.{self._num_files[name] - 1}"
                raise InvalidRequest(f"A file may have {most} bytes.", field=field, limit=most)


async def read_parts(
    request: Request, limits: RequestLimits, form_limits: FormLimits = FormLimits()
) -> list[tuple[str, Part]]:
    """The parts of a form by name: the bytes of files, whatever type they claim, and the text of fields.

    Raises:
        MalformedRequest: if the body is no form, or has too many fields.
        InvalidRequest: for more or larger files than ``form_limits``.
    """
    parser = _InMemoryParser(request, form_limits, limits.max_body_bytes)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The body cannot be read as a form. {error.message}", field="body") from error
    parts: list[tuple[str, Part]] = []
    try:
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                parts.append((name, part))
            # What browsers send for a file that was not chosen has neither.
            elif part.filename or part.size:
                parts.append((name, await part.read()))
                # At once: two copies of all of them would be too many.
                await part.close()
    finally:
        await form.close()
    return parts


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
        if list in kinds and not _holds_objects(model.model_fields[name].annotation):
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


def _holds_objects(annotation: Any) -> bool:
    """Whether it is a list of objects, which one field holds as JSON text."""
    return any(isinstance(item, type) and issubclass(item, BaseModel) for item in get_args(annotation))


def _typed(part: Part, kinds: set[Any]) -> Any:
    if isinstance(part, bytes) or str in kinds:
        return part
    if bool in kinds and part.lower() in ("true", "false"):
        return part.lower() == "true"
    if int in kinds and _WHOLE.fullmatch(part):
        return int(part)
    if float in kinds and _NUMBER.fullmatch(part):
        return float(part)
    if list in kinds or any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        try:
            return json.loads(part)
        except (ValueError, RecursionError):
            return part
    return part
