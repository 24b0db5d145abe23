"""What the routes ask of the replica that changes adapters and jobs. Knows no Ray: see ``pipelines``."""

from __future__ import annotations

from typing import Protocol

from core.training import Adapter, AdapterFormat, ImportSpec, Job, TrainingSpec


class Trainer(Protocol):
    """Takes in trainings and files. Failures are raised as those of pipelines are."""

    async def submit(self, spec: TrainingSpec) -> Job:
        """Keep the photos and queue the training.

        Raises:
            InvalidRequest: for photos that cannot be learnt from.
            Conflict: if a training of the member's is under way.
            QueueFull, InsufficientStorage: with nothing left behind.
        """
        ...

    async def import_adapter(self, spec: ImportSpec) -> Adapter:
        """Keep a file that the member brought along.

        Raises:
            InvalidRequest: if it is no adapter for the model.
            InsufficientStorage: with nothing left behind.
        """
        ...

    async def export(self, adapter: Adapter, format: AdapterFormat) -> bytes:
        """The adapter's file in that layout, the same bytes every time."""
        ...

    async def cancel(self, job_id: str, user_id: str) -> Job:
        """Have the job end at its next step; one that has ended stays as it is. NotFound as of the store."""
        ...

    async def delete_adapter(self, adapter_id: str, user_id: str) -> None:
        """Remove the adapter, its file and its samples, everywhere. NotFound as of the store."""
        ...
