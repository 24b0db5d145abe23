"""One attempt at a job, wherever it runs: read, train, keep, clear. Knows the store; neither Ray nor torch.

It may be killed at any moment and started again with the same order: what was done is found, not repeated.
"""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError

from core.errors import LeaseLost, LimnerError, NotFound
from core.telemetry import log, logger
from core.training import Adapter, Job, TrainingSpec
from deployments.training.leftovers import clear
from deployments.training.reporting import Canceled, JobReporter
from deployments.training.run import Reporter, TrainingInputs
from store import keys
from store.blobs import Blobs
from store.jobs import Jobs

_LOG = logger(__name__)

Train = Callable[[TrainingInputs, Reporter], bytes]

# Trouble of the store's, after which another attempt may succeed.
WORTH_RETRYING = (OSError, DBAPIError)
# By name, since this file imports no torch.
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a task is told. The photos of ``spec`` lie in the store; ``owner`` names the lease."""

    job_id: str
    owner: str
    adapter_id: str
    spec: TrainingSpec
    num_photos: int
    step_s: float
    device: str
    num_threads: int


def carry_out(
    order: Order, jobs: Jobs, blobs: Blobs, train: Train, clock: Callable[[], float] = time.time
) -> None:
    """Bring the job to its end, and clear after it. Does nothing to a job that is over or another's.

    Raises what is :data:`WORTH_RETRYING`, and what the store raises when even a failure cannot be noted.
    """
    try:
        job = jobs.get(order.job_id, order.spec.user_id)
        if not job.status.final:
            job = _ended(order, jobs, blobs, train, clock)
    except (LeaseLost, NotFound):
        log(_LOG, logging.INFO, "training left to others", job_id=order.job_id)
        return
    log(_LOG, logging.INFO, "training over", job_id=order.job_id, status=job.status.value)
    with suppress(*WORTH_RETRYING):
        # What cannot be deleted now is swept up later; the job's end stands.
        clear(blobs, job)


def _ended(order: Order, jobs: Jobs, blobs: Blobs, train: Train, clock: Callable[[], float]) -> Job:
    """The job in its final state. Raises LeaseLost."""
    job_id, owner = order.job_id, order.owner
    try:
        data = _adapter_file(order, jobs, blobs, train, clock)
        return jobs.succeed(job_id, owner, _adapter(order, blobs, data, clock()))
    except (LeaseLost, *WORTH_RETRYING):
        raise
    except Canceled:
        return jobs.finish_canceled(job_id, owner)
    except LimnerError as error:
        _log_failure(order, error)
        return jobs.fail(job_id, owner, error.code, error.message)
    except Exception as error:
        _log_failure(order, error)
        return jobs.fail(job_id, owner, *_told(error))


def _adapter_file(order: Order, jobs: Jobs, blobs: Blobs, train: Train, clock: Callable[[], float]) -> bytes:
    """The adapter as it lies in the store, trained if it is not there yet."""
    job_id, spec, key = order.job_id, order.spec, keys.adapter_file(order.adapter_id)
    jobs.start(job_id, order.owner, "reading the photos")
    if blobs.exists(key):
        return blobs.read(key)
    photos = [blobs.read(each) for each in blobs.keys(keys.photos(job_id))]
    if len(photos) != order.num_photos:
        raise PhotosLost(f"Of {order.num_photos} photos {len(photos)} are left.")
    reporter = JobReporter(
        job_id, order.owner, order.adapter_id, jobs, blobs, spec.options, order.step_s, clock
    )
    data = train(
        TrainingInputs(
            model_id=spec.model_id,
            subject=spec.subject,
            trigger=spec.trigger,
            photos=photos,
            class_pictures=_class_pictures(spec, blobs),
            options=spec.options,
            checkpoint=_read(blobs, keys.checkpoint(job_id)),
            device=order.device,
            num_threads=order.num_threads,
        ),
        reporter,
    )
    # Whoever lost the lease must not put its file in place of its successor's.
    reporter.stage("saving")
    blobs.write(key, data)
    return data


class PhotosLost(LimnerError):
    """The photos of a job are not in the store."""

    code, title = "photos_lost", "Photos lost"


def _class_pictures(spec: TrainingSpec, blobs: Blobs) -> list[bytes]:
    if not spec.options.prior_weight:
        return []
    numbers = range(1, spec.options.num_class_pictures + 1)
    read = (_read(blobs, keys.class_picture(spec.model_id, spec.subject, number)) for number in numbers)
    return [picture for picture in read if picture is not None]


def _read(blobs: Blobs, key: str) -> bytes | None:
    with suppress(NotFound):
        return blobs.read(key)
    return None


def _adapter(order: Order, blobs: Blobs, data: bytes, now_s: float) -> Adapter:
    spec = order.spec
    return Adapter(
        adapter_id=order.adapter_id,
        user_id=spec.user_id,
        name=spec.name,
        model_id=spec.model_id,
        subject=spec.subject,
        trigger=spec.trigger,
        rank=spec.options.rank,
        alpha=spec.options.alpha,
        num_steps=spec.options.num_steps,
        has_text_encoder=spec.options.train_text_encoder,
        origin="trained",
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        num_samples=len(blobs.keys(keys.adapter_samples(order.adapter_id))),
        created_at=datetime.fromtimestamp(now_s, UTC),
    )


def _told(error: Exception) -> tuple[str, str]:
    """Code and detail for the member. An error's own words may hold anything."""
    if type(error).__name__ in _OUT_OF_MEMORY:
        return "out_of_memory", "The training needs more memory than there is; lower batch_size or rank."
    return "training_failed", f"The training ended with an error ({type(error).__name__})."


def _log_failure(order: Order, error: Exception) -> None:
    """Where it happened, without the error's own words."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:]]
    log(
        _LOG,
        logging.ERROR,
        "training failed",
        job_id=order.job_id,
        error=type(error).__name__,
        at=frames,
    )
