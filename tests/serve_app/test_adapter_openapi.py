"""What the OpenAPI document says of adapters and jobs, and that its examples work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.settings import RequestLimits, RouterSettings
from serve_app.caller import USER_HEADER
from tests.serve_app.edits import PHOTO
from tests.serve_app.fakes import Service, as_parts
from tests.serve_app.small_trainer import FILE

# One for many questions: its document takes a while.
SERVICE = Service(settings=RouterSettings(limits=RequestLimits(max_training_steps=42)))
MAKERS = {"/v1/adapters": "TrainingForm", "/v1/adapters/import": "ImportForm"}


async def operations() -> dict[tuple[str, str], dict[str, Any]]:
    paths: dict[str, Any] = (await SERVICE.client.get("/openapi.json")).json()["paths"]
    return {(path, method): told for path, methods in paths.items() for method, told in methods.items()}


async def schema_of(name: str) -> dict[str, Any]:
    document = (await SERVICE.client.get("/openapi.json")).json()
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


async def test_every_route_of_a_member_s_own_takes_the_header() -> None:
    for (path, _), told in (await operations()).items():
        if set(told["tags"]) & {"adapters", "jobs", "generate", "edit"}:
            (header,) = [each for each in told["parameters"] if each["name"] == USER_HEADER]
            assert (header["in"], header["required"], header["schema"]["default"]) == (
                "header",
                False,
                "local",
            ), path
            assert "gateway" in header["description"]


async def test_what_is_made_is_answered_with_its_address() -> None:
    found = await operations()
    for path, status in (("/v1/adapters", "202"), ("/v1/adapters/import", "201")):
        responses = found[path, "post"]["responses"]
        assert "Location" in responses[status]["headers"]
        assert {"400", "408", "409", "413", "415", "422", "503", "507"} <= set(responses)


@pytest.mark.parametrize("name", MAKERS.values())
async def test_forms_are_described(name: str) -> None:
    schema = await schema_of(name)
    assert {"name", "subject", "consent"} <= set(schema["required"])
    assert schema["additionalProperties"] is False
    assert all(member.get("description") for member in schema["properties"].values())


async def test_photos_are_files_of_a_form() -> None:
    photos = (await schema_of("TrainingForm"))["properties"]["photos"]
    assert (photos["type"], photos["minItems"], photos["maxItems"]) == ("array", 3, 30)
    assert photos["items"] == {"type": "string", "format": "binary"}
    file = (await schema_of("ImportForm"))["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")


async def test_a_form_names_adapters_in_json_text() -> None:
    in_form, in_json = [
        (await schema_of(name))["properties"]["adapters"] for name in ("InpaintForm", "InpaintRequest")
    ]
    assert (in_form["type"], in_form["contentMediaType"]) == ("string", "application/json")
    assert in_form["contentSchema"] == in_json
    assert in_json["maxItems"] == 4


async def test_the_limits_are_the_installation_s() -> None:
    members = (await schema_of("TrainingForm"))["properties"]
    assert members["num_steps"]["anyOf"][0]["maximum"] == 42


@pytest.mark.parametrize("path", MAKERS)
async def test_the_examples_work(path: str, tmp_path: Path) -> None:
    content = (await operations())[path, "post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data"}
    for number, example in enumerate(content["multipart/form-data"]["examples"].values()):
        members = example["value"]
        if "photos" in members:
            members["photos"] = [PHOTO] * len(members["photos"])
        if "file" in members:
            members["file"] = FILE
        headers = {USER_HEADER: f"member-{number}"}
        answer = await Service(folder=tmp_path).client.post(path, files=as_parts(members), headers=headers)
        assert answer.status_code in (201, 202), answer.text
