"""``assumptions.toml`` as values. Knows no policy and no time."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.engine.cost import CostModel
from deployments.engine.work import BatchKey

_FILE = Path(__file__).with_name("assumptions.toml")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU with its model: what a step and a decode take, and how many requests it may hold."""

    name: str
    key: BatchKey
    cost: CostModel
    decode_s: float
    max_rows: int
    max_queued_requests: int
    usd_per_hour: float

    def alone_s(self, num_steps: int, rows: float) -> float:
        """A request on an idle GPU, from its latents to its pixels."""
        return num_steps * self.cost.step_ms(self.key, rows) / 1_000 + self.decode_s

    def full_s(self, row_steps: float) -> float:
        """The device time of a request in a full batch."""
        return row_steps * self.cost.row_ms(self.key, self.max_rows) / 1_000 + self.decode_s


@dataclass(frozen=True, slots=True)
class Nodes:
    """How nodes of one GPU come and go."""

    start_s: float
    node_hours_to_failure: float
    detect_s: float
    spot_share: float
    spot_hours_to_notice: float
    drain_s: float


def load() -> dict[str, Any]:
    """The whole file."""
    return tomllib.loads(_FILE.read_text("utf-8"))


def gpu(name: str, usd_per_hour: float | None = None) -> Gpu:
    """The GPU of that name, at its own price or another."""
    data = load()
    model, card = data["model"], data["gpus"][name]
    tflops = card["matmul_tflops"] * model["saturated_share"]
    cost, key = CostModel(), BatchKey(*model["latent"])
    for rows in range(1, model["max_rows"] + 1):
        cost.calibrate(key, rows, card["fixed_ms"] + rows * model["row_tflop"] / tflops * 1_000)
    cost.calibrate_adapters(model["adapter_share"])
    return Gpu(
        name,
        key,
        cost,
        decode_s=model["decode_tflop"] / tflops,
        max_rows=model["max_rows"],
        max_queued_requests=model["max_queued_requests"],
        usd_per_hour=card["usd_per_hour"] if usd_per_hour is None else usd_per_hour,
    )


def nodes() -> Nodes:
    return Nodes(**load()["nodes"])
