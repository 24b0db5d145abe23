"""Synchronous data-parallel training on CPU cores, one single-threaded process per core, or on one GPU.

Processes share parameters, gradients and optimizer state in memory, so nothing is sent, and each does its
share of the optimizer's work. Single threads lose less than a thread pool when other programs want the cores.
Knows nothing about what is trained.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from tqdm import tqdm

from weights.recipe import checkpoint
from weights.recipe.optim import Optimizer, Slot, learning_rate, uses_muon

# A process that died must not be waited for without end; one that is only stopped for a while must.
_BARRIER_TIMEOUT_S = 7_200.0

KINDS = ("value", "average", "momentum", "second_moment")


class Task(Protocol):
    """What is trained. Instances are pickled to every process, so they hold paths, not data."""

    def build(self) -> nn.Module:
        """Return the model at step 0; the same in every process that seeds torch alike."""

    def open(self) -> None:
        """Open the data, once in every process."""

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the mean loss over batch fresh samples."""

    def lr_scale(self, name: str) -> float:
        """Return the factor on the learning rate of the parameter called name."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train. batch is the number of samples per step over all processes."""

    out: Path
    steps: int
    batch: int
    lr: float
    cooldown_from: int | None = None
    warmup: int = 50
    device: str = "cpu"
    processes: int = 2
    muon: bool = True
    ema_power: float = 12.0
    seed: int = 0
    save_every_s: float = 180.0
    log_every: int = 10


def _shared_zeros(*shape: int, device: str = "cpu") -> Tensor:
    zeros = torch.zeros(shape, device=device)
    return zeros.share_memory_() if device == "cpu" else zeros


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters, and so its inputs, belong."""
    return next(model.parameters()).device


class Shared:
    """Flat vectors in shared memory: every kind of state, and one gradient per process."""

    def __init__(self, size: int, processes: int, device: str) -> None:
        self.state = {kind: _shared_zeros(size, device=device) for kind in KINDS}
        self.gradients = _shared_zeros(processes, size, device=device)
        self.losses = _shared_zeros(processes)
        self.halt = _shared_zeros(1)

    def views(self, flat: Tensor, model: nn.Module) -> dict[str, Tensor]:
        """Cut flat into one view per parameter; convolutions lie channels-last in memory."""
        views, start = {}, 0
        for name, parameter in model.named_parameters():
            piece = flat[start : start + parameter.numel()]
            start += parameter.numel()
            if parameter.ndim == 4:
                out, inner, height, width = parameter.shape
                views[name] = piece.view(out, height, width, inner).permute(0, 3, 1, 2)
            else:
                views[name] = piece.view(parameter.shape)
        return views


def train(task: Task, plan: Plan) -> None:
    """Train until plan.steps, resuming from plan.out; SIGTERM saves and ends after the step under way."""
    torch.manual_seed(plan.seed)
    model = task.build()
    shared = Shared(sum(p.numel() for p in model.parameters()), plan.processes, plan.device)
    first = _restore(plan.out, model, shared)
    context = mp.get_context("spawn")
    barrier = context.Barrier(plan.processes, timeout=_BARRIER_TIMEOUT_S)
    others = [
        context.Process(target=_work, args=(task, plan, shared, barrier, rank, first), daemon=True)
        for rank in range(1, plan.processes)
    ]
    for process in others:
        process.start()
    _work(task, plan, shared, barrier, 0, first)
    for process in others:
        process.join()


def _restore(folder: Path, model: nn.Module, shared: Shared) -> int:
    saved = checkpoint.load(folder)
    initial = {name: p.detach() for name, p in model.named_parameters()}
    for kind, flat in shared.state.items():
        source = saved[kind] if saved else (initial if kind in ("value", "average") else {})
        views = shared.views(flat, model)
        for name, tensor in source.items():
            views[name].copy_(tensor)
    return int(saved["step"]) if saved else 0


def _work(task: Task, plan: Plan, shared: Shared, barrier: Any, rank: int, first: int) -> None:
    torch.set_num_threads(1)
    model = task.build().to(plan.device)
    state = {kind: shared.views(flat, model) for kind, flat in shared.state.items()}
    gradients = [shared.views(flat, model) for flat in shared.gradients]
    for name, parameter in model.named_parameters():
        parameter.data, parameter.grad = state["value"][name], gradients[rank][name]
    optimizer = Optimizer(_share(task, plan, state, rank), plan.muon, plan.ema_power)
    task.open()
    with _asked_to_stop() as asked, Journal(plan, state, first) if rank == 0 else nullcontext() as journal:
        for step in range(first, plan.steps):
            generator = torch.Generator().manual_seed((plan.seed * 1_000_003 + step) * 64 + rank)
            with torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16):
                loss = task.loss(model, step, plan.batch // plan.processes, generator)
            torch.autograd.backward(loss)
            shared.losses[rank] = loss.detach()
            if rank == 0:
                shared.halt.fill_(bool(asked))
            barrier.wait()
            rate = learning_rate(step, plan.lr, plan.warmup, plan.cooldown_from, plan.steps)
            names = [slot.name for slot in optimizer.slots]
            mean = {n: torch.stack([g[n] for g in gradients]).mean(0) for n in names}
            optimizer.step(mean, rate, step)
            halt, mean_loss = bool(shared.halt.item()), float(shared.losses.mean())
            barrier.wait()
            shared.gradients[rank].zero_()
            if journal is not None:
                journal.record(step, mean_loss, rate, last=halt or step + 1 == plan.steps)
            if halt:
                return


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    asked: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)


def _share(task: Task, plan: Plan, state: dict[str, dict[str, Tensor]], rank: int) -> list[Slot]:
    """Return the slots that rank updates: the dearest first, each to the least loaded process."""
    loads = [0.0] * plan.processes
    own = []

    def cost(name: str) -> float:
        value = state["value"][name]
        if not (plan.muon and uses_muon(name, value)):
            return float(value.numel())
        short = min(value.shape[0], value[0].numel())
        return float(value.numel()) * short + 20.0 * short**3

    for name in sorted(state["value"], key=cost, reverse=True):
        owner = loads.index(min(loads))
        loads[owner] += cost(name)
        if owner == rank:
            tensors = {kind: state[kind][name] for kind in KINDS}
            own.append(Slot(name, lr_scale=task.lr_scale(name), **tensors))
    return own


class Journal:
    """Progress bar, JSON lines of loss and seconds per step, and timed checkpoints of one training run."""

    def __init__(self, plan: Plan, state: dict[str, dict[str, Tensor]], first: int) -> None:
        self.plan = plan
        self.state = state
        self._bar = tqdm(total=plan.steps, initial=first, mininterval=10, desc=plan.out.name)
        self._window: list[float] = []
        self._started = self._saved = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def record(self, step: int, loss: float, rate: float, last: bool) -> None:
        """Note one finished step; saves when it is the last or the last save is long ago."""
        self._bar.update()
        self._window.append(loss)
        now = time.monotonic()
        if last or len(self._window) == self.plan.log_every:
            mean, seconds = sum(self._window) / len(self._window), (now - self._started) / len(self._window)
            line = {"step": step + 1, "loss": round(mean, 5), "s_per_step": round(seconds, 3), "lr": rate}
            with (self.plan.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            self._bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            self._window, self._started = [], now
        if last or now - self._saved >= self.plan.save_every_s:
            checkpoint.save(self.plan.out, {"step": step + 1, **self.state})
            self._saved = now
