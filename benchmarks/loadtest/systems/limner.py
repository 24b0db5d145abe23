"""Limner as the load test starts and asks it: ``limner serve`` with its own configuration."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx

from benchmarks.loadtest.client import Message
from benchmarks.loadtest.inputs import Inputs
from benchmarks.loadtest.processes import Process
from benchmarks.loadtest.systems.prometheus import totals
from benchmarks.loadtest.systems.service import IMAGE_STRENGTH, SWAP_STRENGTH
from benchmarks.loadtest.systems.trainings import OverHttp
from benchmarks.loadtest.workload import Asked
from serve_app.cli import free_ports

# Ray tells Prometheus every ten seconds, longer than the pause between two points.
METRICS_PERIOD_S = 2
_COUNTERS = {
    "steps": "ray_limner_denoise_steps_total",
    "row_steps": "ray_limner_denoise_row_steps_total",
    "busy_s": "ray_limner_denoise_busy_s_total",
}


class Limner:
    """A whole service, in a data folder of its own, with ``adapters`` of its members."""

    def __init__(self, inputs: Inputs, folder: Path, adapters: Iterable[Path] = ()) -> None:
        self._inputs = inputs
        self._adapters: dict[str, str] = {}
        data = folder / "limner-data"
        shutil.rmtree(data, ignore_errors=True)
        port, dashboard_port = free_ports(2)
        self._process = Process(
            ["serve_app.cli", "serve"],
            folder / "limner.log",
            {
                "LIMNER_PORT": str(port),
                "LIMNER_DASHBOARD_PORT": str(dashboard_port),
                "LIMNER_DATA": str(data.absolute()),
                "RAY_metrics_report_interval_ms": str(1_000 * METRICS_PERIOD_S),
            },
        )
        self.url = f"http://127.0.0.1:{port}"
        self.training = OverHttp(self.url)
        self._dashboard_url = f"http://127.0.0.1:{dashboard_port}"
        self._token = data / "ray-token"
        try:
            self._process.wait_for("Ctrl-C")
            self._take(adapters)
        except BaseException:
            self._process.stop()
            raise

    def ask(self, asked: Asked) -> Message:
        return message_of(asked, self._inputs, self._adapters)

    def cpu_s(self) -> float:
        return self._process.cpu_s()

    def counters(self) -> dict[str, float]:
        # Until the last step has got through the replica's, the agent's and Prometheus' periods.
        time.sleep(METRICS_PERIOD_S + 1.5)
        found = totals(self._dashboard_url, self._token)
        return {name: found.get(metric, 0.0) for name, metric in _COUNTERS.items()}

    def stop(self) -> None:
        self._process.stop()

    def _take(self, files: Iterable[Path]) -> None:
        """Import each file for the member whose number it has."""
        for file in files:
            fields = {"name": file.stem, "subject": "person", "trigger": "zvokip", "consent": "true"}
            answer = httpx.post(
                f"{self.url}/v1/adapters/import",
                data=fields,
                files={"file": file.read_bytes()},
                headers={"X-Limner-User": file.stem.replace("adapter", "member")},
                timeout=60,
            )
            self._adapters[file.stem] = answer.raise_for_status().json()["id"]


PATHS = {
    "text": "/v1/text-to-image",
    "image": "/v1/image-to-image",
    "inpaint": "/v1/inpaint",
    "swap": "/v1/gender-swap",
}


def message_of(asked: Asked, inputs: Inputs, adapters: Mapping[str, str]) -> Message:
    """The request in Limner's words, with the ids of ``adapters``."""
    body = _body(asked, inputs)
    if asked.adapter is not None:
        body["adapters"] = [{"id": adapters[asked.adapter]}]
    return Message(PATHS[asked.pipeline], body, {"Accept": "image/png", "X-Limner-User": asked.member})


def _body(asked: Asked, inputs: Inputs) -> dict[str, object]:
    """A swap comes with nothing but the portrait."""
    body: dict[str, object] = {
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance,
        "seed": asked.seed,
    }
    if asked.pipeline == "text":
        return {**body, "prompt": inputs.prompts[asked.input]}
    shown = inputs.portraits[asked.input]
    body["image"] = shown.image
    if asked.pipeline == "image":
        return {**body, "prompt": shown.prompt, "strength": IMAGE_STRENGTH}
    if asked.pipeline == "inpaint":
        return {**body, "prompt": shown.prompt, "mask": shown.clothes}
    return {**body, "strength": SWAP_STRENGTH}
