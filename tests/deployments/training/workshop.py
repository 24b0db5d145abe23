"""A real store on disk, specs, and trainings that take no time, for tests of everything around a training."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from sqlalchemy import Engine

from core.specs import TextToImageSpec
from core.training import Job, Progress, TrainingOptions, TrainingSpec
from core.types import Accepted, Completed, ModelInfo, Picture, PipelineEvent, SamplerName, Timings
from deployments.training.run import Reporter, TrainingInputs
from deployments.training.work import Order
from store import keys
from store.adapters import Adapters
from store.blobs import Blobs
from store.db import open_database
from store.job_queries import spec_as_json
from store.jobs import Jobs

OWNER = "own_1"
LEASE_S = 60.0
MODEL = ModelInfo("mini", "mini", "", 128, 64, 256, 8, 0, "v_prediction", SamplerName.DDIM, 20, 3.0)


class Shelves(NamedTuple):
    """A store in a folder."""

    engine: Engine
    jobs: Jobs
    adapters: Adapters
    blobs: Blobs


def shelves_in(folder: Path) -> Shelves:
    engine = open_database(f"sqlite:///{folder / 'limner.db'}")
    return Shelves(engine, Jobs(engine), Adapters(engine), Blobs(f"file://{folder / 'blobs'}"))


def options(**changes: object) -> TrainingOptions:
    values: dict[str, object] = {
        "num_steps": 6,
        "rank": 4,
        "alpha": 4.0,
        "learning_rate": 1e-3,
        "batch_size": 1,
        "checkpoint_every": 2,
        "sample_every": 3,
    }
    return TrainingOptions(**(values | changes))  # type: ignore[arg-type]


def spec_of(photos: tuple[bytes, ...] = (), *, keep_photos: bool = False, **changes: object) -> TrainingSpec:
    return TrainingSpec(
        request_id=uuid.uuid4().hex,
        user_id=str(changes.pop("user_id", "ada")),
        model_id="mini",
        name="Ada",
        subject=str(changes.pop("subject", "woman")),
        trigger="sks",
        photos=photos,
        options=options(**changes),
        keep_photos=keep_photos,
    )


def queued(shelves: Shelves, spec: TrainingSpec | None = None, num_photos: int = 3) -> Job:
    """A job with its photos in the store."""
    spec = spec or spec_of()
    job_id = keys.new_id("job")
    for number in range(1, num_photos + 1):
        shelves.blobs.write(keys.photo(job_id, number), b"photo %d" % number)
    return shelves.jobs.create(
        spec_as_json(spec),
        job_id=job_id,
        user_id=spec.user_id,
        adapter_id=keys.new_id("adp"),
        num_photos=num_photos,
        max_queued=9,
    )


def claimed(shelves: Shelves, spec: TrainingSpec | None = None, owner: str = OWNER) -> tuple[Job, Order]:
    """A job under ``owner``'s lease, and what its task is told."""
    spec = spec or spec_of()
    queued(shelves, spec)
    job = shelves.jobs.claim(owner, LEASE_S)
    assert job is not None
    return job, order_for(job, spec, owner)


def order_for(job: Job, spec: TrainingSpec, owner: str = OWNER) -> Order:
    return Order(
        job_id=job.job_id,
        owner=owner,
        adapter_id=job.adapter_id,
        spec=spec,
        num_photos=job.num_photos,
        step_s=2.0,
        device="cpu",
        num_threads=1,
    )


def train(
    inputs: TrainingInputs, reporter: Reporter, *, every_step: Callable[[int], object] | None = None
) -> bytes:
    """Learns its steps by heart: the file lists them, those of a checkpoint first, and what it was given."""
    steps: list[int] = json.loads(inputs.checkpoint) if inputs.checkpoint else []
    reporter.stage("training")
    asked = inputs.options
    while len(steps) < asked.num_steps:
        step = len(steps) + 1
        steps.append(step)
        if every_step is not None:
            every_step(step)
        if step % asked.sample_every == 0:
            reporter.sample(step, b"png %d" % step)
        if step % asked.checkpoint_every == 0:
            reporter.checkpoint(json.dumps(steps).encode())
        reporter.progress(Progress(step=step, num_steps=asked.num_steps, loss=1 / step))
    photos = [photo.decode("latin-1") for photo in inputs.photos]
    learnt = {"steps": steps, "photos": photos, "num_class_pictures": len(inputs.class_pictures)}
    return json.dumps(learnt).encode()


def png(size: tuple[int, int] = (160, 160), colour: tuple[int, int, int] = (200, 30, 90)) -> bytes:
    """A picture with sharp edges: a square and lines on a colour."""
    picture = Image.new("RGB", size, colour)
    picture.paste((255, 255, 255), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    for left in range(0, size[0], 8):
        picture.paste((0, 0, 0), (left, size[1] - 8, left + 3, size[1]))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class SmallPainter:
    """A text-to-image pipeline whose pictures name their seeds; ``raising`` come first, one per request."""

    def __init__(self, *raising: Exception) -> None:
        self.raising = list(raising)
        self.specs: list[TextToImageSpec] = []

    async def __call__(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        self.specs.append(spec)
        if self.raising:
            raise self.raising.pop(0)
        yield Accepted(spec.request_id, 1.0)
        seeds = range(spec.seed, spec.seed + spec.num_images)
        pictures = [
            Picture(index, seed, b"seed %d" % seed, "image/png", 128, 128) for index, seed in enumerate(seeds)
        ]
        yield Completed(tuple(pictures), Timings(0.0, 0.0, 0.0, 0.0))
