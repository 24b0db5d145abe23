"""Strength as a place in the trajectory (SDEdit, Meng et al. 2022). Numbers only."""

from __future__ import annotations


def start_step(num_inference_steps: int, strength: float) -> int:
    """The first step to take at ``strength`` in (0, 1], as in diffusers; at least one step is taken."""
    num_taken = min(int(num_inference_steps * strength), num_inference_steps)
    return num_inference_steps - max(1, num_taken)
