"""Denoisers that go away at work, on two nodes: scale-down, rolling update, SIGTERM of a node."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import serve

from benchmarks.affinity import private_cluster
from core.settings import AppSettings, DenoiserSettings
from core.types import SamplerName
from deployments.denoiser import denoiser_app
from deployments.engine.request import Accepted, DenoiseRequest, Done, Progressed, noise_for
from deployments.pipeline.denoising import Denoise, denoise_to_the_end
from deployments.serving.handles import denoise_through
from tests.deployments.engine.scenes import psnr_db
from tests.e2e.conftest import environment

pytestmark = pytest.mark.e2e

# They take longer than a new replica needs to start, so that none is done before the old one has to go.
NUM_STEPS = 250
NUM_REQUESTS = 4
# The node that is stopped gives its replicas this time; they need some seconds of it.
NODE_DRAIN_S = 14
LIMIT_S = 120
SETTINGS = DenoiserSettings(precision="float32", num_threads=1, drain_timeout_s=0.5)
REQUEST = DenoiseRequest(
    request_id="r",
    prompt_embeds=noise_for(1, (77, 192)),
    negative_embeds=torch.zeros(77, 192),
    noise=noise_for(2, (4, 32, 32)),
    sampler=SamplerName.EULER_A,
    num_inference_steps=NUM_STEPS,
    guidance_scale=3.0,
    seed=0,
)


@dataclass
class Story:
    """What a pipeline hears of one request; ``begun`` once it is in its steps."""

    num_accepted: int = 0
    steps: list[int] = field(default_factory=list)
    latents: torch.Tensor | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Cluster:
    """A head, and a second node that can be stopped; a Denoiser on each."""

    node: subprocess.Popen[bytes]
    undisturbed: torch.Tensor

    def deploy(self, num_replicas: int, version: str = "1") -> Denoise:
        """Returns when it is so. Another ``version`` than before replaces the replicas one by one."""
        bound: Any = denoiser_app(AppSettings(denoiser=SETTINGS))._bound_deployment
        # ``serve deploy`` finds out whether the version changed; ``serve.run`` takes a new one each time.
        spread = bound.options(
            num_replicas=num_replicas, max_replicas_per_node=1, version=version, _internal=True
        )
        application = spread.bind(*bound.init_args, **bound.init_kwargs)
        return denoise_through(serve.run(application, name="limner", route_prefix=None))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with private_cluster():
        node = second_node()
        own = Cluster(node, torch.empty(0))
        own.undisturbed = asyncio.run(undisturbed(own.deploy(2)))
        yield own
        node.kill()
        node.wait()


def second_node() -> subprocess.Popen[bytes]:
    address = ray.get_runtime_context().gcs_address
    ray_command = Path(sys.executable).with_name("ray")
    return subprocess.Popen(
        [ray_command, "start", f"--address={address}", "--num-cpus=2", "--block"],
        env=environment(RAY_AUTH_MODE="disabled", RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=str(NODE_DRAIN_S)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def undisturbed(denoise: Denoise) -> torch.Tensor:
    story = Story()
    await follow(denoise, REQUEST, story)
    assert story.latents is not None
    return story.latents


async def follow(denoise: Denoise, request: DenoiseRequest, story: Story) -> None:
    async for event in denoise_to_the_end(denoise, request):
        if isinstance(event, Accepted):
            story.num_accepted += 1
        elif isinstance(event, Progressed):
            story.steps.append(event.step)
            story.begun.set()
        elif isinstance(event, Done):
            story.latents = event.latents


@asynccontextmanager
async def under_way(denoise: Denoise) -> AsyncGenerator[list[Story], None]:
    """Stories of requests of which each is in its steps; they have ended when the context has."""
    stories = [Story() for _ in range(NUM_REQUESTS)]
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for index, story in enumerate(stories):
            request = replace(REQUEST, request_id=f"r{index}", user_id=f"u{index}")
            group.create_task(follow(denoise, request, story))
            # One after the other: sent at once, all of them may go to the replica that stays.
            await story.begun.wait()
        yield stories


def check(stories: list[Story], undisturbed: torch.Tensor) -> None:
    """Some moved; each went on from where it was, and drew what it would have drawn."""
    assert max(story.num_accepted for story in stories) > 1
    for story in stories:
        # Under way from one replica to the next it never falls back behind a step that it had reported.
        assert story.steps == sorted(set(story.steps))
        assert story.latents is not None
        assert psnr_db(story.latents, undisturbed) >= 45


async def meanwhile(action: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(action)


async def test_scale_down_hands_back(cluster: Cluster) -> None:
    denoise = cluster.deploy(2)
    async with under_way(denoise) as stories:
        await meanwhile(lambda: cluster.deploy(1))
    check(stories, cluster.undisturbed)


async def test_a_rolling_update_hands_back(cluster: Cluster) -> None:
    denoise = cluster.deploy(2)
    async with under_way(denoise) as stories:
        await meanwhile(lambda: cluster.deploy(2, "2"))
    check(stories, cluster.undisturbed)


async def test_sigterm_of_a_node_hands_back(cluster: Cluster) -> None:
    denoise = cluster.deploy(2, "2")
    async with under_way(denoise) as stories:
        os.kill(cluster.node.pid, signal.SIGTERM)
    check(stories, cluster.undisturbed)
    assert await meanwhile(lambda: cluster.node.wait(LIMIT_S)) is not None
