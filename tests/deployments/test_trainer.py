from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from core.errors import Conflict, NotFound
from core.settings import AppSettings, StoreSettings, TrainingSettings
from core.specs import Box, Face
from core.training import Adapter, AdapterFormat, ImportSpec, Job, JobStatus
from deployments import trainer as trainers
from deployments.perception import perception_app
from deployments.trainer import Trainer, Unhealthy, ray_tasks, trainer_app
from tests.deployments.training.threads import ThreadRuns
from tests.deployments.training.workshop import Shelves, SmallPainter, png, shelves_in, spec_of
from tests.fakes import FakePerception, FakePerceptionHandle

FACE = Face(box=Box(left=40, top=40, width=80, height=80), score=0.9)
PHOTOS = (png(colour=(200, 30, 90)), png(colour=(20, 130, 90)), png(colour=(20, 30, 190)))


class PainterHandle:
    """A Serve handle of a text-to-image pipeline."""

    def __init__(self, painter: SmallPainter) -> None:
        self.painter = painter

    def options(self, *, stream: bool) -> PainterHandle:
        assert stream
        return self

    @property
    def generate(self) -> PainterHandle:
        return self

    def remote(self, spec: Any) -> PaintingStream:
        return PaintingStream(self.painter(spec))


class PaintingStream:
    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._events

    def cancel(self) -> None:
        pass


