from __future__ import annotations

from pathlib import Path

import pytest

from core.machine import Gpu, parse_gpus, this_machine

GIB = 2**30


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY = {"proc/meminfo": f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {12 * 2**20} kB\n"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx2 avx512_bf16", True),
        ("Features : asimd bf16 i8mm", True),
        ("flags : fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_bfloat16_is_told_from_the_processors_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    root = written(tmp_path, {**MEMORY, "proc/cpuinfo": f"processor : 0\n{flags}\n"})
    assert this_machine(root).bfloat16 is expected


def test_memory_is_that_of_the_machine_without_a_limit(tmp_path: Path) -> None:
    found = this_machine(written(tmp_path, {**MEMORY, "sys/fs/cgroup/memory.max": "max\n"}))
    assert (found.total_bytes, found.free_bytes) == (16 * GIB, 12 * GIB)
    assert found.num_cores >= 1


def test_a_container_has_what_its_limits_leave(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
    }
    found = this_machine(written(tmp_path, {**MEMORY, **limits}))
    assert (found.total_bytes, found.free_bytes, found.num_cores) == (8 * GIB, 5 * GIB, 1)


def test_a_part_of_a_core_counts_as_one(tmp_path: Path) -> None:
    root = written(tmp_path, {**MEMORY, "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert this_machine(root).num_cores == 1


def test_gpus_are_read_from_their_drivers_table() -> None:
    good = ["NVIDIA H100 80GB HBM3, 81559, 80000, 9.0", "Tesla T4, 15360, 15000, 7.5"]
    table = "\n".join([*good, "broken line", "X, [N/A], 1, 8.0", ""])
    assert parse_gpus(table) == (
        Gpu("NVIDIA H100 80GB HBM3", 81_559 * 2**20, 80_000 * 2**20, 9.0),
        Gpu("Tesla T4", 15_360 * 2**20, 15_000 * 2**20, 7.5),
    )
    assert [gpu.bfloat16 for gpu in parse_gpus(table)] == [True, False]
    assert parse_gpus("") == ()
