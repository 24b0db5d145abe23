"""What this machine has: cores, memory, GPUs, and whether they compute in bfloat16. Imports no torch.

Read from the kernel's files and from ``nvidia-smi``; what cannot be read is unknown and said to be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUERY = "name,memory.total,memory.free,compute_cap"
_MEBIBYTE = 2**20
_SMI_TIMEOUT_S = 10.0
# From Ampere on.
_BFLOAT16_CAPABILITY = 8.0
# x86's instructions, and ARM's.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; ``capability`` is CUDA's compute capability."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: float

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16 as fast as in float16."""
        return self.capability >= _BFLOAT16_CAPABILITY


@dataclass(frozen=True, slots=True)
class Machine:
    """``total_bytes`` and ``free_bytes`` are the main memory that this process and its children may use."""

    num_cores: int
    total_bytes: int
    free_bytes: int
    bfloat16: bool
    gpus: tuple[Gpu, ...] = ()


def this_machine(root: Path = Path("/")) -> Machine:
    """The machine under ``root``, within the limits of this process's control group."""
    memory = _memory(root)
    total, free = memory["MemTotal"], memory["MemAvailable"]
    limit = _number(root / "sys/fs/cgroup/memory.max")
    if limit is not None and limit < total:
        used = _number(root / "sys/fs/cgroup/memory.current") or 0
        total, free = limit, min(free, max(0, limit - used))
    return Machine(_num_cores(root), total, free, _bfloat16(root), gpus())


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA's GPUs, in their order; none where their driver is not installed or does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        told = subprocess.run(
            [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(told.stdout)


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """The lines of ``nvidia-smi``: name, total and free MiB, compute capability. Others are passed over."""
    found = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.rsplit(",", 3)]
        try:
            name, total, free, capability = cells
            found.append(Gpu(name, int(total) * _MEBIBYTE, int(free) * _MEBIBYTE, float(capability)))
        except ValueError:
            continue
    return tuple(found)


def _memory(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in (root / "proc/meminfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(value.split()[0]) * 1024
    return found


def _num_cores(root: Path) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def _bfloat16(root: Path) -> bool:
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def _number(path: Path) -> int | None:
    """The number in a file of a control group; None for "max" and where there is no such file."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
