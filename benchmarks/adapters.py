"""Different adapters in the rows of one UNet call: Limner's slots and PEFT's ``adapter_names`` beside them.

All sides take turns in this process, over the same weights, rows and adapters; medians are reported, and
the speed of each as a share of the same call without adapters.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from core.settings import Precision
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.unet import fast_unet
from weights import registry

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "weights" / "mini"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANKS = (4, 8, 16, 32, 64)
PLAIN = "no adapter"
GOAL = 0.9
_NUM_TOKENS = 77

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Workload:
    """What is measured: ``rows`` rows, as many different adapters, PEFT with each of ``peft`` adapters."""

    model: Path | None
    device: str
    precision: Precision
    rows: int
    rank: int
    peft: tuple[int, ...]
    repeats: int
    num_threads: int
    clock: Callable[[], float]


class Rows:
    """The UNet and its inputs, the same for every side."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype, work: Workload) -> None:
        config: Any = unet.config
        self.unet, self.num = unet, work.rows
        size, channels = config.sample_size, config.in_channels
        shapes = (channels, size, size), (_NUM_TOKENS, config.cross_attention_dim)
        self.sample, self.context = (
            torch.randn(work.rows, *shape, generator=torch.Generator().manual_seed(0)).to(work.device, dtype)
            for shape in shapes
        )
        self.sample = self.sample.to(memory_format=torch.channels_last)
        self.timestep = torch.linspace(1, 999, work.rows, device=work.device)

    def __call__(self, unet: Any, **options: Any) -> Tensor:
        output: Tensor = unet(self.sample, self.timestep, self.context, return_dict=False, **options)[0]
        return output


def random_adapter(unet: nn.Module, rank: int, seed: int) -> LoraFactors:
    """Factors for the attention layers of ``unet``, about as strong as trained ones."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5,
            0.1 * torch.randn(layer.out_features, rank, generator=generator) / rank**0.5,
        )
        for path, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and path.endswith(tuple(f".{each}" for each in TARGETS))
    }


class SlotsSide:
    """Limner's slots: row ``i`` uses adapter ``i`` of ``ranks[i]``.

    Factors are gathered when the rows change, which is no part of a step: :meth:`gather`.
    """

    def __init__(self, rows: Rows, slots: LoraSlots, name: str, ranks: Sequence[int], clock: Any) -> None:
        self._rows, self._slots = rows, slots
        names = [f"{name} {index}" for index in range(rows.num)]
        factors = {
            each: random_adapter(rows.unet, rank, seed)
            for seed, (each, rank) in enumerate(zip(names, ranks, strict=True))
        }
        stacks = [[(each, 1.0)] for each in names]
        began = clock()
        self._lora = slots.rows(stacks, factors)
        self.load_ms = 1_000 * (clock() - began) / rows.num

    def gather(self) -> None:
        with self._slots.acting(self._lora):
            pass

    def __call__(self) -> Tensor:
        with self._slots.acting(self._lora):
            return self._rows(self._rows.unet)


class PeftSide:
    """PEFT's mixed batch: row ``i`` uses adapter ``i % num``, all of the same rank and targets."""

    def __init__(self, rows: Rows, num: int, rank: int) -> None:
        self._rows = rows
        self._names = [f"a{index % num}" for index in range(rows.num)]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights=False)
        dtype = next(rows.unet.parameters()).dtype
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unet = copy.deepcopy(rows.unet)
            # PEFT reaches its layers through hooks, which the short way leaves out.
            vars(unet).pop("forward", None)
            self._model = get_peft_model(unet, config, adapter_name="a0")
            for index in range(1, num):
                self._model.add_adapter(f"a{index}", config)
        self._model.to(dtype).eval().requires_grad_(False)

    def __call__(self) -> Tensor:
        return self._rows(self._model, adapter_names=self._names)


def sides_of(rows: Rows, work: Workload) -> Iterator[tuple[str, Call]]:
    """The sides by name, PEFT's first: they copy the UNet as it is before slots switch its layers."""
    for num in work.peft:
        yield f"PEFT, {num} adapters", PeftSide(rows, num, work.rank)
    yield PLAIN, lambda: rows(rows.unet)
    slots = LoraSlots(rows.unet, 2 * rows.num)
    equal, mixed = [work.rank] * rows.num, [RANKS[index % len(RANKS)] for index in range(rows.num)]
    yield (
        f"slots, {rows.num} adapters of rank {work.rank}",
        SlotsSide(rows, slots, "equal", equal, work.clock),
    )
    yield f"slots, {rows.num} adapters of rank 4 to 64", SlotsSide(rows, slots, "mixed", mixed, work.clock)


