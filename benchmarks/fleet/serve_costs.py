"""What Ray Serve costs, measured on a cluster of stand-ins: the router's requests, the controller's replicas.

Processor time of each process, not latency: it is what runs out first, and a busy machine changes it little.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

_NUM_STEPS = (1, 20)
_PICTURE_BYTES = 400_000  # a PNG of 512 × 512
_HELD = 30  # adapters in a Denoiser's memory
_WATCH_S = 20.0


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of this process on free ports, with HAProxy, as ``limner serve`` starts it; its URL."""
    from core.settings import LocalServer
    from serve_app.cli import free_ports, ray_environment, scratch_folder
    from serve_app.ray_token import ray_token

    server = LocalServer(port=free_ports(1)[0])
    with scratch_folder() as scratch:
        os.environ.pop("RAY_ADDRESS", None)
        # Ray reads them when it is imported.
        os.environ.update(ray_environment(server, scratch, ray_token(scratch)))
        import ray
        from ray import serve

        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(scratch / "ray"),
        )
        try:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            serve.start(http_options={"host": server.host, "port": server.port})
            yield f"http://{server.host}:{server.port}"
        finally:
            serve.shutdown()
            ray.shutdown()


class StandInPipeline:
    """A pipeline that draws nothing: the events of its steps, and as many bytes as a picture has."""

    async def generate(self, spec: Any) -> AsyncGenerator[Any, None]:
        from core.types import Accepted, Completed, Picture, Progress, Timings

        yield Accepted(spec.request_id, predicted_finish_s=0.2)
        for step in range(1, spec.num_inference_steps + 1):
            yield Progress(step=step, num_steps=spec.num_inference_steps, predicted_finish_s=0.1)
        picture = Picture(
            index=0,
            seed=spec.seed,
            image=os.urandom(_PICTURE_BYTES),
            media_type="image/png",
            width=512,
            height=512,
        )
        yield Completed((picture,), Timings(encode_s=0.01, denoise_s=0.2, decode_s=0.01, total_s=0.22))

    async def check_health(self) -> None:
        """Always well."""


class StandInDenoiser:
    """A Denoiser without a network, whose adapters change all the time."""

    def __init__(self) -> None:
        self._draw = random.Random(os.getpid())

    async def denoise(self) -> int:
        return os.getpid()

    async def record_routing_stats(self) -> dict[str, list[str]]:
        from deployments.serving.affinity import routing_stats

        return routing_stats(f"adp_{self._draw.randrange(10**9):026}" for _ in range(_HELD))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {"work_s": self._draw.random()}


