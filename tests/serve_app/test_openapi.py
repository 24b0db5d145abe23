"""The OpenAPI document says all that the service does, and its page needs nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.settings import RequestLimits, RouterSettings
from serve_app.examples import ADAPTER_ID, REQUESTS
from tests.serve_app.edits import DRAWING, EITHER_WAY, EVERY_ROUTE, MASK, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.small_trainer import ADAPTER

METHODS = {"get", "post", "delete"}
# One for many questions: its document takes a while.
SERVICE = Service()


async def document_of(service: Service) -> dict[str, Any]:
    answer = await service.client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    return set().union(*(references(child) for child in node)) if isinstance(node, list) else set()


def problems_of(response: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = response["content"]["application/problem+json"]["examples"]
    return found


async def test_every_reference_resolves() -> None:
    document = await document_of(Service())
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


async def test_every_operation_is_described() -> None:
    document = await document_of(Service())
    tags = {tag["name"] for tag in document["tags"]}
    operations = [path[method] for path in document["paths"].values() for method in METHODS & set(path)]
    assert len({operation["operationId"] for operation in operations}) == len(operations) >= 9
    for operation in operations:
        assert operation["summary"]
        assert set(operation["tags"]) <= tags


async def test_all_answers_of_text_to_image_are_described() -> None:
    responses = (await document_of(Service()))["paths"]["/v1/text-to-image"]["post"]["responses"]
    assert set(responses) == {
        *("200", "400", "404", "406", "409", "413", "415", "422", "499", "500", "503", "504")
    }
    assert set(responses["200"]["content"]) == {
        "application/json",
        "image/png",
        "image/jpeg",
        "image/webp",
        "text/event-stream",
    }
    for status, response in responses.items():
        if status != "200":
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert all(example["value"]["status"] == int(status) for example in content["examples"].values())
    assert set(problems_of(responses["503"])) >= {"queue_full"}
    assert "Retry-After" in responses["503"]["headers"]


@pytest.mark.parametrize("noun", DRAWING)
async def test_routes_that_take_pictures_answer_like_text_to_image(noun: str) -> None:
    paths = (await document_of(SERVICE))["paths"]
    responses = paths[f"/v1/{noun}"]["post"]["responses"]
    assert set(responses) == set(paths["/v1/text-to-image"]["post"]["responses"])
    assert set(problems_of(responses["409"])) == {"conflict", "missing_part"}
    assert "moderation_blocked" in problems_of(responses["400"])
    schema = responses["200"]["content"]["application/json"]["schema"]["$ref"]
    assert schema.endswith("Response")


async def test_masks_are_answered_in_json_or_as_files() -> None:
    responses = (await document_of(SERVICE))["paths"]["/v1/mask"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {"application/json", "image/png"}
    assert "Limner-Mask-Coverage" in responses["200"]["headers"]


@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_pictures_may_come_in_json_or_in_a_form(noun: str) -> None:
    document = await document_of(SERVICE)
    content = document["paths"][f"/v1/{noun}"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    in_json, in_form = (
        document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        for body in content.values()
    )
    assert in_json["properties"]["image"]["contentEncoding"] == "base64"
    assert in_form["properties"]["image"]["format"] == "binary"
    assert set(in_json["properties"]) == set(in_form["properties"])
    assert "image" in in_json["required"]
    assert in_json["additionalProperties"] is False
    assert all(member.get("description") for member in in_json["properties"].values())


@pytest.mark.parametrize("noun", EVERY_ROUTE)
@pytest.mark.parametrize("form", EITHER_WAY)
async def test_the_examples_with_pictures_work(noun: str, form: bool) -> None:
    content = (await document_of(SERVICE))["paths"][f"/v1/{noun}"]["post"]["requestBody"]["content"]
    for example in content["multipart/form-data" if form else "application/json"]["examples"].values():
        members = example["value"]
        for name, picture in (("image", PHOTO), ("mask", MASK)):
            if name in members:
                members[name] = picture
        answer = await SERVICE.edit(noun, form=form, **members)
        assert answer.status_code == 200, answer.text


async def test_the_limits_are_the_installation_s() -> None:
    limits = RequestLimits(max_images=3, max_num_inference_steps=42, max_prompt_chars=99)
    document = await document_of(Service(settings=RouterSettings(limits=limits)))
    members = document["components"]["schemas"]["TextToImageRequest"]["properties"]
    assert members["n"]["maximum"] == 3
    assert members["num_inference_steps"]["anyOf"][0]["maximum"] == 42
    assert members["prompt"]["maxLength"] == 99
    swapping = document["components"]["schemas"]["GenderSwapForm"]["properties"]
    assert (swapping["num_inference_steps"]["maximum"], swapping["n"]["maximum"]) == (42, 3)
    assert all(member.get("description") for member in members.values())


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_examples_work(name: str, tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    service.trainer.store.adapters.add(replace(ADAPTER, adapter_id=ADAPTER_ID))
    answer = await service.client.post("/v1/text-to-image", json=REQUESTS[name]["value"])
    assert answer.status_code == 200


async def test_problems_are_as_documented() -> None:
    service = Service()
    schema = (await document_of(service))["components"]["schemas"]["Problem"]
    problem = (await service.draw(n=0)).json()
    assert set(problem) == set(schema["properties"])


async def test_the_page_loads_from_this_machine_only() -> None:
    client = Service().client
    page = (await client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert link.startswith("/docs/assets/")
        assert (await client.get(link)).status_code == 200
