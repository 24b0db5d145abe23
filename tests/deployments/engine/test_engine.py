"""A request's life in the engine: its events, its ends, and its neighbours."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import (
    DeadlineUnmeetable,
    InvalidRequest,
    QueueFull,
)
from core.types import Priority, SamplerName
from deployments.engine import network
from deployments.engine.cost import CostModel
from deployments.engine.network import native_key
from deployments.engine.preview import PreviewMap
from deployments.engine.request import (
    Done,
    Previewed,
    Progressed,
    noise_for,
)
from tests.deployments.engine.scenes import (
    CONTEXT_DIM,
    SHAPE,
    Listener,
    alone,
    engine,
    request,
    run,
    submitted,
)
from tests.fakes import TinyUNet, VirtualClock

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PREVIEW = PreviewMap(torch.eye(4, 3), torch.zeros(3))


def test_a_request_progresses_step_by_step_and_is_done_once() -> None:
    clock = VirtualClock()
    own = engine(TinyUNet(clock=clock, row_s=0.05), clock=clock)
    heard = submitted(own, request(num_inference_steps=3))["r"]
    assert heard.events == []
    run(own)
    progress, done = heard.events[:-1], heard.events[-1]
    assert [(each.step, each.num_steps) for each in progress if isinstance(each, Progressed)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert isinstance(done, Done)
    assert (done.latents.shape, done.latents.dtype, done.num_steps) == (SHAPE, torch.float32, 3)
    assert done.queued_s == 0.0
    assert done.denoise_s == pytest.approx(0.3)
    assert not own.step()


def test_who_follows_nothing_hears_of_the_end_alone() -> None:
    on = engine()
    silent, followed = request("silent", progress=False, preview_every=2), request("followed", seed=1)
    heard = submitted(on, silent, followed)
    run(on)
    assert [type(event) for event in heard["silent"].events] == [Done]
    assert heard["followed"].events[:-1]


def test_the_result_is_an_ordinary_tensor() -> None:
    latents = alone(request())
    assert not latents.is_inference()
    latents.mul_(2.0)


def test_requests_join_and_leave_at_every_step() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    own = engine(unet)
    first = submitted(own, request("first", num_inference_steps=4, guidance_scale=1.0))
    own.step()
    second = submitted(own, request("second", num_inference_steps=2))
    run(own)
    assert unet.rows_seen == [1, 3, 3, 1]
    assert all(isinstance(each.ends[0], Done) for each in (first["first"], second["second"]))


def test_rows_over_the_limit_wait() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    own = engine(unet, max_rows=4)
    submitted(own, *[request(f"r{i}") for i in range(3)])
    own.step()
    assert (own.num_running, own.num_queued) == (2, 1)
    run(own)
    assert max(unet.rows_seen) == 4


def test_requests_of_different_shapes_never_share_a_call_and_all_finish() -> None:
    tall = noise_for(1, (4, 16, 8))
    wanted = [
        request("square"),
        request("tall", noise=tall),
        request("long", prompt_embeds=torch.zeros(9, 8)),
    ]
    wanted[2] = replace(wanted[2], negative_embeds=torch.zeros(9, 8))
    own = engine()
    heard = submitted(own, *wanted)
    run(own)
    for each in wanted:
        assert torch.equal(heard[each.request_id].latents, alone(each))


def test_added_conditions_reach_the_rows_they_belong_to() -> None:
    class Recorder(TinyUNet):
        def forward(self, *inputs: Any, added_cond_kwargs: Any = None, **options: Any) -> Any:
            self.added = added_cond_kwargs
            return super().forward(*inputs, **options)

    unet = Recorder(CONTEXT_DIM)
    unet.config.addition_embed_type, unet.config.addition_time_embed_dim = "text_time", 2
    unet.config.projection_class_embeddings_input_dim = 6 * 2 + 3
    own = engine(unet)
    wanted = request(
        added_conditions={"time_ids": torch.ones(6), "text_embeds": torch.ones(3)},
        negative_added_conditions={"text_embeds": torch.zeros(3)},
    )
    submitted(own, wanted)
    own.step()
    assert unet.added["time_ids"].tolist() == [[1] * 6] * 2
    assert unet.added["text_embeds"].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_an_id_in_use_is_refused_and_free_again_afterwards() -> None:
    own = engine()
    submitted(own, request("same"))
    with pytest.raises(InvalidRequest) as refused:
        own.submit(request("same"), Listener())
    assert refused.value.field == "request_id"
    run(own)
    submitted(own, request("same"))


def test_bad_embeddings_are_refused_at_submission() -> None:
    own = engine()
    with pytest.raises(InvalidRequest) as refused:
        own.submit(request(prompt_embeds=torch.zeros(5, CONTEXT_DIM + 1)), Listener())
    assert refused.value.field == "prompt_embeds"
    assert own.num_queued == 0


def test_a_deadline_that_cannot_be_met_is_refused_with_an_honest_retry() -> None:
    own = engine(max_rows=2, cost=CostModel(default_row_ms=100.0))
    submitted(own, request("first", num_inference_steps=3))
    with pytest.raises(DeadlineUnmeetable) as refused:
        own.submit(request("hurried", deadline_s=1.0), Listener())
    # At 0.4 s it would be done in 1.0 s, but a tenth of the device is not to be promised.
    assert refused.value.retry_after_s == pytest.approx(0.6, abs=0.01)
    with pytest.raises(DeadlineUnmeetable) as hopeless:
        own.submit(request("hopeless", deadline_s=0.1), Listener())
    assert hopeless.value.retry_after_s is None
    assert own.submit(request("possible", deadline_s=1.5), Listener()).predicted_finish_s == pytest.approx(
        1.4
    )


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    own = engine(max_rows=2, max_queued_requests=1, cost=CostModel(default_row_ms=100.0))
    submitted(own, request("running", num_inference_steps=10))
    own.step()
    submitted(own, request("waiting"))
    with pytest.raises(QueueFull) as refused:
        own.submit(request("too much"), Listener())
    assert refused.value.retry_after_s is not None
    assert 1.0 < refused.value.retry_after_s <= 1.8
    assert own.num_queued == 1


def test_predicted_finish_counts_down_to_the_real_one() -> None:
    clock = VirtualClock()
    own = engine(
        TinyUNet(clock=clock, row_s=0.1), clock=clock, max_rows=4, cost=CostModel(default_row_ms=100.0)
    )
    heard = {name: Listener() for name in "abc"}
    predicted = {
        name: own.submit(request(name, num_inference_steps=5), heard[name]).predicted_finish_s
        for name in heard
    }
    run(own)
    real = {name: each.ends[0].queued_s + each.ends[0].denoise_s for name, each in heard.items()}  # type: ignore[union-attr]
    assert predicted["c"] == pytest.approx(real["c"])
    remaining = [each.predicted_finish_s for each in heard["c"].events if isinstance(each, Progressed)]
    assert remaining == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    errors = [abs(predicted[name] - real[name]) / real[name] for name in "abc"]
    assert own.stats().prediction_error == pytest.approx(sorted(errors)[1])


def test_previews_come_as_often_as_asked_and_show_the_predicted_picture() -> None:
    own = engine(preview=PREVIEW)
    heard = submitted(own, request(num_inference_steps=7, preview_every=3))["r"]
    run(own)
    previews = [each for each in heard.events if isinstance(each, Previewed)]
    assert [each.step for each in previews] == [3, 6]
    assert previews[0].rgb.shape == (8, 8, 3)


def test_no_previews_while_somebody_waits_for_rows() -> None:
    own = engine(preview=PREVIEW, max_rows=2)
    heard = submitted(
        own,
        request("watched", num_inference_steps=6, preview_every=1),
        request("waiting", num_inference_steps=6),
    )
    run(own)
    assert not [each for each in heard["watched"].events if isinstance(each, Previewed)]


def test_parked_background_work_draws_the_same_picture() -> None:
    job = request(
        "job", seed=4, priority=Priority.BACKGROUND, sampler=SamplerName.DPMPP_2M, num_inference_steps=6
    )
    own = engine(max_rows=2)
    heard = submitted(own, job)
    own.step()
    own.step()
    urgent = submitted(own, request("urgent", num_inference_steps=2))
    run(own, until=lambda: bool(urgent["urgent"].ends))
    assert not heard["job"].ends
    run(own)
    assert torch.equal(heard["job"].latents, alone(job))


def test_warm_up_measures_the_shape_of_the_unet() -> None:
    cost = CostModel(default_row_ms=10_000.0)
    unet = TinyUNet(CONTEXT_DIM)
    engine(unet, cost=cost, max_rows=6).warm_up()
    assert sorted(set(unet.rows_seen)) == [1, 2, 4, 6]
    assert 0 < cost.step_ms(request().key, 6) < 10_000


def test_warm_up_of_a_slow_unet_measures_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost = VirtualClock(), CostModel()
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=clock))
    unet = TinyUNet(CONTEXT_DIM, clock, row_s=4.0)
    engine(unet, cost=cost, max_rows=8, adapter_slots=4).warm_up()
    assert unet.rows_seen == [1]
    assert cost.step_ms(native_key(unet.config), 6) == pytest.approx(24_000)
