from __future__ import annotations

import hashlib
import traceback
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from core.errors import BrokenAdapter, Conflict, InsufficientStorage, InvalidRequest, NotFound
from core.settings import TrainingSettings
from core.training import AdapterFormat, ImportSpec, JobStatus
from deployments.training.desk import Desk
from deployments.training.work import carry_out
from store import keys
from store.blobs import Blobs
from tests.deployments.training.workshop import OWNER, Shelves, claimed, order_for, spec_of, train
from weights.adapters import AdapterWeights, LoraLayer, read_adapter, write_kohya, write_peft

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FILES = [b"one", b"two", b"three"]


def desk_of(shelves: Shelves, blobs: Blobs | None = None, **settings: int) -> Desk:
    own = TrainingSettings(**settings)
    return Desk(shelves.engine, shelves.jobs, shelves.adapters, blobs or shelves.blobs, own, 2, "cpu")


@pytest.fixture
def desk(shelves: Shelves) -> Desk:
    return desk_of(shelves)


def weights(width: int = 192) -> AdapterWeights:
    generator = torch.Generator().manual_seed(3)
    down = torch.randn(4, width, generator=generator)
    up = torch.randn(width, 4, generator=generator)
    return AdapterWeights({LAYER: LoraLayer(down, up, 2.0)}, {}, {"limner.steps": "70"})


def imports(file: bytes, user_id: str = "ada") -> ImportSpec:
    return ImportSpec(
        request_id=uuid.uuid4().hex,
        user_id=user_id,
        model_id="mini",
        name="Robbie",
        subject="robot",
        trigger="sks",
        file=file,
    )


class FullAfter(Blobs):
    """A disk with room for ``num`` files more."""

    def __init__(self, url: str, num: int) -> None:
        super().__init__(url)
        self._num = num

    def write(self, key: str, data: bytes) -> None:
        if not self._num:
            raise InsufficientStorage("The store has no room left for a file.")
        self._num -= 1
        super().write(key, data)


def test_a_training_is_queued_with_its_photos(shelves: Shelves, desk: Desk) -> None:
    job = desk.queue(spec_of(), FILES, ["Photo 1 is blurred."])
    assert (job.status, job.num_photos, job.warnings) == (JobStatus.QUEUED, 3, ("Photo 1 is blurred.",))
    assert job.predicted_finish_at is not None
    assert job.predicted_finish_at > datetime.now(UTC)
    assert [shelves.blobs.read(key) for key in shelves.blobs.keys(keys.photos(job.job_id))] == FILES


def test_a_job_behind_another_is_done_later(desk: Desk) -> None:
    first = desk.queue(spec_of(num_steps=1_000), FILES, [])
    second = desk.queue(spec_of(user_id="bob"), FILES, [])
    assert first.predicted_finish_at is not None
    assert second.predicted_finish_at is not None
    assert second.predicted_finish_at > first.predicted_finish_at


def test_a_second_training_leaves_nothing_behind(shelves: Shelves, desk: Desk) -> None:
    job = desk.queue(spec_of(), FILES, [])
    with pytest.raises(Conflict) as caught:
        desk.queue(spec_of(), FILES, [])
    assert caught.value.limit == job.job_id
    # Serve logs what a replica raises, with all that led to it.
    assert "Ada" not in "".join(traceback.format_exception(caught.value))
    assert len(shelves.blobs.keys("jobs")) == 3


def test_a_full_disk_leaves_nothing_behind(shelves: Shelves, tmp_path: Path) -> None:
    full = desk_of(shelves, FullAfter(f"file://{tmp_path / 'blobs'}", 2))
    with pytest.raises(InsufficientStorage):
        full.queue(spec_of(), FILES, [])
    full = desk_of(shelves, FullAfter(f"file://{tmp_path / 'blobs'}", 0))
    with pytest.raises(InsufficientStorage):
        full.bring(imports(write_peft(weights())))
    assert not shelves.blobs.keys("jobs") + shelves.blobs.keys("adapters")
    assert not shelves.jobs.list("ada")
    assert shelves.adapters.count("ada") == 0


