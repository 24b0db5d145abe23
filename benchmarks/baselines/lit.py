"""The same pipelines behind LitServe with batching: a batch is split into groups of equal settings.

LitServe answers a whole batch at once; it has no way to answer a part of it earlier. Annotations are not
postponed here: LitServe reads what a request is from that of ``decode_request``.
"""

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve
from fastapi import Response

from benchmarks.baselines.asking import BATCH_WAIT_S, MAX_BATCH, Asking, grouped
from benchmarks.baselines.gate import MAX_INSIDE, Gate
from deployments.pipeline.threads import actor_options


class DrawingAPI(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe's worker process does. ``counters`` are shared with the process that speaks HTTP."""

    def __init__(self, kernels: str, adapters: Path | None, **options: Any) -> None:
        super().__init__(**options)
        self._kernels, self._adapters = kernels, adapters
        # LitServe spawns its worker.
        self.counters = multiprocessing.get_context("spawn").Array("d", len(COUNTERS))

    def setup(self, device: str) -> None:
        from benchmarks.baselines.drawing import Drawer

        self._drawer = Drawer(kernels=self._kernels, adapters=self._adapters)

    def decode_request(self, request: Asking) -> Asking:
        return request

    def predict(self, asked: list[Asking] | Asking) -> list[bytes]:
        waiting = list(enumerate(asked if isinstance(asked, list) else [asked]))
        pictures = [b""] * len(waiting)
        for group in grouped([(asking, number) for number, asking in waiting]):
            drawn = self._drawer.draw([asking for asking, _ in group])
            for (_, number), picture in zip(group, drawn, strict=True):
                pictures[number] = picture
        self.counters[:] = list(self._drawer.told().values())
        return pictures

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


# What Ray gives its workers: whoever else uses the machine gets in the way of all systems alike.
RAY_NICENESS = 15
COUNTERS = ("calls", "pictures", "steps", "row_steps", "busy_s")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines.lit", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-inside", type=int, default=MAX_INSIDE, help="requests let in; 0 for all")
    parser.add_argument("--kernels", default="stock")
    parser.add_argument("--adapters", type=Path, help="folder of LoRA files to load")
    return parser.parse_args(arguments)


def main() -> None:
    chosen = parse()
    os.nice(RAY_NICENESS)
    # OpenMP reads them when a process loads it: the worker's, which is started after this.
    os.environ.update(actor_options(0)["runtime_env"]["env_vars"])
    api = DrawingAPI(
        chosen.kernels,
        chosen.adapters,
        max_batch_size=MAX_BATCH,
        batch_timeout=BATCH_WAIT_S,
        api_path="/draw",
    )
    server = litserve.LitServer(
        api, accelerator="cpu", timeout=False, middlewares=[(Gate, {"max_inside": chosen.max_inside})]
    )

    @server.app.get("/stats")  # type: ignore[untyped-decorator]
    async def stats() -> dict[str, float]:
        return dict(zip(COUNTERS, api.counters[:], strict=True))

    server.run(host="127.0.0.1", port=chosen.port, generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
