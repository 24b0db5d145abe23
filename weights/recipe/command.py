"""The flags that every training stage shares, and the plan they make. Knows nothing about what is trained."""

import argparse
from pathlib import Path

import torch

from weights.recipe.parallel import Plan


def training_parser(
    description: str | None,
    *,
    steps: int,
    batch: int,
    lr: float,
    cooldown_from: int | None = None,
    needs_data: bool = True,
) -> argparse.ArgumentParser:
    """A parser with the flags of `plan_of`; the stage gives the defaults and adds flags of its own."""
    parser = argparse.ArgumentParser(description=description)
    if needs_data:
        parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--cooldown-from", type=int, default=cooldown_from)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--adam", action="store_true", help="Adam for everything, instead of Muon")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="on the CPU; a GPU has one")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan of parsed flags; makes the output folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    return Plan(
        out=options.out,
        steps=options.steps,
        cooldown_from=options.cooldown_from,
        batch=options.batch,
        lr=options.lr,
        warmup=options.warmup,
        muon=not options.adam,
        device=options.device,
        processes=options.processes if options.device == "cpu" else 1,
        seed=options.seed,
    )
