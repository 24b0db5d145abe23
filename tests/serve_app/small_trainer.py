"""A Trainer over a real store that learns nothing: photos are kept, jobs follow a script, files are short."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from core.errors import InsufficientStorage
from core.settings import StoreSettings
from core.training import Adapter, AdapterFormat, ImportSpec, Job, Progress, TrainingSpec
from serve_app.records import Store, open_store
from store import keys
from store.job_queries import spec_as_json

OWNER = "worker"
SAMPLE = b"\x89PNG\r\n\x1a\nsample"
FILE = (2).to_bytes(8, "little") + b"{}"
ADAPTER = Adapter(
    adapter_id="adp_1",
    user_id="local",
    name="Anton",
    model_id="mini",
    subject="man",
    trigger="zvokip",
    rank=8,
    alpha=8.0,
    num_steps=100,
    has_text_encoder=True,
    origin="trained",
    sha256=hashlib.sha256(FILE).hexdigest(),
    num_bytes=len(FILE),
    num_samples=2,
    created_at=datetime(2026, 11, 22, tzinfo=UTC),
)


def store_in(folder: Path) -> Store:
    """A SQLite file and a folder of blobs."""
    return open_store(
        StoreSettings(database=f"sqlite:///{folder / 'limner.db'}", blobs=f"file://{folder / 'blobs'}")
    )


class SmallTrainer:
    """Jobs wait until :meth:`start` is called. The disk is full after ``room_bytes``.

    Its store lies in ``folder``; without one there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.room_bytes = 1_000_000_000
        self.specs: list[TrainingSpec | ImportSpec] = []
        self.exported: list[AdapterFormat] = []

    @cached_property
    def store(self) -> Store:
        assert self._folder is not None, "this test has no store"
        return store_in(self._folder)

    async def submit(self, spec: TrainingSpec) -> Job:
        self.specs.append(spec)
        job_id, adapter_id = keys.new_id("job"), keys.new_id("adp")
        try:
            for number, photo in enumerate(spec.photos, 1):
                self.write(keys.photo(job_id, number), photo)
            return self.store.jobs.create(
                spec_as_json(spec),
                job_id=job_id,
                user_id=spec.user_id,
                adapter_id=adapter_id,
                num_photos=len(spec.photos),
                warnings=["Photos 1 and 2 are the same."],
                predicted_finish_at=datetime.now(UTC) + timedelta(seconds=90),
                max_queued=100,
            )
        except Exception:
            self.store.blobs.delete(keys.job_folder(job_id))
            raise

    async def import_adapter(self, spec: ImportSpec) -> Adapter:
        self.specs.append(spec)
        adapter = replace(
            ADAPTER,
            adapter_id=keys.new_id("adp"),
            user_id=spec.user_id,
            name=spec.name,
            model_id=spec.model_id,
            subject=spec.subject,
            trigger=spec.trigger,
            origin="imported",
            num_samples=0,
        )
        self.write(keys.adapter_file(adapter.adapter_id), spec.file)
        self.store.adapters.add(adapter)
        return adapter

    async def export(self, adapter: Adapter, format: AdapterFormat) -> bytes:
        self.exported.append(format)
        return self.store.blobs.read(keys.adapter_file(adapter.adapter_id)) + format.encode()

    async def cancel(self, job_id: str, user_id: str) -> Job:
        return self.store.jobs.request_cancel(job_id, user_id)

    async def delete_adapter(self, adapter_id: str, user_id: str) -> None:
        self.store.adapters.delete(adapter_id, user_id)
        self.store.blobs.delete(keys.adapter_folder(adapter_id))

    def write(self, key: str, data: bytes) -> None:
        self.room_bytes -= len(data)
        if self.room_bytes < 0:
            raise InsufficientStorage("The store has no room left for a file.")
        self.store.blobs.write(key, data)

    def start(self) -> Job:
        """The next job has done a step and drawn a sample."""
        job = self.store.jobs.claim(OWNER, 60)
        assert job is not None
        self.store.jobs.start(job.job_id, OWNER)
        self.store.jobs.progress(job.job_id, OWNER, Progress(step=1, num_steps=100, loss=0.5))
        self.store.blobs.write(keys.sample(job.adapter_id, 1), SAMPLE)
        self.store.jobs.sample(job.job_id, OWNER, 1)
        return job

    def finish(self, job: Job) -> Adapter:
        """The started job succeeds."""
        adapter = replace(
            ADAPTER,
            adapter_id=job.adapter_id,
            user_id=job.user_id,
            name=job.spec["name"],
            trigger=job.spec["trigger"],
            num_samples=1,
        )
        self.store.blobs.write(keys.adapter_file(adapter.adapter_id), FILE)
        self.store.jobs.succeed(job.job_id, OWNER, adapter)
        return adapter
