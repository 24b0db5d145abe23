"""What holds for every route: ids, headers, unknown addresses, CORS, and the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import RouterSettings
from core.types import SamplerName
from tests.serve_app.fakes import Service


@pytest.mark.parametrize("sane", ["abc-123", "01J:a.b_c", "x" * 128])
async def test_a_sane_request_id_is_taken_over(sane: str) -> None:
    answer = await Service().client.get("/healthz", headers={"X-Request-ID": sane})
    assert answer.headers["x-request-id"] == sane


@pytest.mark.parametrize("insane", ["", "x" * 129, "a b", "<script>", "-x", "a\tb"])
async def test_an_insane_request_id_is_replaced(insane: str) -> None:
    answer = await Service().client.get("/healthz", headers={"X-Request-ID": insane})
    assert answer.headers["x-request-id"] not in ("", insane)


async def test_two_requests_with_one_request_id_are_two_pieces_of_work() -> None:
    service = Service()
    service.client.headers["X-Request-ID"] = "mine"
    await service.draw()
    await service.draw()
    assert len({spec.request_id for spec in service.pipeline.specs}) == 2


async def test_a_proxy_may_echo_the_request_id_instead() -> None:
    service = Service(echo_request_id=False)
    answer = await service.client.get("/healthz", headers={"X-Request-ID": "mine"})
    assert "x-request-id" not in answer.headers


@pytest.mark.parametrize(("path", "code"), [("/nothing", "not_found"), ("/v1", "not_found")])
async def test_unknown_addresses_are_problems(path: str, code: str) -> None:
    answer = await Service().client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code


async def test_a_wrong_method_names_the_right_ones() -> None:
    answer = await Service().client.get("/v1/text-to-image")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert (answer.json()["type"], answer.json()["code"]) == ("about:blank", "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/text-to-image", "/v1/styles"])
async def test_content_is_never_sniffed(path: str) -> None:
    answer = await Service().client.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_allowed_origins_may_read_answers_and_errors() -> None:
    service = Service(settings=RouterSettings(cors_origins=("https://network.example",)))
    service.client.headers["Origin"] = "https://network.example"
    for answer in (await service.draw(), await service.draw(n=0)):
        assert answer.headers["access-control-allow-origin"] == "https://network.example"
        assert "Limner-Seed" in answer.headers["access-control-expose-headers"]
    preflight = await service.client.options(
        "/v1/text-to-image",
        headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
    )
    assert preflight.status_code == 200


async def test_other_origins_may_not() -> None:
    service = Service(settings=RouterSettings(cors_origins=("https://network.example",)))
    service.client.headers["Origin"] = "https://elsewhere.example"
    assert "access-control-allow-origin" not in (await service.draw()).headers


async def test_the_index_leads_everywhere(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    links = (await service.client.get("/")).json()["links"]
    paths = set((await service.client.get("/openapi.json")).json()["paths"])
    assert {path for path in paths if "{" not in path} - {"/"} <= set(links.values())
    posted = {"text_to_image", "image_to_image", "inpaint", "gender_swap", "upscale", "mask"}
    for name, path in links.items():
        answer = await service.client.get(path)
        # To look at, "import" is one more adapter.
        expected = 404 if name == "import_adapter" else 405 if name in posted else 200
        assert answer.status_code == expected, path


async def test_styles_say_what_a_model_can_draw() -> None:
    client = Service().client
    mini = (await client.get("/v1/styles")).json()
    photo = (await client.get("/v1/styles", params={"model": "photo"})).json()
    assert (mini["model"], photo["model"]) == ("mini", "photo")
    assert all(style["available"] for style in photo["data"])
    anime = {style["id"]: style for style in mini["data"]}["anime"]
    assert anime["available"] is False
    assert anime["prompt"] is anime["defaults"] is None
    cartoon = {style["id"]: style for style in mini["data"]}["cartoon"]
    assert "{prompt}" in cartoon["prompt"]


async def test_styles_of_an_unknown_model_are_refused() -> None:
    answer = await Service().client.get("/v1/styles", params={"model": "dall-e"})
    assert answer.status_code == 422
    assert answer.json()["limit"] == ["mini", "photo"]


async def test_models_are_listed_with_their_limits() -> None:
    mini, photo = (await Service().client.get("/v1/models")).json()["data"]
    assert (mini["id"], mini["default"], mini["size_multiple"], mini["max_size"]) == ("mini", True, 16, 256)
    assert (photo["id"], photo["default"], photo["object"]) == ("photo", False, "model")


async def test_every_sampler_is_explained() -> None:
    samplers = (await Service().client.get("/v1/samplers")).json()["data"]
    assert {sampler["id"] for sampler in samplers} == set(SamplerName)
    assert all(sampler["description"].endswith(".") for sampler in samplers)
    assert {sampler["id"] for sampler in samplers if sampler["stochastic"]} == {"euler_a", "lcm"}


async def test_the_type_of_a_problem_leads_to_its_explanation() -> None:
    service = Service()
    problem = (await service.draw(n=0)).json()
    explained = (await service.client.get(problem["type"])).json()
    assert (explained["code"], explained["status"]) == ("invalid_request", 422)
    kinds = (await service.client.get("/problems")).json()
    assert explained in kinds
    assert (await service.client.get("/problems/nonsense")).status_code == 404
