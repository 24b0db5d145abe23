from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InvalidRequest, MissingPart
from core.settings import AppSettings, PerceptionSettings
from core.specs import FoundMask, MaskSpec
from deployments.perception import Perception, perception_app
from tests.tiny_perception import build_perceptive_family

ONE_THREAD = PerceptionSettings(num_threads=1)


@pytest.fixture(scope="module")
def replica(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Perception:
    folder = build_perceptive_family(tiny_family, tmp_path_factory.mktemp("seeing") / "model")
    return Perception(AppSettings(model=f"path:{folder}", perception=ONE_THREAD))


def picture() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def test_masks_attributes_and_verdicts(replica: Perception) -> None:
    found = await replica.mask(MaskSpec(request_id="r", image=picture(), words="cat and dog"))
    assert isinstance(found, FoundMask)
    assert (found.width, found.height) == (60, 40)
    answers = await replica.describe(picture(), {"animal": ("cat", "dog")})
    assert sum(answers["animal"].values()) == pytest.approx(1)
    verdicts = await replica.moderate((picture(), picture()))
    assert len(verdicts) == 2
    assert verdicts[0] == verdicts[1]
    await replica.check_health()


async def test_faces_on_photographs(replica: Perception) -> None:
    assert await replica.faces(picture()) == ()


async def test_answers_and_errors_travel_between_processes(replica: Perception) -> None:
    found = await replica.mask(MaskSpec(request_id="r", image=picture(), words="cat"))
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(InvalidRequest) as caught:
        await replica.mask(MaskSpec(request_id="r", image=b"GIF89a", words="cat"))
    assert pickle.loads(pickle.dumps(caught.value)).field == "image"


async def test_a_model_that_cannot_see_starts_and_says_so(tiny_model_id: str) -> None:
    blind = Perception(AppSettings(model=tiny_model_id, perception=ONE_THREAD))
    await blind.check_health()
    for answer in (
        blind.mask(MaskSpec(request_id="r", image=picture(), words="cat")),
        blind.describe(picture(), {"animal": ("cat", "dog")}),
        blind.moderate(()),
    ):
        with pytest.raises(MissingPart, match="clipseg"):
            await answer


@pytest.mark.parametrize(("use_gpu", "share"), [(False, 0), (True, 0.1)])
def test_the_application_asks_for_its_share_of_a_gpu(use_gpu: bool, share: float) -> None:
    settings = AppSettings(use_gpu=use_gpu)
    deployment = perception_app(settings)._bound_deployment
    assert deployment.name == "Perception"
    assert deployment.ray_actor_options is not None
    assert deployment.ray_actor_options["num_gpus"] == share
    assert deployment.max_ongoing_requests == settings.perception.max_ongoing_requests
