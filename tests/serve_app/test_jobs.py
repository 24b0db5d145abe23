"""Jobs over HTTP: how they stand, their events, and cancelling them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.settings import RouterSettings
from core.training import Job
from tests.serve_app.fakes import HangingUp, Service, events_of
from tests.serve_app.small_trainer import OWNER
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import as_user, train, without_instance

SOON = RouterSettings(job_poll_s=0.001)


async def started(folder: Path, user: str = "local") -> tuple[Service, Job]:
    service = Service(folder=folder, settings=SOON)
    assert (await train(service, user=user, num_steps=100)).status_code == 202
    return service, service.trainer.start()


async def kinds_after(service: Service, job: Job, last: str | None) -> list[str]:
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = await service.client.get(f"/v1/jobs/{job.job_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [name for name, _ in events_of(answer.text)]


async def test_a_job_tells_how_it_stands(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    told = (await service.client.get(f"/v1/jobs/{job.job_id}")).json()
    assert (told["status"], told["num_attempts"]) == ("running", 1)
    assert told["progress"] == {"step": 1, "num_steps": 100, "loss": 0.5}
    assert set(told["links"]) == {"self", "events", "cancel"}
    service.trainer.finish(job)
    told = (await service.client.get(f"/v1/jobs/{job.job_id}")).json()
    assert told["status"] == "succeeded"
    assert told["predicted_finish_at"] is told["predicted_finish_s"] is None
    assert set(told["links"]) == {"self", "events", "adapter"}


async def test_a_failed_job_says_why(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    service.trainer.store.jobs.fail(job.job_id, OWNER, "generation_failed", "The loss is not a number.")
    told = (await service.client.get(f"/v1/jobs/{job.job_id}")).json()
    assert (told["status"], told["error"]["code"]) == ("failed", "generation_failed")
    answer = await service.client.get(f"/v1/adapters/{job.adapter_id}")
    assert_problem(answer, 404, "not_found")


async def test_jobs_are_listed_newest_first(tmp_path: Path) -> None:
    service, first = await started(tmp_path)
    service.trainer.finish(first)
    second = (await train(service)).json()["id"]
    await train(service, user="anna")
    listed = (await service.client.get("/v1/jobs")).json()["data"]
    assert [job["id"] for job in listed] == [second, first.job_id]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("POST", "/cancel")],
    ids=["job", "events", "cancel"],
)
async def test_another_s_job_is_as_if_it_had_never_been(method: str, path: str, tmp_path: Path) -> None:
    service, job = await started(tmp_path, user="anna")
    answers = [
        await service.client.request(method, f"/v1/jobs/{job_id}{path}", headers=as_user("bert"))
        for job_id in (job.job_id, "job_1", "%00", "x" * 300)
    ]
    assert {answer.status_code for answer in answers} == {404}
    first, *others = map(without_instance, answers)
    assert all(other == first for other in others)
    assert (await service.client.get("/v1/jobs", headers=as_user("bert"))).json()["data"] == []
    assert not service.trainer.store.jobs.get(job.job_id, "anna").cancel_requested


async def test_a_queued_job_is_canceled_at_once(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    job = (await train(service)).json()
    canceled = (await service.client.post(job["links"]["cancel"])).json()
    assert (canceled["id"], canceled["status"]) == (job["id"], "canceled")
    again = await service.client.post(job["links"]["cancel"])
    assert (again.status_code, again.json()["status"]) == (200, "canceled")


async def test_a_running_job_is_asked_to_stop(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    told = (await service.client.post(f"/v1/jobs/{job.job_id}/cancel")).json()
    assert (told["status"], told["cancel_requested"]) == ("running", True)


async def test_events_are_replayed_in_order(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    service.trainer.finish(job)
    answer = await service.client.get(f"/v1/jobs/{job.job_id}/events")
    assert answer.headers["cache-control"] == "no-store"
    ids = [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]
    assert ids == [str(number + 1) for number in range(len(ids))]
    events = events_of(answer.text)
    names = [name for name, _ in events]
    assert (names[0], names[-1]) == ("queued", "succeeded")
    assert names.index("progress") < names.index("sample")
    data: dict[str, Any] = dict(events)
    assert data["progress"]["step"] == 1
    assert data["sample"]["url"] == f"/v1/adapters/{job.adapter_id}/samples/1"
    assert data["succeeded"]["adapter_id"] == job.adapter_id
    assert all(event["job_id"] == job.job_id and event["at"] for _, event in events)


async def test_a_client_that_comes_back_gets_the_rest(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    service.trainer.finish(job)
    all_of_them = await kinds_after(service, job, None)
    for last in range(len(all_of_them)):
        assert await kinds_after(service, job, str(last)) == all_of_them[last:]
    for last in (len(all_of_them), 999_999_999):
        headers = {"Last-Event-ID": str(last)}
        answer = await service.client.get(f"/v1/jobs/{job.job_id}/events", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["-1", "one", "1.5", "1" * 10, "١"])
async def test_the_id_of_an_event_is_a_number(last: str, tmp_path: Path) -> None:
    headers = [(b"Last-Event-ID", last.encode())]
    answer = await Service(folder=tmp_path).client.get("/v1/jobs/job_1/events", headers=headers)
    assert assert_problem(answer, 400, "malformed_request")["field"] == "Last-Event-ID"


def following(service: Service, job: Job, last: str = "0") -> HangingUp:
    """A client that follows the job from an event on."""
    path = f"/v1/jobs/{job.job_id}/events"
    return HangingUp(service.api, {}, path=path, method="GET", headers={"Last-Event-ID": last})


async def next_kind(client: HangingUp) -> str:
    """The name of the next event that is sent to the client."""
    while True:
        message = await client.received.get()
        if message["type"] == "http.response.body" and (events := events_of(message["body"].decode())):
            return events[0][0]


async def test_events_are_told_as_they_happen(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    known = service.trainer.store.jobs.events(job.job_id)
    client = following(service, job, str(known[-2].number))
    assert await next_kind(client) == "sample"
    assert not client.call.done()
    await asyncio.to_thread(service.trainer.store.jobs.stage, job.job_id, OWNER, "writing the file")
    assert await next_kind(client) == "stage"
    await asyncio.to_thread(service.trainer.finish, job)
    assert await next_kind(client) == "succeeded"
    await client.call


async def test_who_asks_for_more_than_there_will_be_is_let_go_at_the_end(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    client = following(service, job, "999999")
    assert (await client.received.get())["status"] == 200
    await asyncio.to_thread(service.trainer.finish, job)
    await client.call


async def test_hanging_up_ends_the_stream_and_not_the_job(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    client = following(service, job)
    assert await next_kind(client) == "queued"
    client.hang_up()
    await client.call
    assert not service.trainer.store.jobs.get(job.job_id, "local").cancel_requested


async def test_a_job_that_is_removed_meanwhile_ends_the_stream(tmp_path: Path) -> None:
    service, job = await started(tmp_path)
    known = service.trainer.store.jobs.events(job.job_id)
    client = following(service, job, str(known[-2].number))
    assert await next_kind(client) == "sample"
    adapter = await asyncio.to_thread(service.trainer.finish, job)
    await asyncio.to_thread(service.trainer.store.adapters.delete, adapter.adapter_id, "local")
    # Whether it was looked at in between.
    assert await next_kind(client) in ("succeeded", "error")
    await client.call
