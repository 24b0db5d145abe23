"""What members may do with trainings and adapters, on the store. It blocks; knows neither Ray nor pixels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine

from core.errors import Conflict, NotFound
from core.settings import TrainingSettings
from core.training import Adapter, AdapterFormat, ImportSpec, Job, TrainingSpec
from deployments.training import adapter_files
from deployments.training.forecast import finish_of, step_seconds
from deployments.training.leftovers import clear
from store import keys
from store.adapters import Adapters
from store.blobs import Blobs
from store.job_queries import spec_as_json
from store.jobs import Jobs
from store.overview import open_jobs


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """Each method either does all of what it says or leaves nothing behind.

    Ids follow from those of requests: whoever lost a replica on the way may ask another one.
    """

    engine: Engine
    jobs: Jobs
    adapters: Adapters
    blobs: Blobs
    settings: TrainingSettings
    max_adapters: int
    device: str

    def check_room(self, user_id: str) -> None:
        """Raises :class:`Conflict` where the member has as many adapters as may be."""
        if self.adapters.count(user_id) >= self.max_adapters:
            raise Conflict(
                f"You have {self.max_adapters} adapters, which is as many as may be; remove one.",
                field="adapters",
                limit=self.max_adapters,
            )

    def queue(self, spec: TrainingSpec, files: Sequence[bytes], warnings: Sequence[str]) -> Job:
        """Keep the prepared photos and queue the training. A request that comes again gets the same job.

        Raises:
            Conflict: if the member has too many adapters, or a training that is not over.
            QueueFull, InsufficientStorage: with nothing left behind.
        """
        job_id = f"job_{spec.request_id}"
        with suppress(NotFound):
            return self.jobs.get(job_id, spec.user_id)
        self.check_room(spec.user_id)
        step_s = step_seconds(self.jobs.seconds_per_step(spec.model_id), self.device)
        finish = finish_of(
            datetime.now(UTC),
            spec.options.num_steps,
            open_jobs(self.engine),
            step_s,
            self.settings.max_concurrent,
        )
        try:
            for number, file in enumerate(files, 1):
                self.blobs.write(keys.photo(job_id, number), file)
            return self.jobs.create(
                spec_as_json(spec),
                job_id=job_id,
                user_id=spec.user_id,
                adapter_id=f"adp_{spec.request_id}",
                num_photos=len(files),
                warnings=warnings,
                predicted_finish_at=finish,
                max_queued=self.settings.max_queued,
            )
        except BaseException:
            self.blobs.delete(keys.job_folder(job_id))
            raise

    def bring(self, spec: ImportSpec) -> Adapter:
        """Keep a file that the member brought along. A request that comes again gets the same adapter.

        Raises:
            InvalidRequest: if it is no adapter for the model.
            Conflict: if the member has too many adapters.
            InsufficientStorage: with nothing left behind.
        """
        adapter_id = f"adp_{spec.request_id}"
        with suppress(NotFound):
            return self.adapters.get(adapter_id, spec.user_id)
        self.check_room(spec.user_id)
        adapter, file = adapter_files.imported(spec, adapter_id, datetime.now(UTC))
        try:
            self.blobs.write(keys.adapter_file(adapter.adapter_id), file)
            self.adapters.add(adapter)
        except BaseException:
            self.blobs.delete(keys.adapter_folder(adapter.adapter_id))
            raise
        return adapter

    def take(self, adapter: Adapter, layout: AdapterFormat) -> bytes:
        """The adapter's file. Raises :class:`NotFound`, :class:`BrokenAdapter`."""
        file = self.blobs.read(keys.adapter_file(adapter.adapter_id))
        return adapter_files.exported(adapter, file, layout)

    def cancel(self, job_id: str, user_id: str) -> Job:
        """End a job that nobody trains, or have whoever does end it. Raises :class:`NotFound`."""
        job = self.jobs.request_cancel(job_id, user_id)
        clear(self.blobs, job)
        return job

    def cancel_training_of(self, adapter_id: str, user_id: str) -> Job | None:
        """As :meth:`cancel`, for the job that makes an adapter; None where none is under way."""
        try:
            job = self.jobs.find_by_adapter(adapter_id, user_id)
        except NotFound:
            return None
        return None if job.status.final else self.cancel(job.job_id, user_id)

    def remove(self, adapter_id: str, user_id: str) -> None:
        """Delete an adapter, its file, its samples, its job and the photos that were kept.

        Raises :class:`NotFound`, and :class:`Conflict` while it is being trained.
        """
        job = None
        try:
            job = self.jobs.find_by_adapter(adapter_id, user_id)
        except NotFound:
            self.adapters.get(adapter_id, user_id)
        if job is None or job.status.final:
            # Before the rows: without those nobody would know the files for a while.
            self.blobs.delete(keys.adapter_folder(adapter_id))
            if job is not None:
                self.blobs.delete(keys.job_folder(job.job_id))
        self.adapters.delete(adapter_id, user_id)
