"""Run in a process of its own: what the most memory was while a UNet was loaded, in several ways, as JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from weights import loading


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_of(load: Callable[[], Any]) -> int:
    """Bytes beyond those that the process had before."""
    gc.collect()
    # What is free goes back to the system, or the next network would move in there unseen.
    ctypes.CDLL(None).malloc_trim(0)
    # The peak starts anew (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    network = load()
    # Every value is looked at, so that none is merely mapped.
    assert all(bool(torch.isfinite(value).all()) for value in network.parameters())
    return _status("VmHWM") - before


def main(folder: Path) -> None:
    ways: dict[str, Callable[[], Any]] = {
        "float16": lambda: loading.load_unet(folder, torch.float16),
        "bfloat16": lambda: loading.load_unet(folder, torch.bfloat16),
        # As it was done before: in float32 first.
        "float16 by way of float32": lambda: UNet2DConditionModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).half(),
    }
    ways["float16"]()
    print(json.dumps({name: peak_of(load) for name, load in ways.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
