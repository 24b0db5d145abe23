"""The one error family of Limner.

An error knows its HTTP status, a stable code, and whether trying again may help. It does not know
HTTP itself: ``serve_app.problems`` renders it. Errors survive pickling between Ray processes.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LimnerError(Exception):
    """Anything Limner refuses or fails to do, in words a client can act on.

    ``field`` names the offending request member and ``limit`` what it has to keep to.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: Any = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.message, self.field, self.limit, self.retry_after_s)


def _restore(
    kind: type[LimnerError], message: str, field: str | None, limit: Any, retry_after_s: float | None
) -> LimnerError:
    return kind(message, field=field, limit=limit, retry_after_s=retry_after_s)


class MalformedRequest(LimnerError):
    """The body or a header cannot be read at all: its syntax is wrong."""

    status, code, title = 400, "malformed_request", "Malformed request"


class InvalidRequest(LimnerError):
    """The request was read, but a member of it has a value that can never succeed."""

    status, code, title = 422, "invalid_request", "Invalid request"


class PayloadTooLarge(LimnerError):
    """The body is over the limit."""

    status, code, title = 413, "payload_too_large", "Request body too large"


class UnsupportedMediaType(LimnerError):
    """The body is not of a type that this route reads."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class NotAcceptable(LimnerError):
    """No representation of the answer suits the ``Accept`` header."""

    status, code, title = 406, "not_acceptable", "Not acceptable"


class NotFound(LimnerError):
    """There is no such thing, or it is not the caller's."""

    status, code, title = 404, "not_found", "Not found"


class QueueFull(LimnerError):
    """Too much is waiting; come back after ``retry_after_s``."""

    status, code, title, retryable = 503, "queue_full", "Queue full", True


class NotReady(LimnerError):
    """The models are still loading."""

    status, code, title, retryable = 503, "not_ready", "Not ready", True


class DeadlineUnmeetable(LimnerError):
    """The predicted finish lies after the request's deadline."""

    status, code, title, retryable = 503, "deadline_unmeetable", "Deadline cannot be met", True


class DeadlineExceeded(LimnerError):
    """The request's deadline passed before it was done."""

    status, code, title, retryable = 504, "deadline_exceeded", "Deadline exceeded", True


class ShuttingDown(LimnerError):
    """The replica is going away; another one will take the request."""

    status, code, title, retryable = 503, "shutting_down", "Shutting down", True


class GenerationFailed(LimnerError):
    """The model produced nothing usable (NaN latents, a fault on the device)."""

    status, code, title, retryable = 500, "generation_failed", "Generation failed", True


class RequestCancelled(LimnerError):
    """The request was cancelled. Status 499 as nginx uses it: nobody is left to read it."""

    status, code, title = 499, "cancelled", "Request cancelled"


class MissingPart(LimnerError):
    """The deployed model has not got what the request needs; ``limit`` names what it has."""

    status, code, title = 409, "missing_part", "The model lacks a part"


class ModerationBlocked(LimnerError):
    """The prompt or the picture is not allowed."""

    status, code, title = 400, "moderation_blocked", "Blocked by moderation"


class Conflict(LimnerError):
    """It cannot be done while something else of the caller's is under way."""

    status, code, title = 409, "conflict", "Conflict"


class InsufficientStorage(LimnerError):
    """The store has no room left. What was written of the request is gone again."""

    status, code, title, retryable = 507, "insufficient_storage", "Insufficient storage", True


class BrokenAdapter(LimnerError):
    """An adapter's file is not what was stored, or cannot be read as one."""

    code, title = "broken_adapter", "Adapter file corrupt"


class UploadTooSlow(LimnerError):
    """The body did not arrive within the time that a request may take to send it."""

    status, code, title, retryable = 408, "upload_too_slow", "Upload too slow", True


class LeaseLost(LimnerError):
    """The job is another process's by now, or over: whoever still works on it has to stop."""

    status, code, title = 409, "lease_lost", "Lease lost"
