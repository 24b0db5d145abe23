"""Records what the autoscaling policy of a live service sees in a burst: traces that tests replay.

    TRACES=tests/deployments/serving/traces
    python -m benchmarks.scaling_trace $TRACES/burst.json
    python -m benchmarks.scaling_trace $TRACES/rush.json --requests 40 --steps 30 --over-s 30

It starts ``limner serve`` with a Denoiser that scales, sends the requests of a burst, and waits until the
replicas have gone again. Each tick of the trace is one call of the policy by Serve's controller, at most two
a second: seconds since the first, replicas there and wanted, requests, and what each replica reported.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml
from ray.serve.config import AutoscalingContext

from deployments.serving import scaling
from deployments.serving.scaling import LOAD, WORK_S, WorkPolicy
from serve_app.cli import SERVE_CONFIG, free_ports
from serve_app.cli import main as limner

ROOT = SERVE_CONFIG.parent
TICKS = "LIMNER_BENCHMARK_TICKS"
SCALING = {
    "min_replicas": 1,
    "max_replicas": 3,
    "utilisation": 0.8,
    "horizon_s": 5.0,
    "upscale_delay_s": 2.0,
    "downscale_delay_s": 10.0,
    "look_back_s": 4.0,
    "interval_s": 1.0,
}
PERIOD_S = 0.5
START_LIMIT_S, REST_LIMIT_S = 240.0, 150.0
PROMPT = "cartoon portrait of a smiling woman, brown hair, yellow background"


class RecordedWorkPolicy(WorkPolicy):
    """The policy of the product, which also writes down what it is asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._told_at = float("-inf")

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        wanted, state = super().__call__(ctx)
        if time.time() >= self._told_at + PERIOD_S:
            self._told_at = time.time()
            with Path(os.environ[TICKS]).open("a") as file:
                file.write(json.dumps(tick_of(ctx, self._told_at, wanted)) + "\n")
        return wanted, state


def tick_of(ctx: AutoscalingContext, at: float, wanted: float) -> dict[str, Any]:
    """What a policy was asked and answered."""
    reported = ctx.aggregated_metrics or {}
    replicas = sorted({replica for values in reported.values() for replica in values}, key=str)
    return {
        "at_s": at,
        "num_replicas": ctx.current_num_replicas,
        "num_wanted_before": ctx.target_num_replicas,
        "num_requests": ctx.total_num_requests,
        "num_queued": ctx.total_queued_requests,
        "reports": [
            {name: reported.get(name, {}).get(replica, 0.0) for name in (WORK_S, LOAD)}
            for replica in replicas
        ],
        "wanted": wanted,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record a trace of autoscaling.")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--over-s", type=float, default=0.0, help="seconds over which requests arrive")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        # Serve names the policy by its class, which is found by this module's name in its controller.
        from benchmarks.scaling_trace import RecordedWorkPolicy

        scaling.WorkPolicy = RecordedWorkPolicy  # type: ignore[misc]
        sys.exit(limner(["serve", "--config", str(options.trace)]))
    with tempfile.TemporaryDirectory() as folder:
        ticks = recorded(Path(folder), options.requests, options.steps, options.over_s)
    began = ticks[0]["at_s"]
    lines = ",\n".join(json.dumps(rounded({**tick, "at_s": tick["at_s"] - began})) for tick in ticks)
    options.trace.parent.mkdir(parents=True, exist_ok=True)
    options.trace.write_text(f'{{"scaling": {json.dumps(SCALING)},\n"ticks": [\n{lines}\n]}}\n')
    most = max(tick["num_replicas"] for tick in ticks)
    print(
        json.dumps({"ticks": len(ticks), "seconds": round(ticks[-1]["at_s"] - began), "most_replicas": most})
    )


def rounded(value: Any) -> Any:
    """Numbers with three decimals."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def recorded(folder: Path, num_requests: int, num_steps: int, over_s: float) -> list[dict[str, Any]]:
    """The ticks of a service from before a burst until it is at rest again."""
    document = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))
    document["applications"][0]["args"]["denoiser"]["autoscaling"] = SCALING
    config, told = folder / "serve_config.yaml", folder / "ticks"
    config.write_text(yaml.safe_dump(document))
    port, dashboard_port = free_ports(2)
    environment = {
        **os.environ,
        TICKS: str(told),
        "PYTHONPATH": str(ROOT),
        "LIMNER_PORT": str(port),
        "LIMNER_DASHBOARD_PORT": str(dashboard_port),
        "LIMNER_DATA": str(folder / "data"),
    }
    command = [sys.executable, "-m", "benchmarks.scaling_trace", "--serve", str(config)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
    try:
        wait_until(lambda: "Ctrl-C" in (folder / "log").read_text(), START_LIMIT_S)
        burst(f"http://127.0.0.1:{port}/v1/text-to-image", num_requests, num_steps, over_s)
        wait_until(lambda: ticks_in(told)[-1]["num_replicas"] == SCALING["min_replicas"], REST_LIMIT_S)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    return ticks_in(told)


def burst(url: str, num_requests: int, num_steps: int, over_s: float) -> None:
    """Requests that come evenly over ``over_s``, whatever becomes of those before them."""

    def draw(seed: int) -> None:
        time.sleep(over_s * seed / num_requests)
        body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": num_steps}
        httpx.post(url, json=body, timeout=300).raise_for_status()

    with ThreadPoolExecutor(num_requests) as pool:
        list(pool.map(draw, range(num_requests)))


def ticks_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def wait_until(condition: Any, limit_s: float) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("The service did not get there.")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
