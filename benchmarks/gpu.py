"""The UNet of Stable Diffusion 1.5 or XL at full size, random weights: how fast each way to call it is.

Needs PyTorch, diffusers and this tree, and a GPU for figures that mean anything (``--toy`` is for trying the
program on a CPU). Sides take turns over the same weights and inputs; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_engine
from deployments.engine.lean_unet import make_lean
from deployments.engine.lora import LoraSlots

FAMILIES = Path(__file__).resolve().parent.parent / "weights" / "families"
SIDES = ("diffusers", "diffusers compiled", "limner", "limner compiled", "limner graphs")
_TOKENS, _STEPS, _GUIDED = 77, 20, 2
_MATMUL = 8192
_TOY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}

Call = Callable[[], Tensor]
Line = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A UNet on its device, and how it is measured."""

    unet: Any
    device: torch.device
    dtype: torch.dtype
    repeats: int

    def inputs(self, rows: int) -> dict[str, Any]:
        """Arguments of a call with ``rows`` rows."""
        config, generator = self.unet.config, torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(rows, *shape, generator=generator).to(self.device, self.dtype)

        size = config.sample_size
        given: dict[str, Any] = {
            "sample": drawn(config.in_channels, size, size).to(memory_format=torch.channels_last),
            "timestep": torch.linspace(1, 999, rows, device=self.device),
            "encoder_hidden_states": drawn(_TOKENS, config.cross_attention_dim),
            "return_dict": False,
        }
        if config.addition_embed_type == "text_time":
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            given["added_cond_kwargs"] = {"text_embeds": drawn(width), "time_ids": drawn(6)}
        return given

    def median_ms(self, call: Call) -> float:
        """Of ``repeats`` calls after three that warm up."""
        taken = []
        for index in range(self.repeats + 3):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            if index >= 3:
                taken.append(1_000 * (time.perf_counter() - began))
        return statistics.median(taken)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def built(family: str, device: torch.device, dtype: torch.dtype, toy: bool) -> Any:
    """The family's UNet with random weights, made in place on ``device``."""
    config = json.loads((FAMILIES / family / "unet" / "config.json").read_text())
    with torch.device(device):
        unet = UNet2DConditionModel.from_config({**config, **_TOY} if toy else config)
    unet = unet.to(dtype).eval().requires_grad_(False)
    return unet.to(memory_format=torch.channels_last)


