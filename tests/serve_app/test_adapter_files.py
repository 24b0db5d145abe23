"""Files of adapters over HTTP: two layouts, caching, sample pictures, imports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.settings import RequestLimits, RouterSettings
from core.training import ImportSpec
from store import keys
from tests.serve_app.fakes import Service
from tests.serve_app.small_trainer import ADAPTER, FILE, SAMPLE
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import as_user, bring, train

ADDRESS = "/v1/adapters/adp_1/file"


def with_adapter(folder: Path, **members: Any) -> Service:
    service = Service(folder=folder)
    service.trainer.store.adapters.add(replace(ADAPTER, **members))
    service.trainer.store.blobs.write(keys.adapter_file("adp_1"), FILE)
    return service


async def test_the_file_is_peft_s_unless_told_otherwise(tmp_path: Path) -> None:
    service = with_adapter(tmp_path)
    for address in (ADDRESS, f"{ADDRESS}?format=peft"):
        answer = await service.client.get(address)
        assert answer.content == FILE
        assert answer.headers["etag"] == f'"{ADAPTER.sha256}"'
        assert answer.headers["content-disposition"] == 'attachment; filename="anton.safetensors"'
    assert service.trainer.exported == []


async def test_kohya_s_layout_is_the_trainer_s_to_write(tmp_path: Path) -> None:
    answer = await with_adapter(tmp_path).client.get(f"{ADDRESS}?format=kohya")
    assert answer.content == FILE + b"kohya"
    assert answer.headers["etag"] == f'"{ADAPTER.sha256}-kohya"'
    assert answer.headers["content-disposition"] == 'attachment; filename="anton-kohya.safetensors"'


async def test_other_layouts_are_refused(tmp_path: Path) -> None:
    answer = await with_adapter(tmp_path).client.get(f"{ADDRESS}?format=onnx")
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("format", ["peft", "kohya"])


@pytest.mark.parametrize("tags", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
async def test_a_known_file_is_not_sent_again(tags: str, tmp_path: Path) -> None:
    service = with_adapter(tmp_path)
    for layout, tag in (("peft", ADAPTER.sha256), ("kohya", f"{ADAPTER.sha256}-kohya")):
        headers = {"If-None-Match": tags.format(tag)}
        answer = await service.client.get(f"{ADDRESS}?format={layout}", headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")
    assert service.trainer.exported == []
    changed = await service.client.get(ADDRESS, headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    ("name", "file_name"),
    [("Anton & Berta", "anton-berta"), ('a"; b\r\nX: y', "a-b-x-y"), ("山田", "adp_1"), ("x" * 90, "x" * 60)],
)
async def test_names_make_safe_file_names(name: str, file_name: str, tmp_path: Path) -> None:
    answer = await with_adapter(tmp_path, name=name).client.get(ADDRESS)
    assert answer.headers["content-disposition"] == f'attachment; filename="{file_name}.safetensors"'


async def test_a_file_that_is_gone_is_not_found(tmp_path: Path) -> None:
    service = with_adapter(tmp_path)
    service.trainer.store.blobs.delete(keys.adapter_file("adp_1"))
    assert_problem(await service.client.get(ADDRESS), 404, "not_found")


async def test_samples_are_shown_while_the_training_goes_on(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    await train(service, user="anna")
    job = service.trainer.start()
    address = f"/v1/adapters/{job.adapter_id}/samples/1"
    during = await service.client.get(address, headers=as_user("anna"))
    assert (during.content, during.headers["content-type"]) == (SAMPLE, "image/png")
    assert_problem(await service.client.get(address), 404, "not_found")
    service.trainer.finish(job)
    after = await service.client.get(address, headers=as_user("anna"))
    assert after.content == SAMPLE
    missing = f"/v1/adapters/{job.adapter_id}/samples/2"
    assert_problem(await service.client.get(missing, headers=as_user("anna")), 404, "not_found")


async def test_a_file_may_be_brought_along(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    answer = await bring(service, user="anna", name="Berta", subject="robot", model="photo")
    assert answer.status_code == 201
    entry = answer.json()
    assert answer.headers["location"] == entry["links"]["self"]
    assert (entry["origin"], entry["model"], entry["prompt_words"]) == ("imported", "photo", "ohwx robot")
    (spec,) = service.trainer.specs
    assert isinstance(spec, ImportSpec)
    assert (spec.file, spec.user_id) == (FILE, "anna")
    again = await service.client.get(entry["links"]["peft"], headers=as_user("anna"))
    assert again.content == FILE


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"file": None}, "file", None),
        ({"file": b"pickled"}, "file", "safetensors"),
        ({"file": b""}, "file", "safetensors"),
        ({"file": (2**62).to_bytes(8, "little") + b"{}"}, "file", "safetensors"),
        ({"file": "text"}, "file", None),
        ({"file": FILE + bytes(3_000)}, "file", 2_000),
        ({"trigger": None}, "trigger", None),
        ({"consent": False}, "consent", True),
        ({"consent": None}, "consent", None),
        ({"model": "dall-e"}, "model", ["mini", "photo"]),
        ({"rank": 8}, "rank", None),
    ],
)
async def test_a_bad_import_is_refused(
    members: dict[str, Any], field: str, limit: Any, tmp_path: Path
) -> None:
    limits = RequestLimits(max_adapter_bytes=2_000)
    service = Service(folder=tmp_path, settings=RouterSettings(limits=limits))
    body = assert_problem(await bring(service, **members), 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)
    assert service.trainer.store.adapters.count("local") == 0


async def test_one_file_at_a_time(tmp_path: Path) -> None:
    files = [("file", ("a", FILE)), ("file", ("b", FILE))]
    answer = await Service(folder=tmp_path).client.post("/v1/adapters/import", files=files)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("file", 1)


async def test_a_full_disk_imports_nothing(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    service.trainer.room_bytes = 3
    assert_problem(await bring(service), 507, "insufficient_storage")
    assert service.trainer.store.adapters.count("local") == 0
