"""What the service adds to a picture: its time at the client without engine, text encoder and VAE.

Requests come one at a time, of one step, so that what is around it can be seen. The stages are those of the
answer's ``Server-Timing``. The client is the standard library's: httpx takes 0.9 ms more, which are not the
service's. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from benchmarks.loadtest import inputs
from benchmarks.loadtest.client import server_timing
from benchmarks.loadtest.systems.limner import Limner

GOAL_MS = 15.0
# What each millisecond of a request is, the service's own first.
OWN = {
    "http": "client, HAProxy, Serve's and uvicorn's part in the Router",
    "router": "the Router's checks, the hop to the pipeline and back, the answer",
    "denoiser hop": "from the pipeline to the engine and back, with the latents",
    "file": "PNG with its parameters, and the pipeline's last event",
}
OTHERS = {
    "text": "prompts to embeddings",
    "engine": "the step, and waiting for it",
    "vae": "latents to pixels",
}


def stages(latency_s: float, told: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of each stage; they add up to the latency."""
    seconds = {
        "http": latency_s - told["total"] - told["router"],
        "router": told["router"],
        "denoiser hop": told["denoise"] - told["engine"],
        "file": told["file"],
        "text": told["encode"],
        "engine": told["engine"],
        "vae": told["decode"] - told["file"],
    }
    return {name: 1_000 * value for name, value in seconds.items()}


def own_ms(split: Mapping[str, float]) -> float:
    """What the service adds."""
    return sum(split[name] for name in OWN)


def figures(splits: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians and 90th percentiles in milliseconds; medians of parts need not add up."""
    overheads = [own_ms(split) for split in splits]
    return {
        "requests": len(splits),
        "overhead_ms": round(median(overheads), 2),
        "overhead_p90_ms": round(quantiles(overheads, n=10, method="inclusive")[-1], 2),
        "least_ms": round(min(overheads), 2),
        "goal_ms": GOAL_MS,
        "met": median(overheads) <= GOAL_MS,
        "stages_ms": {name: round(median(split[name] for split in splits), 2) for name in (*OWN, *OTHERS)},
    }


class Client:
    """A connection that is kept alive."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(self, path: str, body: object = None, accept: str = "*/*") -> tuple[int, Mapping[str, str]]:
        """Status and headers of the answer, which is read to its end; a POST if there is a ``body``."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, "Content-Type": "application/json"}
        self._connection.request("GET" if content is None else "POST", path, content, headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    def close(self) -> None:
        self._connection.close()


def measured(client: Client, prompts: Sequence[str], steps: int) -> list[dict[str, float]]:
    """The stages of one request for each prompt."""
    splits = []
    for number, prompt in enumerate(prompts):
        body = {"prompt": prompt, "seed": number, "num_inference_steps": steps, "guidance_scale": 1.0}
        began = time.perf_counter()
        status, headers = client.ask("/v1/text-to-image", body, "image/png")
        latency_s = time.perf_counter() - began
        assert status == 200, f"answered with {status}"
        splits.append(stages(latency_s, server_timing(headers["server-timing"])))
    return splits


def without_a_picture(client: Client, num: int) -> dict[str, float]:
    """Median milliseconds of requests that get no further than the Router: no body, and a refused one."""
    taken: dict[str, list[float]] = {"healthz": [], "refused": []}
    for _ in range(num):
        began = time.perf_counter()
        healthy, _ = client.ask("/healthz")
        taken["healthz"].append(time.perf_counter() - began)
        began = time.perf_counter()
        refused, _ = client.ask("/v1/text-to-image", {"prompt": "a robot", "width": 127})
        taken["refused"].append(time.perf_counter() - began)
        assert (healthy, refused) == (200, 422)
    return {name: round(1_000 * median(seconds), 2) for name, seconds in taken.items()}


def table(found: Mapping[str, Any]) -> str:
    told = {**OWN, **OTHERS}
    lines = [f"{found['stages_ms'][name]:8.2f} ms  {name}: {words}" for name, words in told.items()]
    lines.append(
        f"{found['overhead_ms']:8.2f} ms  overhead (goal {GOAL_MS:g}), median of {found['requests']}"
    )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--warm-up", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--url", help="of a service that runs already; else one is started")
    chosen = parser.parse_args(arguments)
    if chosen.requests < 2 or chosen.steps < 1 or chosen.warm_up < 0:
        parser.error("at least 2 requests of at least 1 step")
    return chosen


def main() -> None:
    chosen = parse()
    with tempfile.TemporaryDirectory(prefix="limner-overhead-") as name:
        folder = Path(name)
        shown = inputs.load(folder / "inputs.json")
        service = None if chosen.url else Limner(shown, folder)
        try:
            url = chosen.url if service is None else service.url
            with closing(Client(url)) as client:
                # New prompts each time, or the text encoder's cache would answer.
                prompts = [f"{shown.prompts[n % len(shown.prompts)]}, {n}" for n in range(chosen.requests)]
                measured(client, ["a robot"] * chosen.warm_up, chosen.steps)
                found = figures(measured(client, prompts, chosen.steps))
                found["without_a_picture_ms"] = without_a_picture(client, chosen.requests)
        finally:
            if service is not None:
                service.stop()
    print(table(found))
    print(json.dumps({"benchmark": "overhead", "steps": chosen.steps, **found}))


if __name__ == "__main__":
    main()
