"""The Trainer replica: takes in trainings and adapter files, and has Ray tasks carry the trainings out.

Knows Ray Serve and the other replicas' handles; what is done is ``deployments.training``. It imports torch
only for files of adapters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from core.errors import Conflict, LimnerError
from core.figures import Figures
from core.settings import AppSettings
from core.specs import Face, FoundMask, MaskSpec
from core.telemetry import configure, log, logger
from core.training import Adapter, AdapterFormat, ImportSpec, Job, TrainingSpec
from deployments.pipeline.threads import actor_options
from deployments.serving.handles import ask, pictures_through
from deployments.serving.meters import Meters
from deployments.training import run
from deployments.training.attempt import Launch, Workshop
from deployments.training.census import CENSUS_PERIOD_S, Census
from deployments.training.class_pictures import ClassPictures
from deployments.training.desk import Desk
from deployments.training.dispatch import Dispatcher
from deployments.training.intake import Intake
from deployments.training.leftovers import Sweep
from deployments.training.task import RayTasks, StoreUrls
from deployments.training.work import Train
from store.adapters import Adapters
from store.blobs import Blobs
from store.db import open_database
from store.jobs import Jobs
from weights import registry

_LOG = logger(__name__)

_SWEEP_PERIOD_S = 900.0
# A training stops within a step; a machine that takes longer for one says so.
_STOP_S = 60.0
_LOOK_PERIOD_S = 0.2
_FORGET_S = 10.0

P = ParamSpec("P")
T = TypeVar("T")


class Unhealthy(LimnerError):
    """The replica cannot go on and has to be replaced."""

    code, title = "unhealthy", "Replica unhealthy"


class _AskedPerception:
    """Perception's handle as framing wants it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        faces: tuple[Face, ...] = await ask(self._handle, "faces", image)
        return faces

    async def mask(self, spec: MaskSpec) -> FoundMask:
        found: FoundMask = await ask(self._handle, "mask", spec)
        return found


