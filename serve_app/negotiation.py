"""Which representation of an answer suits an ``Accept`` header (RFC 9110, section 12.5.1). Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import MalformedRequest, NotAcceptable

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_MAX_RANGES = 50


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that the client likes best; earlier ones win ties.

    Raises:
        NotAcceptable: if the header excludes all of them.
        MalformedRequest: if a quality is not a number from 0 to 1.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = _ranges(accept)
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(
            "No representation of the answer suits the Accept header.", field="Accept", limit=list(offered)
        )
    return best


def _ranges(accept: str) -> dict[str, float]:
    """Media ranges in lower case with their qualities. Parameters other than ``q`` do not matter here."""
    found: dict[str, float] = {}
    for part in accept.split(",")[:_MAX_RANGES]:
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if not media_range:
            continue
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _parse_quality(value.strip())
        found["*/*" if media_range == "*" else media_range] = quality
    return found


def _parse_quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        quality = -1.0
    if not 0 <= quality <= 1:
        raise MalformedRequest("A quality is a number from 0 to 1.", field="Accept", limit=[0, 1])
    return quality


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """The quality that the most specific matching range gives ``media_type``; 0 if none matches."""
    main = media_type.partition("/")[0]
    for media_range in (media_type, f"{main}/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
