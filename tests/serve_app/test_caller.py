"""``X-Limner-User``: who a request is of."""

from __future__ import annotations

import pytest

from core.training import LOCAL_USER
from serve_app.caller import USER_HEADER
from tests.serve_app.edits import DRAWING, EVERY_ROUTE, GOOD
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem


async def test_pictures_are_the_local_member_s_unless_told_otherwise() -> None:
    service = Service()
    await service.draw()
    assert service.pipeline.specs[0].user_id == LOCAL_USER


@pytest.mark.parametrize("user", ["a", "member-4711", "auth0|5f7c8e", "anna@example.org", "x" * 128])
async def test_the_header_says_whose_a_picture_is(user: str) -> None:
    service = Service()
    service.client.headers[USER_HEADER] = user
    await service.draw()
    assert service.pipeline.specs[0].user_id == user


@pytest.mark.parametrize("noun", DRAWING)
async def test_every_drawing_route_knows_whose_a_picture_is(noun: str) -> None:
    service = Service()
    service.client.headers[USER_HEADER] = "anna"
    await service.edit(noun, **GOOD[noun])
    assert service.pipeline.specs[0].user_id == "anna"


BAD = [b"", b"x" * 129, b" ", b"a b", b"-a", b"../a", b"a/b", b"a,b", b"<a>", "ä".encode(), b"a\x7f"]


@pytest.mark.parametrize("user", BAD)
async def test_other_values_are_refused(user: bytes) -> None:
    answer = await Service().client.post(
        "/v1/text-to-image", json={"prompt": "a man"}, headers=[(USER_HEADER.encode(), user)]
    )
    body = assert_problem(answer, 400, "malformed_request")
    assert (body["field"], body["limit"]) == (USER_HEADER, 128)


async def test_two_members_at_once_are_refused() -> None:
    twice = [(USER_HEADER, "anna"), (USER_HEADER, "bert")]
    answer = await Service().client.post("/v1/text-to-image", json={"prompt": "a man"}, headers=twice)
    assert assert_problem(answer, 400, "malformed_request")["field"] == USER_HEADER


@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_every_route_with_pictures_refuses_a_bad_member(noun: str) -> None:
    service = Service()
    service.client.headers[USER_HEADER] = "a b"
    assert (await service.edit(noun, **GOOD[noun])).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/adapters"),
        ("POST", "/v1/adapters"),
        ("POST", "/v1/adapters/import"),
        ("GET", "/v1/adapters/adp_1"),
        ("DELETE", "/v1/adapters/adp_1"),
        ("GET", "/v1/adapters/adp_1/file"),
        ("GET", "/v1/adapters/adp_1/samples/1"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/job_1"),
        ("GET", "/v1/jobs/job_1/events"),
        ("POST", "/v1/jobs/job_1/cancel"),
    ],
)
async def test_nothing_is_shown_to_a_bad_member(method: str, path: str) -> None:
    answer = await Service().client.request(method, path, headers={USER_HEADER: "a b"})
    assert_problem(answer, 400, "malformed_request")
