"""How requests end: what the Router counts of them. Knows paths, outcomes and seconds; no member, no prompt.

A request's ``Ending`` lies in its ASGI scope and is filled in where things are known; the outermost
middleware counts it once the last byte is sent or the client has gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from core.errors import InsufficientStorage, ModerationBlocked, RequestCancelled
from core.figures import Figure, Figures, Kind
from core.types import Completed

# Everything else (the catalogue, jobs, probes) is in Ray Serve's own metrics.
PIPELINES = {
    "/v1/text-to-image": "text_to_image",
    "/v1/image-to-image": "image_to_image",
    "/v1/inpaint": "inpaint",
    "/v1/gender-swap": "gender_swap",
    "/v1/upscale": "upscale",
    "/v1/mask": "mask",
    "/v1/adapters": "training",
}
COMPLETED, REFUSED, FAILED, INVALID, BLOCKED, CANCELLED = OUTCOMES = (
    "completed",
    "refused",
    "failed",
    "invalid",
    "blocked",
    "cancelled",
)

REQUESTS = Figure(
    "limner_requests",
    Kind.COUNTER,
    "Requests that ended: completed, refused (no room now), failed (ours), invalid (theirs), blocked "
    "(moderation), cancelled (hung up).",
    ("pipeline", "outcome"),
)
PROBLEMS = Figure(
    "limner_problems", Kind.COUNTER, "Requests answered by a problem, by its code.", ("pipeline", "code")
)
PICTURES = Figure("limner_pictures", Kind.COUNTER, "Pictures delivered.", ("pipeline",))
STAGES = Figure(
    "limner_stage_s",
    Kind.COUNTER,
    "Seconds of completed requests: encode, denoise, decode (files included), file, and router around them.",
    ("pipeline", "stage"),
)
REQUEST_S = Figure(
    "limner_request_s",
    Kind.HISTOGRAM,
    "Seconds from a completed request's arrival to the last byte of its answer.",
    ("pipeline",),
    (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 600),
)
OVER_PREDICTION = Figure(
    "limner_request_over_prediction",
    Kind.HISTOGRAM,
    "How long a completed request took, as a multiple of what was predicted when it was accepted.",
    ("pipeline",),
    (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10),
)

_NO_ROOM = (429, 503, 507)
_KEY = "limner.ending"


@dataclass(slots=True)
class Ending:
    """What is known of a request's end. ``status`` and ``code`` are those of the problem that ended it."""

    status: int = 0
    code: str | None = None
    all_sent: bool = False
    predicted_s: float | None = None
    completed: Completed | None = None

    def problem(self, status: int, code: str) -> None:
        self.status, self.code = status, code

    @property
    def outcome(self) -> str:
        if self.code == ModerationBlocked.code:
            return BLOCKED
        if self.code == RequestCancelled.code or (self.code is None and not self.all_sent):
            return CANCELLED
        if self.status in _NO_ROOM:
            return REFUSED
        if self.status >= 500:
            return FAILED
        return INVALID if self.status >= 400 else COMPLETED


def pipeline_of(scope: Scope) -> str | None:
    """The pipeline that a request is work for; None for one that asks for no work."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return PIPELINES.get(path) if scope["method"] == "POST" else None


def begin(scope: Scope) -> Ending:
    """The ending of a request that has just come."""
    ending = scope[_KEY] = Ending()
    return ending


def ending_of(scope: Scope) -> Ending:
    """Where to note what is known of the request's end; nobody reads it without the middleware."""
    ending: Any = scope.get(_KEY)
    return ending if isinstance(ending, Ending) else Ending()


class Traffic:
    """Counts requests of the pipelines as they end."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        for pipeline in PIPELINES.values():
            for outcome in OUTCOMES:
                figures.count(REQUESTS, pipeline, outcome, by=0)
            # One is enough for an alert.
            figures.count(PROBLEMS, pipeline, InsufficientStorage.code, by=0)

    def ended(self, scope: Scope, ending: Ending, took_s: float) -> None:
        """``took_s`` counts from the request's arrival."""
        pipeline = pipeline_of(scope)
        if pipeline is None:
            return
        figures, outcome = self._figures, ending.outcome
        figures.count(REQUESTS, pipeline, outcome)
        if ending.code is not None:
            figures.count(PROBLEMS, pipeline, ending.code)
        if outcome != COMPLETED:
            return
        figures.sample(REQUEST_S, pipeline, of=took_s)
        if ending.predicted_s:
            figures.sample(OVER_PREDICTION, pipeline, of=took_s / ending.predicted_s)
        if ending.completed is not None:
            self._drawn(pipeline, ending.completed, took_s)

    def _drawn(self, pipeline: str, completed: Completed, took_s: float) -> None:
        timings = completed.timings
        self._figures.count(PICTURES, pipeline, by=len(completed.pictures))
        for stage, seconds in (
            ("encode", timings.encode_s),
            ("denoise", timings.denoise_s),
            ("decode", timings.decode_s),
            ("file", timings.file_s),
            ("router", took_s - timings.total_s),
        ):
            self._figures.count(STAGES, pipeline, stage, by=max(seconds, 0.0))
