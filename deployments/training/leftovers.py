"""What jobs leave among the blobs once they are over. Knows keys and states; nothing of how a job runs."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from core.training import Job, JobStatus
from store import keys
from store.blobs import Blobs
from store.overview import adapters_in_use, jobs_by_id

_MAX_ASKED = 500


def clear(blobs: Blobs, job: Job) -> None:
    """Delete what ``job`` needs no longer; nothing of one that is not over.

    Photos stay where the member wished so and the training succeeded.
    """
    if job.status is JobStatus.SUCCEEDED:
        blobs.delete(keys.checkpoint(job.job_id))
        if not job.spec["keep_photos"]:
            blobs.delete(keys.job_folder(job.job_id))
    elif job.status.final:
        blobs.delete(keys.job_folder(job.job_id))
        blobs.delete(keys.adapter_folder(job.adapter_id))


class Sweep:
    """Clears after processes that were killed before they could, however long ago.

    Files that belong to nothing go the second time they are seen: what is being written may not be known yet.
    """

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self._engine = engine
        self._blobs = blobs
        self._strays: set[str] = set()

    def sweep(self) -> None:
        """Go through all folders of jobs and adapters once. Raises what the store raises."""
        strays: set[str] = set()
        for job_ids in self._ids("jobs"):
            known = jobs_by_id(self._engine, job_ids)
            for job in known.values():
                clear(self._blobs, job)
            strays |= {keys.job_folder(each) for each in job_ids - known.keys()}
        for adapter_ids in self._ids("adapters"):
            in_use = adapters_in_use(self._engine, adapter_ids)
            strays |= {keys.adapter_folder(each) for each in adapter_ids - in_use}
        for folder in strays & self._strays:
            self._blobs.delete(folder)
        self._strays = strays - self._strays

    def _ids(self, folder: str) -> Iterator[set[str]]:
        """The names in ``folder``, as many at a time as a query may ask for."""
        names = sorted({key.split("/")[1] for key in self._blobs.keys(folder)})
        for start in range(0, len(names), _MAX_ASKED):
            yield set(names[start : start + _MAX_ASKED])
