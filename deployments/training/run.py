"""What a training is given and how it tells of itself. Knows no Ray, no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.training import Progress, TrainingOptions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingInputs:
    """All that determines an adapter. Pictures are files, cropped to what is to be learnt.

    ``checkpoint`` is what an earlier attempt last gave to :meth:`Reporter.checkpoint`. ``num_threads`` 0
    takes every core.
    """

    model_id: str
    subject: str
    trigger: str
    photos: Sequence[bytes]
    class_pictures: Sequence[bytes]
    options: TrainingOptions
    checkpoint: bytes | None = None
    device: str = "cpu"
    num_threads: int = 0


class Reporter(Protocol):
    """Who hears of a training. Any method may raise to stop it."""

    def stage(self, words: str) -> None:
        """What begins now, in a word or two."""

    def progress(self, progress: Progress) -> None:
        """Called after every optimizer step."""

    def sample(self, step: int, png: bytes) -> None:
        """A picture of the subject as it is drawn after ``step`` steps."""

    def checkpoint(self, data: bytes) -> None:
        """Everything needed to go on from here."""


def train(inputs: TrainingInputs, reporter: Reporter) -> bytes:
    """The adapter's file, in PEFT's layout. Raises what the registry and :class:`Trainee` raise.

    With a ``checkpoint`` it goes on from there, and makes the adapter that it would have made undisturbed.
    """
    # torch, diffusers and PEFT take ten seconds to import: only the training task pays for them.
    from deployments.training.session import Session

    reporter.stage("loading the model")
    session = Session.open(inputs)
    reporter.stage("training")
    options, trainee = inputs.options, session.trainee
    while trainee.step < options.num_steps:
        loss = trainee.advance()
        step = trainee.step
        if options.sample_every and (step % options.sample_every == 0 or step == options.num_steps):
            reporter.sample(step, session.sample())
        if step % options.checkpoint_every == 0 and step < options.num_steps:
            reporter.checkpoint(trainee.state())
        reporter.progress(Progress(step=step, num_steps=options.num_steps, loss=loss))
    return session.file()
