"""The baselines as the load test starts and asks them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.baselines.ray_serve import READY as RAY_READY
from benchmarks.loadtest.client import Message
from benchmarks.loadtest.inputs import Inputs
from benchmarks.loadtest.processes import Process
from benchmarks.loadtest.systems.service import IMAGE_STRENGTH, SWAP_STRENGTH_DRAWN
from benchmarks.loadtest.systems.trainings import Beside
from benchmarks.loadtest.workload import Asked
from serve_app.cli import free_ports

# Which program, its options, and what it prints when it is ready.
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "one": (("benchmarks.baselines.ray_serve",), RAY_READY),
    "batch": (("benchmarks.baselines.ray_serve", "--batched"), RAY_READY),
    "litserve": (("benchmarks.baselines.lit",), "Application startup complete"),
}


class Baseline:
    """One of ``PROGRAMS``, with ``options`` of its command line."""

    def __init__(self, name: str, inputs: Inputs, folder: Path, options: Sequence[str]) -> None:
        self._inputs, self.training = inputs, Beside(folder)
        (port,) = free_ports(1)
        program, ready = PROGRAMS[name]
        self._process = Process([*program, "--port", str(port), *options], folder / f"{name}.log", {})
        self.url = f"http://127.0.0.1:{port}"
        try:
            self._process.wait_for(ready)
        except BaseException:
            self._process.stop()
            raise

    def ask(self, asked: Asked) -> Message:
        return Message("/draw", body_of(asked, self._inputs), {})

    def cpu_s(self) -> float:
        return self._process.cpu_s()

    def counters(self) -> dict[str, float]:
        told: dict[str, float] = httpx.get(f"{self.url}/stats", timeout=60).raise_for_status().json()
        return told

    def stop(self) -> None:
        self._process.stop()


def body_of(asked: Asked, inputs: Inputs) -> dict[str, object]:
    """The request; a swap is to inpaint the person, by the mask and the words that Limner finds itself."""
    body: dict[str, object] = {
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance,
        "seed": asked.seed,
    }
    if asked.adapter is not None:
        body["adapter"] = asked.adapter
    if asked.pipeline == "text":
        return {**body, "pipeline": "text", "prompt": inputs.prompts[asked.input]}
    shown = inputs.portraits[asked.input]
    body["image"] = shown.image
    if asked.pipeline == "image":
        return {**body, "pipeline": "image", "prompt": shown.prompt, "strength": IMAGE_STRENGTH}
    if asked.pipeline == "inpaint":
        return {**body, "pipeline": "inpaint", "prompt": shown.prompt, "mask": shown.clothes}
    return {
        **body,
        "pipeline": "inpaint",
        "prompt": shown.swapped,
        "mask": shown.person,
        "strength": SWAP_STRENGTH_DRAWN,
    }
