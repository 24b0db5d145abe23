"""Ray Serve's Stable Diffusion example: an ingress, and one replica that owns the pipelines.

One request per call, as the example has it, or with ``@serve.batch``. Started as Limner is: a private
cluster, HAProxy in front, the same OpenMP settings. Annotations are not postponed here: FastAPI reads them
in another process, which knows only what code names.
"""

import argparse
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines.asking import MAX_BATCH, Asking
from benchmarks.baselines.gate import MAX_INSIDE, Gate
from core.settings import LocalServer
from deployments.pipeline.threads import actor_options
from serve_app.cli import free_ports, ray_environment, scratch_folder
from serve_app.ray_token import ray_token

READY = "baseline: ready"


def application(*, batched: bool, max_inside: int, kernels: str, adapters: Path | None) -> Any:
    """The Serve application."""
    from fastapi import FastAPI, Response
    from ray import serve

    from benchmarks.baselines.models import BatchedStableDiffusion, StableDiffusion

    api = FastAPI()
    api.add_middleware(Gate, max_inside=max_inside)

    @serve.ingress(api)
    class Ingress:
        def __init__(self, model: Any) -> None:
            self._model = model

        @api.post("/draw")
        async def draw(self, asking: Asking) -> Response:
            return Response(await self._model.generate.remote(asking), media_type="image/png")

        @api.get("/stats")
        async def stats(self) -> dict[str, float]:
            told: dict[str, float] = await self._model.told.remote()
            return told

    model = serve.deployment(
        name="StableDiffusion",
        max_ongoing_requests=2 * MAX_BATCH,
        ray_actor_options=actor_options(0),
    )(BatchedStableDiffusion if batched else StableDiffusion)
    ingress: Any = serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.1})(Ingress)
    return ingress.bind(model.bind(kernels, adapters))


def serve_until_stopped(app_of: Any, port: int) -> None:
    """A private Ray cluster with one application, until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with scratch_folder() as scratch:
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.update(ray_environment(LocalServer(port=port), scratch, ray_token(scratch)))
        import ray
        from ray import serve

        ray.init(
            address="local",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=free_ports(1)[0],
            log_to_driver=False,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(app_of(), name="baseline", route_prefix="/")
            print(READY, flush=True)
            stop.wait()
        finally:
            serve.shutdown()
            ray.shutdown()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines.ray_serve", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batched", action="store_true")
    parser.add_argument("--max-inside", type=int, default=MAX_INSIDE, help="requests let in; 0 for all")
    parser.add_argument("--kernels", default="stock")
    parser.add_argument("--adapters", type=Path, help="folder of LoRA files to load")
    return parser.parse_args(arguments)


def main() -> None:
    chosen = parse()
    serve_until_stopped(
        lambda: application(
            batched=chosen.batched,
            max_inside=chosen.max_inside,
            kernels=chosen.kernels,
            adapters=chosen.adapters,
        ),
        chosen.port,
    )


if __name__ == "__main__":
    main()
