"""Trainings that are refused: each names the field and its limit, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.settings import RequestLimits, RouterSettings
from core.uploads import FORMATS
from serve_app.adapter_requests import TrainingRequest
from tests.serve_app.edits import PHOTO
from tests.serve_app.fakes import HangingUp, Service
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import train

FEW = {"minimum": 3, "maximum": 30}


async def assert_nothing_kept(service: Service) -> None:
    assert service.trainer.store.jobs.list("local") == []
    assert service.trainer.store.blobs.keys("jobs") == []


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"photos": [PHOTO] * 2}, "photos", FEW),
        ({"photos": None}, "photos", None),
        ({"photos": [PHOTO] * 31}, "photos", 30),
        ({"photos": [PHOTO, b"not a picture", PHOTO]}, "photos.1", list(FORMATS)),
        ({"photos": [PHOTO, PHOTO, PHOTO[:20]]}, "photos.2", None),
        ({"consent": None}, "consent", None),
        ({"consent": False}, "consent", True),
        ({"consent": "yes"}, "consent", None),
        ({"model": "dall-e"}, "model", ["mini", "photo"]),
        ({"name": None}, "name", None),
        ({"name": " "}, "name", None),
        ({"name": "x" * 101}, "name", 100),
        ({"name": "a\0b"}, "name", None),
        ({"subject": None}, "subject", None),
        ({"subject": ""}, "subject", None),
        ({"subject": "a tall old man"}, "subject", 3),
        ({"subject": "x" * 41}, "subject", 40),
        ({"subject": "man, blue sky"}, "subject", None),
        ({"subject": "(man)1.4"}, "subject", None),
        ({"trigger": " \t"}, "trigger", None),
        ({"trigger": "sks\x07"}, "trigger", None),
        ({"trigger": "one two three four"}, "trigger", 3),
        ({"trigger": "man++"}, "trigger", None),
        ({"rank": 3}, "rank", 4),
        ({"rank": 1000}, "rank", 64),
        ({"rank": 8.5}, "rank", None),
        ({"alpha": 0}, "alpha", 0.0),
        ({"num_steps": 0}, "num_steps", 1),
        ({"num_steps": 4_001}, "num_steps", 4_000),
        ({"learning_rate": 0}, "learning_rate", 0.0),
        ({"learning_rate": 1}, "learning_rate", 0.1),
        ({"learning_rate": "nan"}, "learning_rate", None),
        ({"batch_size": 17}, "batch_size", 16),
        ({"gradient_accumulation": 0}, "gradient_accumulation", 1),
        ({"prior_weight": -1}, "prior_weight", 0.0),
        ({"num_class_pictures": 201}, "num_class_pictures", 200),
        ({"seed": 2**32}, "seed", 2**32 - 1),
        ({"sample_every": 1, "num_steps": 100}, "sample_every", 2),
        ({"colour": "red"}, "colour", None),
    ],
)
async def test_a_bad_member_is_named_with_its_limit(
    members: dict[str, Any], field: str, limit: Any, tmp_path: Path
) -> None:
    service = Service(folder=tmp_path)
    body = assert_problem(await train(service, **members), 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)
    assert service.trainer.specs == []
    await assert_nothing_kept(service)


@pytest.mark.parametrize("words", ["zvokip", "Анна", "o'neil", "rock-star", "R2 D2 mk.4", "山田"])
async def test_words_of_any_script_are_fit(words: str, tmp_path: Path) -> None:
    answer = await train(Service(folder=tmp_path), trigger=words, subject=words)
    assert (answer.json()["trigger"], answer.json()["subject"]) == (words, words)


async def test_rules_hold_for_the_words_of_a_training(tmp_path: Path) -> None:
    service = Service(folder=tmp_path, prompt_rules=True)
    assert_problem(await train(service, subject="nude child"), 400, "moderation_blocked")
    assert (await train(service)).status_code == 202


class Flood:
    """A form with photos without end, which counts what is taken of it."""

    def __init__(self, photo: bytes, num_photos: int) -> None:
        self.taken_bytes = 0
        head = 'Content-Disposition: form-data; name="photos"; filename="a.png"'
        self._part = f"--x\r\n{head}\r\n\r\n".encode() + photo + b"\r\n"
        self._num_photos = num_photos

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(self._num_photos):
            for start in range(0, len(self._part), 65_536):
                chunk = self._part[start : start + 65_536]
                self.taken_bytes += len(chunk)
                yield chunk
        yield b"--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
SMALL = RouterSettings(limits=RequestLimits(max_upload_bytes=200_000, max_training_body_bytes=1_000_000))


@pytest.mark.parametrize(
    ("photo_bytes", "num_photos", "status", "field", "limit", "most_taken"),
    [
        (2_000_000, 30, 422, "photos.0", 200_000, 350_000),
        (100, 500, 422, "photos", 30, 20_000),
        (150_000, 30, 413, "body", 1_000_000, 1_200_000),
    ],
    ids=["too large each", "too many", "too large together"],
)
async def test_a_flood_is_refused_while_it_arrives(
    photo_bytes: int, num_photos: int, status: int, field: str, limit: int, most_taken: int, tmp_path: Path
) -> None:
    service = Service(folder=tmp_path, settings=SMALL)
    flood = Flood(PHOTO + bytes(photo_bytes), num_photos)
    answer = await service.client.post("/v1/adapters", content=flood.chunks(), headers=FORM)
    code = {422: "invalid_request", 413: "payload_too_large"}[status]
    body = assert_problem(answer, status, code)
    assert (body["field"], body["limit"]) == (field, limit)
    assert flood.taken_bytes <= most_taken
    await assert_nothing_kept(service)


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("", b"", 415),
        ("multipart/form-data", b"--x--", 400),
        ("multipart/form-data; boundary=x", b"nonsense", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422),
    ],
)
async def test_bodies_that_are_no_form_are_refused(
    content_type: str, content: bytes, status: int, tmp_path: Path
) -> None:
    for path in ("/v1/adapters", "/v1/adapters/import"):
        answer = await Service(folder=tmp_path).client.post(
            path, content=content, headers={"Content-Type": content_type}
        )
        assert answer.status_code == status, answer.text


async def test_one_training_of_a_member_s_at_a_time(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    job = (await train(service)).json()
    # Whatever the second one says, which is not read.
    for rank in (8, 1000):
        body = assert_problem(await train(service, rank=rank), 409, "conflict")
        assert (body["field"], body["limit"]) == ("job_id", job["id"])
        assert job["links"]["self"] in body["detail"]
    assert len(service.trainer.specs) == 1
    assert (await train(service, user="anna")).status_code == 202
    service.trainer.store.jobs.request_cancel(job["id"], "local")
    assert (await train(service)).status_code == 202


async def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    service.trainer.room_bytes = len(PHOTO) + 10
    body = assert_problem(await train(service), 507, "insufficient_storage")
    assert body["retryable"]
    await assert_nothing_kept(service)


async def test_hanging_up_while_uploading_trains_nothing(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    caller = HangingUp(service.api, {}, path="/v1/adapters", more_body=True, headers=FORM)
    caller.hang_up()
    await caller.call
    assert service.trainer.specs == []
    await assert_nothing_kept(service)


OPTIONS = sorted(set(TrainingRequest.model_fields) - {"photos"})
VALUES = (
    st.integers(-3, 2**33)
    | st.floats(width=16)
    | st.booleans()
    | st.text(max_size=6)
    | st.sampled_from(["person", "mini", "true", "1e3", "{}", "[1]"])
)


@pytest.fixture
def without_room(tmp_path: Path) -> Service:
    """Whose disk is full, so that it answers a good training with 507 and can be asked again."""
    service = Service(folder=tmp_path)
    service.trainer.room_bytes = 0
    return service


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=4))
async def test_no_value_of_a_member_is_a_500(members: dict[str, Any], without_room: Service) -> None:
    answer = await train(without_room, **members)
    assert answer.status_code in (422, 507), answer.text
