"""Pictures drawn with members' adapters: resolved, reported, and refused where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.specs import AdapterUse
from tests.serve_app.edits import DRAWING, EITHER_WAY, GOOD, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.small_trainer import ADAPTER
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import as_user, train

ONE = {"id": "adp_1", "weight": 0.8}
USED = AdapterUse(
    adapter_id="adp_1",
    weight=0.8,
    sha256=ADAPTER.sha256,
    subject_words="zvokip man",
    has_text_encoder=True,
)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Where the local member has the adapters ``adp_1`` to ``adp_5``, and ``adp_photo`` for another model."""
    service = Service(folder=tmp_path)
    for number in range(1, 6):
        service.trainer.store.adapters.add(replace(ADAPTER, adapter_id=f"adp_{number}"))
    service.trainer.store.adapters.add(replace(ADAPTER, adapter_id="adp_photo", model_id="photo"))
    return service


async def test_requests_without_adapters_ask_no_store() -> None:
    answer = await Service().draw(adapters=[])
    assert answer.status_code == 200
    assert "adapters" not in answer.json()["parameters"]


@pytest.mark.parametrize("form", EITHER_WAY)
@pytest.mark.parametrize("noun", DRAWING)
async def test_every_route_draws_with_adapters(noun: str, form: bool, service: Service) -> None:
    answer = await service.edit(noun, form=form, **GOOD[noun], adapters=[ONE, {"id": "adp_2"}])
    assert answer.status_code == 200, answer.text
    spec = service.pipeline.specs[0]
    assert spec.adapters == (USED, replace(USED, adapter_id="adp_2", weight=1.0))
    assert spec.parameters["Adapters"] == '"adp_1: 0.8, adp_2: 1"'
    assert answer.json()["parameters"]["adapters"] == [ONE, {"id": "adp_2", "weight": 1.0}]


async def test_what_is_reported_draws_the_same_again(service: Service) -> None:
    first = (await service.draw(adapters=[ONE])).json()["parameters"]
    again = (await service.draw(**first)).json()["parameters"]
    assert first == again
    one, two = service.pipeline.specs
    assert one.adapters == two.adapters == (USED,)


@pytest.mark.parametrize(
    ("adapters", "field", "limit"),
    [
        ([{"id": f"adp_{number}"} for number in range(1, 6)], "adapters", 4),
        ([ONE, ONE], "adapters", 1),
        ([{"id": "adp_1", "weight": 2.1}], "adapters.0.weight", 2.0),
        ([ONE, {"id": "adp_2", "weight": -2.1}], "adapters.1.weight", -2.0),
        ([{"weight": 1}], "adapters.0.id", None),
        ([{"id": 1}], "adapters.0.id", None),
        ([{"id": "x" * 101}], "adapters.0.id", 100),
        ([{"id": "\ud800"}], "adapters.0.id", None),
        (["adp_1"], "adapters.0", None),
        ([{"id": "adp_1", "scale": 1}], "adapters.0.scale", None),
        ({"id": "adp_1"}, "adapters", None),
        ("adp_1", "adapters", None),
    ],
)
async def test_bad_adapters_are_named(adapters: Any, field: str, limit: Any, service: Service) -> None:
    content = json.dumps({"prompt": "a man", "adapters": adapters}).encode()
    body = assert_problem(await service.post(content), 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)
    assert service.pipeline.specs == []


@pytest.mark.parametrize("adapter_id", ["adp_9", "a b", "~9", "é", "../adp_1"])
async def test_an_unknown_adapter_is_named(adapter_id: str, service: Service) -> None:
    answer = await service.draw(adapters=[ONE, {"id": adapter_id}])
    assert assert_problem(answer, 404, "not_found")["field"] == "adapters.1.id"


async def test_another_s_adapter_is_as_if_it_had_never_been(service: Service) -> None:
    body = {"prompt": "a man", "adapters": [ONE]}
    answer = await service.client.post("/v1/text-to-image", json=body, headers=as_user("anna"))
    assert assert_problem(answer, 404, "not_found")["field"] == "adapters.0.id"
    unknown = await service.draw(adapters=[{"id": "adp_9"}])
    assert answer.json()["detail"] == unknown.json()["detail"]
    assert service.pipeline.specs == []


async def test_an_adapter_of_another_model_is_refused(service: Service) -> None:
    body = assert_problem(await service.draw(adapters=[ONE, {"id": "adp_photo"}]), 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("adapters.1.id", "photo")
    assert "model photo" in body["detail"]
    assert "for mini" in body["detail"]
    assert (await service.draw(model="photo", adapters=[{"id": "adp_photo"}])).status_code == 200


async def test_an_adapter_in_training_is_not_there_yet(service: Service) -> None:
    job = (await train(service)).json()
    answer = await service.draw(adapters=[{"id": job["adapter_id"]}])
    body = assert_problem(answer, 409, "conflict")
    assert body["field"] == "adapters.0.id"
    assert job["id"] in body["detail"]
    await service.client.post(job["links"]["cancel"])
    assert (await service.draw(adapters=[{"id": job["adapter_id"]}])).status_code == 404


@pytest.mark.parametrize("text", ["", "[]"])
async def test_a_form_may_name_none(text: str) -> None:
    answer = await Service().edit("upscale", form=True, **GOOD["upscale"], adapters=text)
    assert answer.status_code == 200


@pytest.mark.parametrize("text", ["adp_1", "[", "{}", '[{"id": "adp_1"}] x', "[" * 100_000])
async def test_a_form_has_them_as_json(text: str, service: Service) -> None:
    answer = await service.edit("upscale", form=True, **GOOD["upscale"], adapters=text)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "adapters"


async def test_a_form_has_them_in_one_field(service: Service) -> None:
    parts: list[Any] = [("image", ("a", PHOTO)), ("scale", (None, "2")), *[("adapters", (None, "[]"))] * 2]
    answer = await service.client.post("/v1/upscale", files=parts)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "adapters"


VALUES = st.none() | st.booleans() | st.floats() | st.integers(-3, 3) | st.text(max_size=4)
NAMED = st.fixed_dictionaries(
    {"id": st.sampled_from(["adp_1", "adp_2", "adp_photo", "adp_9"]) | VALUES},
    optional={"weight": st.floats(-2, 2) | VALUES},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(adapters=st.lists(NAMED | VALUES, max_size=5) | VALUES)
async def test_no_value_is_a_500(adapters: Any, service: Service) -> None:
    answer = await service.post(json.dumps({"prompt": "a man", "adapters": adapters}).encode())
    assert answer.status_code in (200, 404, 422)
