"""``/v1/jobs``: how members' trainings stand, told at once, in events, or never again after a cancel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from core.errors import MalformedRequest, NotFound
from core.training import JobEvent, JobEventKind
from serve_app import problems
from serve_app.adapter_examples import CANCEL_RESPONSES, EVENTS_RESPONSES
from serve_app.adapter_schemas import JOBS, JobEntry, JobList, sample_address
from serve_app.caller import Caller
from serve_app.examples import OWN_PROBLEMS
from serve_app.openapi import problem_responses
from serve_app.records import Records, is_id
from serve_app.sse import EventStream, encode_event
from serve_app.trainer import Trainer

_NO_STORE = {"Cache-Control": "no-store"}
_NUMBER = re.compile(r"[0-9]{1,9}")


async def _job_id(job_id: Annotated[str, Path(description="An id from `GET /v1/jobs`.")]) -> str:
    if not is_id(job_id):
        raise NotFound("There is no such job.")
    return job_id


async def _after(
    last_event_id: Annotated[
        str | None, Header(description="The last event received; the stream goes on after it.")
    ] = None,
) -> int:
    if not last_event_id:
        return 0
    if not _NUMBER.fullmatch(last_event_id):
        raise MalformedRequest("The id of an event is a number.", field="Last-Event-ID")
    return int(last_event_id)


JobId = Annotated[str, Depends(_job_id)]
After = Annotated[int, Depends(_after)]


def build_router(trainer: Trainer, records: Records, poll_s: float) -> APIRouter:
    """The routes. The store is asked for new events every ``poll_s``."""
    router = APIRouter(tags=["jobs"])

    @router.get(
        JOBS,
        operation_id="list_jobs",
        summary="List your jobs, newest first",
        responses=problem_responses(*OWN_PROBLEMS),
    )
    async def list_jobs(
        caller: Caller, response: Response, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    ) -> JobList:
        found = await records.ask(lambda store: store.jobs.list(caller, limit))
        response.headers.update(_NO_STORE)
        return JobList(data=[JobEntry.of(job, datetime.now(UTC)) for job in found])

    @router.get(
        JOBS + "/{job_id}",
        operation_id="get_job",
        summary="Look at a job",
        responses=problem_responses(*OWN_PROBLEMS),
    )
    async def get_job(job_id: JobId, caller: Caller, response: Response) -> JobEntry:
        response.headers.update(_NO_STORE)
        return JobEntry.of(await records.job(job_id, caller), datetime.now(UTC))

    @router.post(
        JOBS + "/{job_id}/cancel",
        operation_id="cancel_job",
        summary="Cancel a job",
        responses=CANCEL_RESPONSES,
    )
    async def cancel_job(job_id: JobId, caller: Caller, response: Response) -> JobEntry:
        """A queued job is canceled at once, a running one at its next step; one that has ended stays so."""
        response.headers.update(_NO_STORE)
        return JobEntry.of(await trainer.cancel(job_id, caller), datetime.now(UTC))

    @router.get(
        JOBS + "/{job_id}/events",
        operation_id="follow_job",
        summary="Follow a job",
        response_class=Response,
        responses=EVENTS_RESPONSES,
    )
    async def follow_job(request: Request, job_id: JobId, caller: Caller, after: After) -> Response:
        """Server-Sent Events from the job's first one on, until it has ended.

        With `Last-Event-ID`, which browsers send by themselves when they connect again, from the one after
        that; 204, which keeps them from trying again, where none will follow.
        """
        job, events = await records.events(job_id, caller, after)
        if job.status.final and not events:
            return Response(status_code=204, headers=_NO_STORE)
        told = _Following(records, job_id, caller, after, poll_s, problems.request_id_of(request)).events()
        return EventStream(told, told, _NO_STORE)

    return router


class _Following:
    """A job's events in wire format, as they happen."""

    def __init__(
        self, records: Records, job_id: str, user_id: str, after: int, poll_s: float, request_id: str
    ) -> None:
        self._records = records
        self._job_id = job_id
        self._user_id = user_id
        self._after = after
        self._poll_s = poll_s
        self._request_id = request_id

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Ends after the job's last event, or with an ``error`` where the job can no longer be followed."""
        try:
            while True:
                job, events = await self._records.events(self._job_id, self._user_id, self._after)
                for event in events:
                    self._after = event.number
                    yield encode_event(event.kind, _data(event, job.adapter_id), event.number)
                if job.status.final or any(event.kind.final for event in events):
                    return
                await asyncio.sleep(self._poll_s)
        except Exception as error:
            known = problems.known_error(error, self._request_id)
            last = encode_event("error", problems.problem(known, self._request_id))
        yield last


def _data(event: JobEvent, adapter_id: str) -> Mapping[str, Any]:
    data = {"job_id": event.job_id, "at": event.at.isoformat(), **event.data}
    if event.kind is JobEventKind.SAMPLE and "number" in data:
        data["url"] = sample_address(adapter_id, data["number"])
    return data