def compare(sides: Mapping[str, Call], work: Workload) -> dict[str, Any]:
    """Median milliseconds of one call of each side, in turns, and the speed as a share of the plain call."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides.items())
    for turn in range(work.repeats):
        # Another first one each time, so that no side always follows the same one.
        for name, call in order[turn % len(order) :] + order[: turn % len(order)]:
            # Gathers factors, and warms the caches that the side before has filled with its own weights.
            call()
            _wait(work)
            began = work.clock()
            call()
            _wait(work)
            taken[name].append(1_000 * (work.clock() - began))
    medians = {name: statistics.median(each) for name, each in taken.items()}
    # Of calls side by side, so that a busy moment hits both.
    speed = {
        name: statistics.median(plain / own for plain, own in zip(taken[PLAIN], taken[name], strict=True))
        for name in sides
    }
    return {
        "ms": {name: round(ms, 2) for name, ms in medians.items()},
        "speed": {name: round(share, 3) for name, share in speed.items()},
    }


def gather_ms(side: SlotsSide, other: SlotsSide, work: Workload) -> float:
    """Median milliseconds of gathering the factors of ``side``, as a step does whose rows have changed."""
    taken = []
    for _ in range(work.repeats):
        other.gather()
        _wait(work)
        began = work.clock()
        side.gather()
        _wait(work)
        taken.append(1_000 * (work.clock() - began))
    return statistics.median(taken)


def _wait(work: Workload) -> None:
    if work.device.startswith("cuda"):
        torch.cuda.synchronize()


def table(result: Mapping[str, Mapping[str, float]]) -> str:
    """The results for people."""
    lines = [f"{'one UNet call':<40}{'ms':>10}{'speed':>10}"]
    lines += [f"{name:<40}{ms:>10.1f}{result['speed'][name]:>10.1%}" for name, ms in result["ms"].items()]
    return "\n".join(lines)


def load(work: Workload) -> tuple[nn.Module, torch.dtype]:
    """The UNet as the service runs it; without a model one of SD 1.5's shape with random weights."""
    if work.model is not None:
        unet = registry.load_unet(f"{registry.PATH_PREFIX}{work.model}")
    else:
        torch.manual_seed(0)
        with torch.device(work.device):
            unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    return fast_unet(unet, work.precision, work.device, work.num_threads)


def parse(arguments: Sequence[str] | None = None) -> Workload:
    """The workload of a command line; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="folder in diffusers layout")
    source.add_argument("--sd15", action="store_true", help="a UNet of SD 1.5's shape, random weights")
    parser.add_argument("--device", default="cpu", help='such as "cuda"')
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--rows", type=_positive, default=16, help="rows, each with an adapter of its own")
    parser.add_argument("--rank", type=_positive, default=16)
    parser.add_argument("--peft", type=_positive, nargs="*", default=[2, 4, 8, 16], help="PEFT's adapters")
    parser.add_argument("--repeats", type=_positive, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0 for every core")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: processor time; with --threads 1 a busy machine then measures like an idle one",
    )
    chosen = parser.parse_args(arguments)
    if not chosen.sd15 and not (chosen.model / "model_index.json").is_file():
        parser.error(f"no model in {chosen.model}")
    return Workload(
        model=None if chosen.sd15 else chosen.model,
        device=chosen.device,
        precision=chosen.precision,
        rows=chosen.rows,
        rank=chosen.rank,
        peft=tuple(chosen.peft),
        repeats=chosen.repeats,
        num_threads=chosen.threads or len(os.sched_getaffinity(0)),
        clock=CLOCKS[chosen.clock],
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


@contextmanager
def _quietly() -> Iterator[None]:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    with torch.inference_mode():
        yield


def main() -> None:
    work = parse()
    with _quietly():
        unet, dtype = load(work)
        rows = Rows(unet, dtype, work)
        sides = dict(sides_of(rows, work))
        result = compare(sides, work)
        ours = {name: side for name, side in sides.items() if isinstance(side, SlotsSide)}
        (first, equal), (_, mixed) = ours.items()
        gathered = gather_ms(equal, mixed, work), gather_ms(mixed, equal, work)
    report = {
        "benchmark": "adapters",
        "model": "SD 1.5 shape" if work.model is None else work.model.name,
        "device": torch.cuda.get_device_name() if work.device.startswith("cuda") else work.device,
        "precision": str(dtype).removeprefix("torch."),
        "num_threads": work.num_threads,
        "rows": work.rows,
        **result,
        "load_ms_per_adapter": {name: round(side.load_ms, 2) for name, side in ours.items()},
        "gather_ms": {name: round(ms, 2) for name, ms in zip(ours, gathered, strict=True)},
        "goal": {"speed": GOAL, "met": result["speed"][first] >= GOAL},
    }
    print(table(result))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