class ForgettingHandle:
    """A Serve handle that broadcasts to two replicas, or finds none."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.forgotten: list[str] = []

    def broadcast(self, method: str, adapter_id: str) -> ForgettingHandle:
        assert method == "forget_adapter"
        self.forgotten.append(adapter_id)
        return self

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        if not self.there:
            raise DeploymentUnavailableError(DeploymentID(name="Denoiser"))
        assert return_exceptions
        return [None, RuntimeError("one replica is ill")]


class Bench:
    """A Trainer in this process, on a store in a folder."""

    def __init__(self, folder: Path, runs: ThreadRuns, shelves: Shelves) -> None:
        self.shelves, self.runs = shelves, runs
        self.settings = AppSettings(
            store=StoreSettings(
                database=f"sqlite:///{folder / 'limner.db'}", blobs=f"file://{folder / 'blobs'}"
            ),
            training=TrainingSettings(lease_s=3.0),
        )
        self.holders = [ForgettingHandle(), ForgettingHandle(there=False)]
        self.painter = SmallPainter()
        perception: Any = FakePerceptionHandle(FakePerception(faces=[FACE]))
        painting: Any = PainterHandle(self.painter)
        holders: Any = self.holders
        self.trainer = Trainer(self.settings, perception, painting, holders, lambda settings: runs)

    async def ended(self, job: Job) -> Job:
        return await self.until(job, lambda seen: seen.status.final)

    async def until(self, job: Job, condition: Callable[[Job], bool]) -> Job:
        while not condition(seen := self.shelves.jobs.get(job.job_id, job.user_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return seen


@contextlib.asynccontextmanager
async def bench(folder: Path, **how: Any) -> AsyncGenerator[Bench, None]:
    shelves = shelves_in(folder)
    runs = ThreadRuns(shelves, **how)
    before = asyncio.all_tasks()
    opened = Bench(folder, runs, shelves)
    try:
        yield opened
    finally:
        runs.door.set()
        opened.trainer.close()
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
        shelves.engine.dispose()


async def test_photos_become_an_adapter(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        job = await it.trainer.submit(spec_of(PHOTOS[:2] + PHOTOS[:1], num_class_pictures=2))
        assert job.status is JobStatus.QUEUED
        assert job.warnings == ("Photos 1 and 3 are the same picture; different ones teach more.",)
        await it.trainer.check_health()
        assert (await it.ended(job)).status is JobStatus.SUCCEEDED
        adapter = it.shelves.adapters.get(job.adapter_id, "ada")
        assert await it.trainer.export(adapter, AdapterFormat.PEFT)
        assert [spec.num_images for spec in it.painter.specs] == [2]


async def test_one_training_at_a_time(tmp_path: Path) -> None:
    async with bench(tmp_path, closed_at=1) as it:
        job = await it.trainer.submit(spec_of(PHOTOS))
        with pytest.raises(Conflict) as caught:
            await it.trainer.submit(spec_of(PHOTOS))
        assert caught.value.limit == job.job_id
        assert len(it.shelves.blobs.keys("jobs")) == 3


async def test_a_cancel_reaches_the_training(tmp_path: Path) -> None:
    async with bench(tmp_path, closed_at=4) as it:
        job = await it.trainer.submit(spec_of(PHOTOS))
        await asyncio.to_thread(it.runs.reached.wait)
        assert (await it.trainer.cancel(job.job_id, "ada")).cancel_requested
        it.runs.door.set()
        ended = await it.ended(job)
        assert (ended.status, ended.progress.step) == (JobStatus.CANCELED, 4)
        with pytest.raises(NotFound):
            await it.trainer.cancel(job.job_id, "bob")


async def test_a_deleted_adapter_is_forgotten_everywhere(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        job = await it.ended(await it.trainer.submit(spec_of(PHOTOS, keep_photos=True)))
        with pytest.raises(NotFound):
            await it.trainer.delete_adapter(job.adapter_id, "bob")
        assert it.holders[0].forgotten == []
        await it.trainer.delete_adapter(job.adapter_id, "ada")
        assert [handle.forgotten for handle in it.holders] == [[job.adapter_id]] * 2
        assert it.shelves.blobs.keys("jobs") == it.shelves.blobs.keys("adapters") == []
        with pytest.raises(NotFound):
            await it.trainer.delete_adapter(job.adapter_id, "ada")


async def test_deleting_cancels_the_training_first(tmp_path: Path) -> None:
    async with bench(tmp_path, closed_at=3) as it:
        job = await it.trainer.submit(spec_of(PHOTOS))
        await asyncio.to_thread(it.runs.reached.wait)
        deleting = asyncio.create_task(it.trainer.delete_adapter(job.adapter_id, "ada"))
        await it.until(job, lambda seen: seen.cancel_requested)
        it.runs.door.set()
        await deleting
        assert it.shelves.jobs.list("ada") == []
        assert it.shelves.blobs.keys("jobs") == []


async def test_a_training_that_does_not_stop_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "_STOP_S", 0.0)
    async with bench(tmp_path, closed_at=3) as it:
        job = await it.trainer.submit(spec_of(PHOTOS))
        await asyncio.to_thread(it.runs.reached.wait)
        with pytest.raises(Conflict) as caught:
            await it.trainer.delete_adapter(job.adapter_id, "ada")
        assert caught.value.limit == job.job_id


async def test_files_are_brought_and_taken(tmp_path: Path) -> None:
    import torch

    from weights.adapters import AdapterWeights, LoraLayer, read_adapter, write_kohya

    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = AdapterWeights({path: LoraLayer(torch.ones(4, 192), torch.ones(192, 4), 2.0)}, {})
    brought = ImportSpec(
        request_id="r",
        user_id="ada",
        model_id="mini",
        name="Robbie",
        subject="robot",
        trigger="sks",
        file=write_kohya(weights),
    )
    async with bench(tmp_path) as it:
        adapter: Adapter = await it.trainer.import_adapter(brought)
        assert it.shelves.adapters.list("ada") == [adapter]
        taken = await it.trainer.export(adapter, AdapterFormat.KOHYA)
        assert torch.equal(read_adapter(taken).unet[path].up, torch.ones(192, 4))


async def test_jobs_outlive_their_trainer(tmp_path: Path) -> None:
    async with bench(tmp_path, closed_at=5) as first:
        job = await first.trainer.submit(spec_of(PHOTOS))
        await asyncio.to_thread(first.runs.reached.wait)
        first.trainer.close()
        async with bench(tmp_path) as second:
            assert (await second.ended(job)).status is JobStatus.SUCCEEDED


async def test_a_trainer_whose_loop_has_ended_is_ill(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.trainer.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Unhealthy):
            await it.trainer.check_health()


def test_the_deployment_follows_its_settings() -> None:
    settings = AppSettings(training=TrainingSettings(max_ongoing_requests=7), use_gpu=True)
    other = perception_app(settings)
    deployment = trainer_app(settings, other, other, [other])._bound_deployment
    assert (deployment.name, deployment.num_replicas, deployment.max_ongoing_requests) == ("Trainer", 1, 7)
    assert "num_gpus" not in (deployment.ray_actor_options or {})


@pytest.mark.parametrize(("use_gpu", "num_gpus"), [(True, 0.5), (False, 0)])
def test_tasks_ask_for_what_the_settings_say(use_gpu: bool, num_gpus: float) -> None:
    own = TrainingSettings(num_gpus=0.5, label_selector={"role": "train"}, max_retries=2)
    options = ray_tasks(AppSettings(training=own, use_gpu=use_gpu)).options
    assert (options["num_gpus"], options["max_retries"]) == (num_gpus, 2)
    assert options["label_selector"] == {"role": "train"}


def test_no_torch_is_needed() -> None:
    code = "import sys, deployments.trainer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
