"""``/v1/adapters``: members' own adapters. Reads the store itself; the Trainer changes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from core.errors import Conflict
from core.settings import RequestLimits
from core.training import MAX_PHOTOS
from serve_app.adapter_examples import (
    DELETE_RESPONSES,
    IMPORT,
    IMPORT_RESPONSES,
    TRAINING,
    TRAINING_RESPONSES,
)
from serve_app.adapter_files import AdapterId
from serve_app.adapter_requests import ImportRequest, TrainingRequest
from serve_app.adapter_schemas import ADAPTERS, JOBS, AdapterEntry, AdapterList, JobEntry
from serve_app.caller import Caller
from serve_app.examples import OWN_PROBLEMS
from serve_app.form import FormLimits
from serve_app.negotiation import JSON
from serve_app.offer import Offer
from serve_app.openapi import form_body, problem_responses
from serve_app.records import Records, Store
from serve_app.request_body import read_form
from serve_app.resolve_training import resolve_import, resolve_training
from serve_app.trainer import Trainer
from serve_app.upload_slots import UploadSlots

_NO_STORE = {"Cache-Control": "no-store"}


def build_router(trainer: Trainer, offer: Offer, records: Records) -> APIRouter:
    """The routes that make, list and remove adapters."""
    router = APIRouter(tags=["adapters"])
    _add_makers(router, trainer, offer, records)

    @router.get(
        ADAPTERS,
        operation_id="list_adapters",
        summary="List your adapters, newest first",
        responses=problem_responses(*OWN_PROBLEMS),
    )
    async def list_adapters(
        caller: Caller, response: Response, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    ) -> AdapterList:
        found = await records.ask(lambda store: store.adapters.list(caller, limit))
        response.headers.update(_NO_STORE)
        return AdapterList(data=[AdapterEntry.of(adapter) for adapter in found])

    @router.get(
        ADAPTERS + "/{adapter_id}",
        operation_id="get_adapter",
        summary="Look at an adapter",
        responses=problem_responses(*OWN_PROBLEMS, Conflict),
    )
    async def get_adapter(adapter_id: AdapterId, caller: Caller, response: Response) -> AdapterEntry:
        """409 while it is being trained, naming its job; 404 for another member's."""
        response.headers.update(_NO_STORE)
        return AdapterEntry.of(await records.adapter(adapter_id, caller))

    @router.delete(
        ADAPTERS + "/{adapter_id}",
        operation_id="delete_adapter",
        summary="Remove an adapter and all that is kept of it",
        status_code=204,
        responses=DELETE_RESPONSES,
    )
    async def delete_adapter(adapter_id: AdapterId, caller: Caller) -> Response:
        """Its file, its sample pictures, kept photos and its job go, and replicas forget it.

        Pictures that are being drawn with it are finished, or fail clearly. A training that is under way is
        canceled first.
        """
        await trainer.delete_adapter(adapter_id, caller)
        return Response(status_code=204)

    return router


def _add_makers(router: APIRouter, trainer: Trainer, offer: Offer, records: Records) -> None:
    limits = offer.limits
    slots = UploadSlots()

    @router.post(
        ADAPTERS,
        operation_id="train_adapter",
        summary="Train an adapter from photos",
        status_code=202,
        response_model=JobEntry,
        responses=TRAINING_RESPONSES,
        openapi_extra=form_body(TrainingRequest, TRAINING),
    )
    async def train_adapter(request: Request, caller: Caller) -> Response:
        """The model learns one subject from photos of it (DreamBooth, as a LoRA adapter).

        The answer is the job; follow it at its `links`. One training of a member's runs at a time: while one
        is under way, others are refused with 409, naming it. What is wrong with single photos, but does not
        keep them from being used, stands in the job's `warnings`.
        """
        triggers = await records.ask(lambda store: _check_room(store, caller, limits, training=True))
        async with slots.one():
            async with slots.in_time():
                body = await read_form(
                    request, TrainingRequest, limits, FormLimits(MAX_PHOTOS, limits.max_upload_bytes)
                )
            job = await trainer.submit(resolve_training(body, offer, caller, triggers))
        content = JobEntry.of(job, datetime.now(UTC)).model_dump_json()
        headers = {"Location": f"{JOBS}/{job.job_id}", **_NO_STORE}
        return Response(content, 202, headers, JSON)

    @router.post(
        ADAPTERS + "/import",
        operation_id="import_adapter",
        summary="Bring along an adapter made elsewhere",
        status_code=201,
        response_model=AdapterEntry,
        responses=IMPORT_RESPONSES,
        openapi_extra=form_body(ImportRequest, IMPORT),
    )
    async def import_adapter(request: Request, caller: Caller) -> Response:
        """A LoRA in the layout of PEFT, diffusers or kohya. One that does not fit the model is refused."""
        await records.ask(lambda store: _check_room(store, caller, limits, training=False))
        async with slots.one():
            async with slots.in_time():
                body = await read_form(
                    request, ImportRequest, limits, FormLimits(1, limits.max_adapter_bytes)
                )
            adapter = await trainer.import_adapter(resolve_import(body, offer, caller))
        headers = {"Location": f"{ADAPTERS}/{adapter.adapter_id}", **_NO_STORE}
        return Response(AdapterEntry.of(adapter).model_dump_json(), 201, headers, JSON)


def _check_room(store: Store, user_id: str, limits: RequestLimits, *, training: bool) -> set[str]:
    """The triggers of the member's adapters, if there may be one more.

    Before the body is read: what is bound to be refused need not be sent. The store checks again.

    Raises:
        Conflict: if not.
    """
    most = limits.max_adapters_per_member
    if store.adapters.count(user_id) >= most:
        raise Conflict(
            f"You have {most} adapters, which is as many as may be; remove one.", field="adapters", limit=most
        )
    for job in store.jobs.list(user_id, 1) if training else []:
        if not job.status.final:
            raise Conflict(
                f"A training of yours is under way: {JOBS}/{job.job_id}.", field="job_id", limit=job.job_id
            )
    return {adapter.trigger for adapter in store.adapters.list(user_id, most)}
