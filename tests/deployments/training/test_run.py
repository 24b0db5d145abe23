"""A whole training on a tiny family: what it reports, the file it makes, and a kill in between."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.training import Progress, TrainingOptions
from deployments.training.run import TrainingInputs, train
from deployments.training.session import Session
from tests.tiny_family import build_tiny_family
from weights import registry
from weights.adapters import check_fits, read_adapter, text_encoder_factors, unet_factors

OPTIONS = TrainingOptions(
    num_steps=5,
    rank=4,
    alpha=8.0,
    learning_rate=1e-2,
    batch_size=2,
    train_text_encoder=True,
    text_encoder_learning_rate=1e-2,
    sample_every=2,
    checkpoint_every=2,
)


class Killed(Exception):
    """The process is gone."""


@dataclass
class Witness:
    """A reporter that keeps all it hears, and dies after ``dies_at`` steps."""

    dies_at: int | None = None
    steps: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    samples: dict[int, bytes] = field(default_factory=dict)
    checkpoints: list[bytes] = field(default_factory=list)

    def stage(self, words: str) -> None:
        self.stages.append(words)

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        self.losses.append(progress.loss)
        if progress.step == self.dies_at:
            raise Killed

    def sample(self, step: int, png: bytes) -> None:
        self.samples[step] = png

    def checkpoint(self, data: bytes) -> None:
        self.checkpoints.append(data)


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainingInputs:
    folder = build_tiny_family(tmp_path_factory.mktemp("family"))
    return TrainingInputs(
        model_id=f"path:{folder}",
        subject="cat",
        trigger="zek",
        photos=[picture(seed) for seed in range(3)],
        class_pictures=[picture(seed) for seed in range(10, 12)],
        options=OPTIONS,
        num_threads=1,
    )


@pytest.fixture(scope="module")
def done(inputs: TrainingInputs) -> tuple[bytes, Witness]:
    witness = Witness()
    return train(inputs, witness), witness


def test_every_step_is_told_and_samples_come_at_intervals_and_at_the_end(
    done: tuple[bytes, Witness],
) -> None:
    _, witness = done
    assert witness.steps == [1, 2, 3, 4, 5]
    assert all(loss is not None and np.isfinite(loss) for loss in witness.losses)
    assert list(witness.samples) == [2, 4, 5]
    side = Image.open(io.BytesIO(witness.samples[5])).size
    assert side == (32, 32)
    assert len(witness.checkpoints) == 2


def test_the_file_says_what_it_is(inputs: TrainingInputs, done: tuple[bytes, Witness]) -> None:
    weights = read_adapter(done[0])
    check_fits(weights, inputs.model_id)
    assert (weights.rank, weights.alpha, weights.num_steps) == (4, 8.0, 5)
    assert weights.metadata["limner.base_model"] == inputs.model_id
    assert weights.metadata["limner.trigger"] == "zek"
    assert weights.text_encoder


def merged(
    network: torch.nn.Module, factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> torch.nn.Module:
    for path, (down, up) in factors.items():
        weight = network.get_parameter(f"{path}.weight")
        weight.data += (up @ down).view_as(weight)
    return network


def test_the_file_merged_into_the_model_is_what_was_trained(inputs: TrainingInputs) -> None:
    session = Session.open(inputs)
    for _ in range(3):
        session.trainee.advance()
    weights = read_adapter(session.file())
    _, text_encoder = registry.load_text(inputs.model_id)
    ids = session.captions.photos
    context = merged(text_encoder, text_encoder_factors(weights))(ids).last_hidden_state
    trained = session.trainee.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(context, trained, rtol=1e-4, atol=1e-5)
    unet = merged(registry.load_unet(inputs.model_id), unet_factors(weights))
    sample, timestep = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        torch.tensor([500]),
    )
    # Accelerate computes in bfloat16 what it trains; the network below it is in float32.
    plain: Callable[..., tuple[torch.Tensor, ...]] = session.trainee.unet.__class__.forward.__get__(
        session.trainee.unet
    )
    with torch.no_grad():
        ours = unet(sample, timestep, context, return_dict=False)[0]
        theirs = plain(sample, timestep, context, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_adapter(
    inputs: TrainingInputs, done: tuple[bytes, Witness]
) -> None:
    first = Witness(dies_at=3)
    with pytest.raises(Killed):
        train(inputs, first)
    second = Witness()
    data = train(replace(inputs, checkpoint=first.checkpoints[-1]), second)
    assert second.steps == [3, 4, 5]
    assert data == done[0]


def test_without_class_pictures_or_samples_it_trains_on_photos_alone(inputs: TrainingInputs) -> None:
    witness = Witness()
    options = replace(OPTIONS, num_steps=1, sample_every=0, train_text_encoder=False)
    weights = read_adapter(train(replace(inputs, class_pictures=(), options=options), witness))
    assert not witness.samples
    assert not weights.text_encoder
