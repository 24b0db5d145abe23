"""Training checkpoints: whole, atomic, found again after a crash.

Knows a checkpoint as a dictionary of tensors and plain values; nothing about what it means.
"""

import os
from pathlib import Path
from typing import Any

import torch


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write state to folder/checkpoint.pt; a crash leaves the old or the new file, never half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "checkpoint.pt"
    temporary = folder / f"checkpoint.{os.getpid()}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, target)
    return target


def load(folder: Path) -> dict[str, Any] | None:
    """Return the state saved in folder, or None when there is none."""
    target = folder / "checkpoint.pt"
    if not target.exists():
        return None
    state: dict[str, Any] = torch.load(target, map_location="cpu", weights_only=True)
    return state