class Asker:
    """A pipeline's replica: it holds a handle to all Denoisers."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser

    async def ask(self, number: int, pause_s: float, adapter: str) -> float:
        """Processor seconds of this process for each of ``number`` requests, ``pause_s`` apart.

        What it spends in pauses without requests does not count.
        """
        own = psutil.Process()
        idle = _spent(own)
        await asyncio.sleep(number * pause_s)
        before = _spent(own)
        idle = before - idle
        for _ in range(number):
            await self._denoiser.options(multiplexed_model_id=adapter).denoise.remote()
            await asyncio.sleep(pause_s)
        return (_spent(own) - before - idle) / number


def router_costs(url: str, num_requests: int = 200, at_once: int = 4) -> list[dict[str, float]]:
    """Processor milliseconds per request of the real Router and of what surrounds it, by steps.

    Every step is an event that passes through the handle, whether or not the client wants to see it.
    """
    from ray import serve

    from core.settings import AppSettings
    from serve_app.app import Router
    from weights import registry

    deployment: Any = serve.deployment
    stand_in = deployment(StandInPipeline).options(
        ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1_000
    )
    names = ["denoiser", "perception", "text_to_image", "image_to_image", "inpaint", "gender_swap", "trainer"]
    pipeline: Any = stand_in.bind()
    router: Any = Router
    options = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 512}
    application = router.options(**options).bind(
        dict.fromkeys(names, pipeline), (registry.info("mini"),), AppSettings()
    )
    serve.run(application, name="router", logging_config={"log_level": "WARNING", "enable_access_log": False})
    asyncio.run(_load(url, 20, at_once, 20))
    results = []
    for num_steps in _NUM_STEPS:
        before = _processes()
        asyncio.run(_load(url, num_requests, at_once, num_steps))
        after = _processes()
        results.append(
            {
                "num_steps": num_steps,
                **{
                    name: round((after[name] - before.get(name, 0.0)) / num_requests * 1_000, 2)
                    for name in ("Router", "StandInPipeline", "haproxy", "ServeController")
                },
            }
        )
        print(results[-1], flush=True)
    serve.delete("router")
    return results


def controller_costs(sizes: Sequence[int]) -> list[dict[str, float]]:
    """The controller's share of a core, and what a request costs its asker, with so many Denoisers.

    As many replicas hold a handle to them; a GPU of the service has three.
    """
    from ray import serve

    from deployments.serving.affinity import router_config

    results = []
    for size in sizes:
        deployment: Any = serve.deployment
        denoiser = deployment(StandInDenoiser).options(
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=100,
            autoscaling_config={"min_replicas": size, "max_replicas": size, "metrics_interval_s": 10.0},
            request_router_config=router_config(32),
        )
        asker = deployment(Asker).options(
            ray_actor_options={"num_cpus": 0}, num_replicas=size, max_ongoing_requests=2
        )
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        handle: Any = serve.run(
            asker.bind(denoiser.bind()), name="fleet", route_prefix=None, logging_config=quiet
        )
        # Every asker makes its router with its first request.
        asyncio.run(_ask(handle, 3 * size, 1, 0.0, "a1"))
        time.sleep(3.0)
        before = _processes()
        time.sleep(_WATCH_S)
        after = _processes()
        spent = {name: after[name] - before.get(name, 0.0) for name in after}
        results.append(
            {
                "denoisers": size,
                "handles": size,
                "controller_cores": round(spent["ServeController"] / _WATCH_S, 3),
                "asker_idle_cores": round(spent["Asker"] / _WATCH_S / size, 4),
                "denoiser_idle_cores": round(spent["StandInDenoiser"] / _WATCH_S / size, 4),
                # What is known of queues is forgotten after a second, so each of these asks all Denoisers.
                "cold_request_cpu_ms": round(asyncio.run(_ask(handle, 1, 15, 1.1, "a1")) * 1_000, 2),
                "plain_request_cpu_ms": round(asyncio.run(_ask(handle, 1, 150, 0.0, "")) * 1_000, 2),
            }
        )
        print(results[-1], flush=True)
        serve.delete("fleet")
    return results


async def _ask(handle: Any, num_calls: int, number: int, pause_s: float, adapter: str) -> float:
    calls = [handle.ask.remote(number, pause_s, adapter) for _ in range(num_calls)]
    return float(sum(await asyncio.gather(*calls)) / num_calls)


async def _load(url: str, num_requests: int, at_once: int, num_steps: int) -> None:
    import httpx

    body = {
        "prompt": "a portrait of a smiling woman with red hair",
        "seed": 1,
        "num_inference_steps": num_steps,
    }
    limit = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def one() -> None:
            async with limit:
                answer = await client.post("/v1/text-to-image", json=body)
                answer.raise_for_status()

        await asyncio.gather(*(one() for _ in range(num_requests)))


def _processes() -> dict[str, float]:
    """Processor seconds so far of the cluster's processes, added up by what they are."""
    spent: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            name = process.name()
            seconds = _spent(process)
        except psutil.Error:
            continue
        for known in ("Router", "StandInPipeline", "StandInDenoiser", "Asker", "ServeController"):
            if known in title and "ray::" in title:
                name = known
        spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