class Trainer:
    """Makes, brings in, hands out and removes members' adapters. There is one replica of it."""

    def __init__(
        self,
        settings: AppSettings,
        perception: DeploymentHandle[Any],
        text_to_image: DeploymentHandle[Any],
        adapter_users: Sequence[DeploymentHandle[Any]],
        tasks: Callable[[AppSettings], Launch] | None = None,
    ) -> None:
        configure()
        self._model = registry.info(settings.model)
        self._adapter_users = tuple(adapter_users)
        self._engine = open_database(settings.store.database_url)
        jobs, blobs = Jobs(self._engine), Blobs(settings.store.blobs_url)
        limits, own = settings.router.limits, settings.training
        device = "cuda" if settings.use_gpu else "cpu"
        adapters = Adapters(self._engine)
        self._jobs = jobs
        self._desk = Desk(self._engine, jobs, adapters, blobs, own, limits.max_adapters_per_member, device)
        self._intake = Intake(_AskedPerception(perception), max_pixels=limits.max_upload_pixels)
        launch = (tasks or ray_tasks)(settings)
        class_pictures = ClassPictures(blobs, pictures_through(text_to_image), self._model)
        self._dispatcher = Dispatcher(Workshop(jobs, blobs, launch, class_pictures, own, device))
        self._sweep = Sweep(self._engine, blobs)
        self._figures = Figures()
        self._census = Census(self._engine, self._figures)
        loop = asyncio.get_running_loop()
        work = self._dispatcher.run(), self._keep_clean(), self._keep_counting()
        self._running = [loop.create_task(each) for each in work]
        log(_LOG, logging.INFO, "trainer ready", model=settings.model)

    async def submit(self, spec: TrainingSpec) -> Job:
        """Prepare and keep the photos, and queue the training.

        Raises:
            InvalidRequest: for photos that cannot be learnt from.
            Conflict: if the member has too many adapters, or a training that is not over.
            QueueFull, InsufficientStorage: with nothing left behind.
        """
        await asyncio.to_thread(self._desk.check_room, spec.user_id)
        taken = await self._intake.take_in(spec, self._model.default_size)
        job = await _to_its_end(self._desk.queue, spec, taken.files, taken.warnings)
        self._dispatcher.wake()
        return job

    async def import_adapter(self, spec: ImportSpec) -> Adapter:
        """Keep a file that the member brought along. Raises as :meth:`Desk.bring` does."""
        return await _to_its_end(self._desk.bring, spec)

    async def export(self, adapter: Adapter, format: AdapterFormat) -> bytes:
        """The adapter's file in that layout, the same bytes every time."""
        return await asyncio.to_thread(self._desk.take, adapter, format)

    async def cancel(self, job_id: str, user_id: str) -> Job:
        """Have the job end at its next step; one that has ended stays as it is. Raises :class:`NotFound`."""
        job = await _to_its_end(self._desk.cancel, job_id, user_id)
        self._dispatcher.look(job_id)
        return job

    async def delete_adapter(self, adapter_id: str, user_id: str) -> None:
        """Remove the adapter, its file and its samples, everywhere; a training of it is cancelled first.

        Raises :class:`NotFound`, and :class:`Conflict` if that training does not stop.
        """
        job = await asyncio.to_thread(self._desk.cancel_training_of, adapter_id, user_id)
        if job is not None:
            self._dispatcher.look(job.job_id)
            await self._stopped(job)
        await _to_its_end(self._desk.remove, adapter_id, user_id)
        await asyncio.gather(*(self._forget(handle, adapter_id) for handle in self._adapter_users))

    async def check_health(self) -> None:
        """Raise :class:`Unhealthy` when nobody claims jobs any more."""
        if any(task.done() for task in self._running):
            raise Unhealthy("The loop that claims jobs has ended.")

    def close(self) -> None:
        """Give back the jobs under way and stop."""
        for task in self._running:
            task.cancel()
        self._dispatcher.close()
        self._engine.dispose()

    def __del__(self) -> None:
        """Serve calls this once no request is left."""
        if hasattr(self, "_running"):
            self.close()

    async def _stopped(self, job: Job) -> None:
        for _ in range(round(_STOP_S / _LOOK_PERIOD_S)):
            if job.status.final:
                return
            await asyncio.sleep(_LOOK_PERIOD_S)
            job = await asyncio.to_thread(self._jobs.get, job.job_id, job.user_id)
        raise Conflict("Its training has not stopped yet; try again.", limit=job.job_id, retry_after_s=5)

    async def _forget(self, handle: DeploymentHandle[Any], adapter_id: str) -> None:
        """Every replica drops the adapter from memory. One that cannot be reached holds no file of it."""
        try:
            answers = await handle.broadcast("forget_adapter", adapter_id).results_async(
                timeout_s=_FORGET_S, return_exceptions=True
            )
        except (DeploymentUnavailableError, RayError, TimeoutError) as error:
            answers = [error]
        for answer in answers:
            if isinstance(answer, BaseException):
                log(_LOG, logging.WARNING, "adapter not forgotten", error=type(answer).__name__)

    async def _keep_clean(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._sweep.sweep)
            except Exception as error:
                log(_LOG, logging.ERROR, "the store cannot be swept", error=type(error).__name__)
            await asyncio.sleep(_SWEEP_PERIOD_S)

    async def _keep_counting(self) -> None:
        meters = Meters()
        while True:
            try:
                await asyncio.to_thread(self._census.take)
            except Exception as error:
                log(_LOG, logging.WARNING, "jobs cannot be counted", error=type(error).__name__)
            meters.export(self._figures)
            await asyncio.sleep(CENSUS_PERIOD_S)


def ray_tasks(settings: AppSettings, train: Train = run.train) -> RayTasks:
    """What starts training tasks: with a GPU, on nodes of the right labels, again when they are lost."""
    own = settings.training
    options = {
        **actor_options(own.num_gpus if settings.use_gpu else 0),
        "label_selector": own.label_selector or None,
        "max_retries": own.max_retries,
    }
    return RayTasks(StoreUrls.of(settings.store), options, train)


async def _to_its_end(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What ``work`` returns, from a thread that is waited for even when the caller goes away."""
    begun = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **options))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        with suppress(Exception):
            await begun
        raise


def trainer_app(
    settings: AppSettings,
    perception: serve.Application,
    text_to_image: serve.Application,
    adapter_users: Sequence[serve.Application],
    tasks: Callable[[AppSettings], Launch] | None = None,
) -> serve.Application:
    """The Trainer deployment of ``settings``. ``adapter_users`` are all whose replicas hold adapters.

    ``tasks`` makes what starts trainings; by default that is :func:`ray_tasks`.
    """
    own = settings.training
    deployment = serve.deployment(
        name="Trainer",
        num_replicas=1,
        max_ongoing_requests=own.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=_STOP_S,
    )
    return deployment(Trainer).bind(settings, perception, text_to_image, list(adapter_users), tasks)
