"""The default options of every family are options."""

from __future__ import annotations

import pytest

from core.errors import MissingPart
from core.training import MAX_RANK, MIN_RANK
from core.training_defaults import check_trainable, defaults_for


@pytest.mark.parametrize("family", ["mini", "sd15", "a family of tomorrow"])
def test_every_family_has_sensible_defaults(family: str) -> None:
    options = defaults_for(family)
    assert MIN_RANK <= options.rank <= MAX_RANK
    assert 0 < options.learning_rate < 0.1
    assert options.checkpoint_every < options.num_steps
    assert options.min_snr_gamma == 5
    assert not options.flip


def test_the_embedded_family_has_its_own() -> None:
    assert defaults_for("mini").num_steps < defaults_for("sd15").num_steps
    assert defaults_for("mini").train_text_encoder


def test_a_family_that_cannot_be_trained_is_refused() -> None:
    for family in ("mini", "sd15", "custom"):
        check_trainable(family)
    with pytest.raises(MissingPart, match="import its file") as refused:
        check_trainable("sdxl")
    assert refused.value.field == "model"
