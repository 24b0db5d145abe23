"""``limner doctor``: what this machine has, and which installed models fit it, deployment by deployment."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import LimnerError
from core.machine import Gpu, Machine, this_machine
from core.settings import AppSettings
from weights import footprint, registry
from weights.footprint import GIGABYTE, RAY_BYTES, Need

_NOTE = """Peak memory in GB, estimated from the models' files and from measurements (docs/memory.md): every
replica busy at once, pictures of the model's default size, a full batch of max_rows. Adapters that are held
in memory (adapter_cache_bytes) and trainings come on top."""


def add_command(commands: Any, config: Path) -> None:
    """Add ``doctor`` to the parser of ``limner``."""
    doctor = commands.add_parser("doctor", help="what this machine has, and which models fit it")
    doctor.add_argument("--config", type=Path, default=config, help="serve_config.yaml to read replicas from")
    doctor.add_argument("--model", help="the model to be judged by; that of the configuration if left out")
    doctor.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(options: argparse.Namespace, settings: AppSettings, machine: Machine | None = None) -> int:
    """Tell what fits; returns 1 unless the model that ``settings`` name does."""
    machine = machine or this_machine()
    chosen = options.model or settings.model
    try:
        registry.info(chosen)
        names = [model.model_id for model in registry.list_models()]
        names += [chosen] if chosen not in names else []
        verdicts = [judge(name, settings, machine) for name in names]
    except LimnerError as error:
        print(f"limner: {error.message}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"machine": asdict(machine), "models": verdicts}, indent=2))
    else:
        _print(machine, settings, verdicts)
    return 0 if all(verdict["fits"] for verdict in verdicts if verdict["model"] == chosen) else 1


def judge(model_id: str, settings: AppSettings, machine: Machine) -> dict[str, Any]:
    """Whether ``model_id`` fits ``machine``, what each deployment takes in bytes, and what is missing.

    Raises what the registry raises.
    """
    needs = footprint.needs_of(model_id, settings, machine)
    host_bytes, gpu_bytes = footprint.total(needs)
    lacks = []
    if host_bytes > machine.free_bytes:
        lacks.append(f"{_gigabytes(host_bytes - machine.free_bytes)} GB of memory")
    if settings.use_gpu:
        lacks += _missing_on_gpus(needs, machine.gpus)
    return {
        "model": model_id,
        "fits": not lacks,
        "lacks": lacks,
        "host_bytes": host_bytes,
        "gpu_bytes": gpu_bytes,
        "deployments": [asdict(need) for need in needs],
    }


def _missing_on_gpus(needs: Sequence[Need], gpus: Sequence[Gpu]) -> list[str]:
    """Replicas are put where there is room, the largest first: a replica is never on two GPUs."""
    if not gpus:
        return ["a GPU, which use_gpu asks for"]
    free = sorted((gpu.free_bytes for gpu in gpus), reverse=True)
    for need in sorted(needs, key=lambda need: -need.gpu_bytes):
        for _ in range(need.count if need.gpu_bytes else 0):
            free.sort(reverse=True)
            if need.gpu_bytes > free[0]:
                return [f"{_gigabytes(need.gpu_bytes - free[0])} GB of GPU memory for {need.deployment}"]
            free[0] -= need.gpu_bytes
    return []


def _print(machine: Machine, settings: AppSettings, verdicts: Sequence[dict[str, Any]]) -> None:
    cores = f"{machine.num_cores} core{'' if machine.num_cores == 1 else 's'}"
    computes = "compute in bfloat16" if machine.bfloat16 else "do not compute in bfloat16: float32 is used"
    print(f"processor  {cores}, which {computes}")
    print(f"memory     {_gigabytes(machine.total_bytes)} GB, {_gigabytes(machine.free_bytes)} GB free")
    for gpu in machine.gpus:
        half = "bfloat16" if gpu.bfloat16 else "float16 only: set the Denoiser's precision to float16"
        sizes = f"{_gigabytes(gpu.total_bytes)} GB, {_gigabytes(gpu.free_bytes)} GB free"
        print(f"GPU        {gpu.name}, {sizes}, {half}")
    if not machine.gpus:
        print("GPU        none")
    where = "GPU memory" if settings.use_gpu else "memory"
    print(f"\n{where} by deployment, use_gpu: {str(settings.use_gpu).lower()}")
    for line in _table(verdicts, settings.use_gpu):
        print(line)
    print(f"\n{_NOTE}")


def _table(verdicts: Sequence[dict[str, Any]], use_gpu: bool) -> list[str]:
    column = "gpu_bytes" if use_gpu else "host_bytes"
    names: list[str] = []
    for verdict in verdicts:
        names += [each["deployment"] for each in verdict["deployments"] if each["deployment"] not in names]
    shown = [name for name in names if name not in ("Router", "GenderSwap", "Trainer")]
    rows = [["MODEL", *shown, *([] if use_gpu else ["others"]), "TOTAL", "FITS"]]
    for verdict in verdicts:
        own = {each["deployment"]: each["count"] * each[column] for each in verdict["deployments"]}
        others = RAY_BYTES + sum(value for name, value in own.items() if name not in shown)
        cells = [_gigabytes(own[name]) if name in own else "-" for name in shown]
        cells += [] if use_gpu else [_gigabytes(others)]
        fits = "yes" if verdict["fits"] else f"no: lacks {', '.join(verdict['lacks'])}"
        rows.append([verdict["model"], *cells, _gigabytes(verdict[column]), fits])
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:], strict=True)),
                row[-1],
            ]
        )
        for row in rows
    ]


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / GIGABYTE:.1f}"
