"""Adapters over HTTP: trained, listed, looked at, removed, and nobody else's business."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.settings import RequestLimits, RouterSettings
from core.training import TrainingSpec
from core.training_defaults import defaults_for
from store import keys
from tests.serve_app.edits import MASK, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.small_trainer import ADAPTER
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import as_user, train, without_instance


def spec_of(service: Service) -> TrainingSpec:
    spec = service.trainer.specs[-1]
    assert isinstance(spec, TrainingSpec)
    return spec


async def test_a_training_is_answered_with_its_job(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    answer = await train(service, user="anna", trigger="Zvokip", name=" Anton ", seed=7, num_steps=90)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["progress"]) == ("queued", {"step": 0, "num_steps": 90, "loss": None})
    assert 80 < job["predicted_finish_s"] <= 90
    assert job["warnings"] == ["Photos 1 and 2 are the same."]
    told = {name: job[name] for name in ("name", "model", "subject", "trigger", "num_photos", "keep_photos")}
    assert list(told.values()) == ["Anton", "mini", "man", "Zvokip", 3, False]
    assert job["options"]["seed"] == 7
    kept = service.trainer.store.jobs.get(job["id"], "anna")
    assert kept.adapter_id == job["adapter_id"]


async def test_what_is_left_out_is_the_family_s(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    await train(service)
    spec = spec_of(service)
    assert spec.photos == (PHOTO, MASK, PHOTO)
    assert (spec.user_id, spec.model_id) == ("local", "mini")
    assert replace(spec.options, seed=0) == defaults_for("mini")
    await train(service, user="anna", model="photo")
    assert replace(spec_of(service).options, seed=0) == defaults_for("sd15")


async def test_every_option_reaches_the_trainer(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    options: dict[str, Any] = {
        "num_steps": 120,
        "rank": 8,
        "alpha": 4.5,
        "learning_rate": 5e-4,
        "batch_size": 3,
        "gradient_accumulation": 2,
        "train_text_encoder": True,
        "prior_weight": 0.5,
        "num_class_pictures": 0,
        "seed": 4_000_000_000,
        "flip": True,
        "sample_every": 40,
    }
    answer = await train(service, keep_photos=True, **options)
    spec = spec_of(service)
    assert spec.options == replace(defaults_for("mini"), **options)
    assert spec.keep_photos
    assert {name: answer.json()["options"][name] for name in options} == options


async def test_alpha_follows_the_rank(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    await train(service, rank=64)
    assert (spec_of(service).options.rank, spec_of(service).options.alpha) == (64, 64.0)


async def test_a_chosen_trigger_differs_from_the_member_s_others(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    await train(service)
    first = spec_of(service).trigger
    service.trainer.finish(service.trainer.start())
    await train(service)
    assert len({first, spec_of(service).trigger}) == 2


async def test_adapters_are_listed_newest_first_with_their_addresses(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    newer = replace(ADAPTER, adapter_id="adp_2", created_at=ADAPTER.created_at + timedelta(hours=1))
    for adapter in (ADAPTER, newer, replace(ADAPTER, adapter_id="adp_3", user_id="anna")):
        service.trainer.store.adapters.add(adapter)
    listed = (await service.client.get("/v1/adapters")).json()["data"]
    assert [entry["id"] for entry in listed] == ["adp_2", "adp_1"]
    assert listed[1]["prompt_words"] == "zvokip man"
    assert listed[1]["samples"] == ["/v1/adapters/adp_1/samples/1", "/v1/adapters/adp_1/samples/2"]
    assert listed[1]["links"]["kohya"] == "/v1/adapters/adp_1/file?format=kohya"
    assert (await service.client.get(listed[1]["links"]["self"])).json() == listed[1]
    few = await service.client.get("/v1/adapters", params={"limit": 1})
    assert few.json()["data"] == listed[:1]
    answer = await service.client.get("/v1/adapters", params={"limit": 0})
    assert assert_problem(answer, 422, "invalid_request")["field"] == "limit"


async def test_an_adapter_in_training_is_not_there_yet(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    job = (await train(service)).json()
    answer = await service.client.get(f"/v1/adapters/{job['adapter_id']}")
    assert job["links"]["self"] in assert_problem(answer, 409, "conflict")["detail"]
    service.trainer.finish(service.trainer.start())
    done = (await service.client.get(job["links"]["self"])).json()
    assert (await service.client.get(done["links"]["adapter"])).json()["id"] == job["adapter_id"]


async def test_removing_leaves_nothing(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    await train(service)
    adapter = service.trainer.finish(service.trainer.start())
    address = f"/v1/adapters/{adapter.adapter_id}"
    answer = await service.client.delete(address)
    assert (answer.status_code, answer.content) == (204, b"")
    assert service.trainer.store.blobs.keys(keys.adapter_folder(adapter.adapter_id)) == []
    assert (await service.client.get(address)).status_code == 404
    assert (await service.client.delete(address)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/file"), ("GET", "/file?format=kohya"), ("GET", "/samples/1")],
)
async def test_another_s_adapter_is_as_if_it_had_never_been(method: str, path: str, tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    address = f"/v1/adapters/adp_1{path}"
    before = await service.client.request(method, address, headers=as_user("bert"))
    service.trainer.store.adapters.add(replace(ADAPTER, user_id="anna"))
    service.trainer.store.blobs.write(keys.sample("adp_1", 1), b"picture")
    after = await service.client.request(method, address, headers=as_user("bert"))
    assert before.status_code == after.status_code == 404
    assert without_instance(before) == without_instance(after)
    assert (await service.client.get("/v1/adapters", headers=as_user("bert"))).json()["data"] == []
    assert service.trainer.store.adapters.count("anna") == 1


@pytest.mark.parametrize("adapter_id", ["%00", "a%20b", "x" * 300, "%ED%A0%80", "%F0%9F%98%80", "..%2Fx"])
async def test_what_can_be_no_id_is_not_found(adapter_id: str, tmp_path: Path) -> None:
    for method in ("GET", "DELETE"):
        answer = await Service(folder=tmp_path).client.request(method, f"/v1/adapters/{adapter_id}")
        assert_problem(answer, 404, "not_found")


async def test_a_member_may_have_so_many(tmp_path: Path) -> None:
    limits = RequestLimits(max_adapters_per_member=1)
    service = Service(folder=tmp_path, settings=RouterSettings(limits=limits))
    service.trainer.store.adapters.add(ADAPTER)
    body = assert_problem(await train(service), 409, "conflict")
    assert (body["field"], body["limit"]) == ("adapters", 1)
    assert service.trainer.specs == []
    assert (await train(service, user="anna")).status_code == 202