@pytest.mark.parametrize("write", [write_peft, write_kohya])
def test_an_imported_file_comes_back_exactly(desk: Desk, write: object) -> None:
    assert callable(write)
    adapter = desk.bring(imports(write(weights())))
    assert (adapter.rank, adapter.alpha, adapter.origin, adapter.has_text_encoder) == (
        4,
        2.0,
        "imported",
        False,
    )
    file = desk.take(adapter, AdapterFormat.PEFT)
    assert (hashlib.sha256(file).hexdigest(), len(file)) == (adapter.sha256, adapter.num_bytes)
    for layout in AdapterFormat:
        read = read_adapter(desk.take(adapter, layout))
        assert read.metadata["limner.trigger"] == "sks"
        (layer,) = read.unet.values()
        assert torch.equal(layer.down, weights().unet[LAYER].down)
        assert torch.equal(layer.up, weights().unet[LAYER].up)
        assert layer.alpha == 2.0


@pytest.mark.parametrize("file", [b"no adapter", write_peft(weights(320))])
def test_files_that_do_not_fit_are_refused(shelves: Shelves, desk: Desk, file: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.bring(imports(file))
    assert caught.value.field == "file"
    assert shelves.blobs.keys("adapters") == []


def test_a_request_that_comes_again_is_answered_as_before(shelves: Shelves, desk: Desk) -> None:
    spec, brought = spec_of(), imports(write_peft(weights()))
    assert desk.queue(spec, FILES, []) == desk.queue(spec, FILES, [])
    assert desk.bring(brought) == desk.bring(brought)
    assert len(shelves.blobs.keys("jobs")) == 3
    assert shelves.adapters.count("ada") == 1


def test_a_file_that_was_changed_is_not_handed_out(shelves: Shelves, desk: Desk) -> None:
    adapter = desk.bring(imports(write_peft(weights())))
    shelves.blobs.write(keys.adapter_file(adapter.adapter_id), b"another")
    with pytest.raises(BrokenAdapter):
        desk.take(adapter, AdapterFormat.PEFT)


def test_a_member_has_so_many_adapters_and_no_more(desk: Desk) -> None:
    file = write_peft(weights())
    desk.bring(imports(file))
    desk.bring(imports(file))
    with pytest.raises(Conflict):
        desk.bring(imports(file))
    with pytest.raises(Conflict):
        desk.queue(spec_of(), FILES, [])
    desk.bring(imports(file, "bob"))


def test_a_queued_job_is_canceled_with_its_photos(shelves: Shelves, desk: Desk) -> None:
    job = desk.queue(spec_of(), FILES, [])
    with pytest.raises(NotFound):
        desk.cancel(job.job_id, "bob")
    assert desk.cancel(job.job_id, "ada").status is JobStatus.CANCELED
    assert shelves.blobs.keys("jobs") == []
    assert desk.cancel(job.job_id, "ada").status is JobStatus.CANCELED


def test_an_adapter_goes_with_all_that_is_kept_of_it(shelves: Shelves, desk: Desk) -> None:
    job, order = claimed(shelves, spec_of(keep_photos=True))
    carry_out(order, shelves.jobs, shelves.blobs, train)
    with pytest.raises(NotFound):
        desk.remove(job.adapter_id, "bob")
    assert len(shelves.blobs.keys("adapters")) == 3
    assert desk.cancel_training_of(job.adapter_id, "ada") is None
    desk.remove(job.adapter_id, "ada")
    assert not shelves.blobs.keys("jobs") + shelves.blobs.keys("adapters")
    assert not shelves.jobs.list("ada")
    with pytest.raises(NotFound):
        desk.remove(job.adapter_id, "ada")


def test_an_adapter_in_training_is_not_removed_before_that_ends(shelves: Shelves, desk: Desk) -> None:
    job, order = claimed(shelves)
    shelves.jobs.start(job.job_id, OWNER)
    asked = desk.cancel_training_of(job.adapter_id, "ada")
    assert asked is not None
    assert asked.cancel_requested
    with pytest.raises(Conflict):
        desk.remove(job.adapter_id, "ada")
    assert len(shelves.blobs.keys("jobs")) == 3
    carry_out(order_for(job, order.spec), shelves.jobs, shelves.blobs, train)
    desk.remove(job.adapter_id, "ada")
    assert shelves.jobs.list("ada") == []


def test_an_imported_adapter_is_removed(shelves: Shelves, desk: Desk) -> None:
    adapter = desk.bring(imports(write_peft(weights())))
    desk.remove(adapter.adapter_id, "ada")
    assert shelves.blobs.keys("adapters") == []
    assert desk.cancel_training_of("adp_unknown", "ada") is None