def tflop_of(subject: Subject, rows: int) -> float:
    """Of one call, counted and not estimated: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        subject.unet(**subject.inputs(rows))
    return float(counter.get_total_flops()) / 1e12


def matmul_tflops(subject: Subject, side: int) -> float:
    """What a large product of this precision reaches, TFLOP a second."""
    a, b = (torch.randn(side, side, device=subject.device, dtype=subject.dtype) for _ in range(2))
    return 2 * side**3 / (subject.median_ms(lambda: a @ b) / 1_000) / 1e12


def graphed(subject: Subject, unet: Any, given: dict[str, Any]) -> Call:
    """A CUDA graph of one call, replayed on inputs that stay where they are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            unet(**given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output: Tensor = unet(**given)[0]

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def _first(call: Any, given: dict[str, Any]) -> Tensor:
    output: Tensor = call(**given)[0]
    return output


def calls_of(subject: Subject, names: Sequence[str], rows: int) -> Iterator[tuple[str, Call]]:
    """The sides by name. Each has modules of its own over the same weights."""
    given = subject.inputs(rows)
    for name in names:
        unet = copy.copy(subject.unet)
        if name.startswith("limner") and not make_lean(unet):
            continue
        if name.endswith("compiled"):
            yield name, partial(_first, torch.compile(unet.forward, dynamic=False), given)
        elif name.endswith("graphs"):
            if subject.device.type == "cuda":
                yield name, graphed(subject, unet, given)
        else:
            yield name, partial(_first, unet, given)


def table(
    subject: Subject, names: Sequence[str], all_rows: Sequence[int], peak: float
) -> list[dict[str, Any]]:
    """A line for each number of rows and each side."""
    lines = []
    for rows in all_rows:
        tflop = tflop_of(subject, rows)
        for name, call in calls_of(subject, names, rows):
            ms = subject.median_ms(call)
            line = {
                "rows": rows,
                "side": name,
                "ms": round(ms, 3),
                "steps_per_s": round(1_000 / ms, 1),
                "rows_per_s": round(1_000 * rows / ms, 1),
                "tflops": round(1_000 * tflop / ms, 1),
                "share_of_matmul": round(1_000 * tflop / ms / peak, 3),
            }
            print(json.dumps(line), flush=True)
            lines.append(line)
    return lines


def adapters_cost(subject: Subject, rows: int) -> float:
    """How much longer a call takes with a different adapter of rank 16 in every row, as a share."""
    unet = copy.copy(subject.unet)
    make_lean(unet)
    given, slots = subject.inputs(rows), LoraSlots(unet, rows)
    factors = gpu_engine.factors_of(unet)
    acting = slots.rows(
        [[(f"a{row}", 1.0)] for row in range(rows)], {f"a{row}": factors for row in range(rows)}
    )
    plain_ms = subject.median_ms(lambda: unet(**given)[0])
    with slots.acting(acting):
        adapted_ms = subject.median_ms(lambda: unet(**given)[0])
    return adapted_ms / plain_ms - 1


def engine_table(subject: Subject, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The engine with as many guided requests as make the rows asked for, by each of its ways."""
    all_requests = sorted({max(rows // 2, 1) for rows in chosen.rows})
    ways = (
        chosen.ways if subject.device.type == "cuda" else [way for way in chosen.ways if "graphs" not in way]
    )
    told = []
    for line in gpu_engine.lines(
        subject.unet, subject.device, subject.dtype, ways, all_requests, chosen.repeats
    ):
        print(json.dumps(line), flush=True)
        told.append(line)
    return told


def decode_ms(family: str, subject: Subject, size: int) -> float:
    """One picture of ``size`` latents through the family's autoencoder."""
    config = json.loads((FAMILIES / family / "vae" / "config.json").read_text())
    with torch.device(subject.device):
        vae = AutoencoderKL.from_config(config)
    vae = vae.to(subject.dtype).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, size, size, device=subject.device, dtype=subject.dtype)
    return subject.median_ms(lambda: vae.decode(latents).sample)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--family", choices=["sd15", "sdxl"], default="sd15")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--ways", nargs="+", choices=gpu_engine.WAYS, default=list(gpu_engine.WAYS))
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--toy", action="store_true", help="a tiny UNet on the CPU, to try the program")
    return parser.parse_args(arguments)


def main() -> None:
    chosen = parse()
    device = torch.device("cpu" if chosen.toy else "cuda")
    dtype = torch.bfloat16 if chosen.toy else getattr(torch, chosen.dtype)
    with torch.inference_mode():
        subject = Subject(built(chosen.family, device, dtype, chosen.toy), device, dtype, chosen.repeats)
        size = subject.unet.config.sample_size
        peak = matmul_tflops(subject, 256 if chosen.toy else _MATMUL)
        told: dict[str, Any] = {
            "benchmark": "gpu",
            "family": chosen.family,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "dtype": str(dtype),
            "torch": torch.__version__,
            "matmul_tflops": round(peak, 1),
            "lines": table(subject, chosen.sides, chosen.rows, peak),
            "engine": engine_table(subject, chosen),
            "decode_ms": round(decode_ms(chosen.family, subject, size), 2),
            "adapters_cost": round(adapters_cost(subject, min(max(chosen.rows), 16)), 3),
        }
    best = max(line["rows_per_s"] for line in told["lines"])
    told["pictures_per_s"] = round(1 / (_STEPS * _GUIDED / best + told["decode_ms"] / 1_000), 2)
    if device.type == "cuda":
        told["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
