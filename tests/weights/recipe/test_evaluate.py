"""The evaluation: what a caption asks for, how answers are counted, and the command on a toy model."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.tiny_family import build_tiny_family
from weights.recipe import dataset, evaluate, model_card
from weights.recipe.captions import canonical, caption
from weights.recipe.draw import SAMPLERS, Drawer
from weights.recipe.grid import Pair, sheet
from weights.recipe.scenes import HELD_OUT_SEED, Record, draw
from weights.recipe.sources import SOURCES

MAN = Record(
    1,
    "man",
    "flat",
    "",
    {"hair": "short", "hair_color": "red", "clothes": "t-shirt", "clothes_color": "blue", "beard": "no",
     "glasses": "sunglasses", "background": "white"},
)  # fmt: skip
PLANET = Record(2, "planet", "", "", {"color": "red", "background": "blue", "rings": "no", "moons": "no"})
PROMPTS = ("red hair", "a portrait of a man", "blue")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def report(model: Path) -> dict[str, Any]:
    evaluate.main(["--model", str(model), "--num", "4", "--num-natural", "2", "--steps", "2", "--batch", "3"])
    found: dict[str, Any] = json.loads((model / "evaluation.json").read_text())
    return found


def _drawer(model: Path, **options: Any) -> Drawer:
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    chosen = {"sampler": "ddim", "steps": 2, "guidance": 3.0, "seed": 4, "dtype": torch.float32}
    return Drawer(pipeline, **{**chosen, **options})


def test_a_plain_caption_asks_for_every_measured_fact() -> None:
    assert evaluate.asked(MAN) == {
        "subject": "man",
        "man_or_woman": "man",
        "hair_color": "red",
        "clothes_color": "blue",
        "beard": "no",
        "glasses": "sunglasses",
        "background": "white",
    }
    assert evaluate.asked(PLANET) == {"subject": "planet"}


def test_a_caption_asks_only_for_what_it_states() -> None:
    text = "a red-haired gentleman wearing a blue tee"

    assert evaluate.stated(MAN, text) == {
        "subject": "man",
        "man_or_woman": "man",
        "hair_color": "red",
        "clothes_color": "blue",
    }


def test_plain_captions_state_all_and_varied_captions_some() -> None:
    scenes = [scene for scene in evaluate.held_out_scenes(40) if not scene.style]
    asked = [evaluate.asked(scene) for scene in scenes]
    varied = [evaluate.stated(scene, caption(scene, Random(scene.seed))) for scene in scenes]

    assert [evaluate.stated(scene, canonical(scene)) for scene in scenes] == asked
    assert all(some.items() <= every.items() for some, every in zip(varied, asked, strict=True))
    assert sum(map(len, varied)) < sum(map(len, asked))


def test_shares_count_per_fact_and_average_the_others() -> None:
    answers = {"subject": "woman", "hair_color": "red", "background": "white", "beard": "no"}

    figures = evaluate.shares(
        [answers, answers],
        [
            {"subject": "man", "man_or_woman": "man", "hair_color": "red"},
            {"subject": "woman", "man_or_woman": "woman", "background": "white"},
        ],
    )

    assert figures == {
        "subject": {"right": 1, "of": 2, "share": 0.5},
        "background": {"right": 1, "of": 1, "share": 1.0},
        "man_or_woman": {"right": 1, "of": 2, "share": 0.5},
        "hair_color": {"right": 1, "of": 1, "share": 1.0},
        "others_mean": 0.75,
    }


def test_a_goal_is_met_at_its_bound_and_never_without_pictures() -> None:
    figures: evaluate.Figures = {"subject": {"right": 99, "of": 100, "share": 0.99}, "others_mean": 0.949}

    goals = evaluate.goals(figures, 30.0)

    assert {key: goal["met"] for key, goal in goals.items()} == {
        "vae_psnr_db": True,
        "subject": True,
        "background": False,
        "others_mean": False,
    }
    assert goals["background"]["reached"] is None


def test_held_out_scenes_start_at_the_held_out_seed_and_end_with_an_unfiltered_one() -> None:
    scenes = evaluate.held_out_scenes(10)

    assert [scene.seed for scene in scenes] == list(range(HELD_OUT_SEED, HELD_OUT_SEED + len(scenes)))
    assert sum(not scene.style for scene in scenes) == 10
    assert not scenes[-1].style


def test_a_picture_does_not_depend_on_the_batch(model: Path) -> None:
    together = _drawer(model, batch=3).draw(PROMPTS)
    alone = _drawer(model, batch=1).draw(PROMPTS)

    assert together.shape == (3, 128, 128, 3)
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_pictures_are_those_of_the_plain_pipeline(model: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPTS[0],
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        height=128,
        width=128,
    ).images[0]

    drawn = _drawer(model).draw(PROMPTS[:1])[0]

    assert np.abs(drawn.astype(int) - np.asarray(expected)).max() <= 1


# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(model: Path, sampler: str) -> None:
    assert _drawer(model, sampler=sampler).draw(PROMPTS[:1]).std() > 1


def test_the_report_has_every_figure(report: dict[str, Any]) -> None:
    assert report["settings"]["num"] == 4
    assert report["generated"]["subject"]["of"] == 4
    assert report["natural"]["subject"]["of"] == 2
    assert report["renderings"]["subject"]["share"] == 1.0
    assert report["goals"].keys() == evaluate.GOALS.keys()
    assert not report["goals"]["vae_psnr_db"]["met"]
    assert report["vae_psnr_db"]["pictures"] >= 4


def test_the_sheet_shows_the_rendering_right_of_the_picture(model: Path, report: dict[str, Any]) -> None:
    first = next(scene for scene in evaluate.held_out_scenes(1) if not scene.style)
    expected = np.asarray(dataset.render(draw(first.seed)))

    with Image.open(model / "grid.png") as opened:
        page = np.asarray(opened.convert("RGB"))

    assert (page[12:140, 140:268] == expected).all()


def test_a_sheet_has_a_cell_for_every_pair() -> None:
    black = np.zeros((16, 16, 3), np.uint8)

    assert sheet([Pair(black, black, "a caption")] * 5, columns=2).height > 3 * 16
    with pytest.raises(ValueError, match="at least one"):
        sheet([])


def test_the_model_card_says_what_was_measured(model: Path, report: dict[str, Any], tmp_path: Path) -> None:
    for name, step in (("vae", 30), ("text", 40), ("unet", 5000)):
        (tmp_path / name).mkdir()
        lines = [{"step": step - 10, "s_per_step": 36.0}, {"step": step, "s_per_step": 36.0}]
        (tmp_path / name / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))

    model_card.main(["--model", str(model), "--grid", str(model / "grid.png"), "--runs", str(tmp_path)])
    model_card.main(["--model", str(model), "--grid", str(model / "grid.png")])

    card = (model / "README.md").read_text()
    subject = report["generated"]["subject"]
    assert f"({subject['right']}/{subject['of']})" in card
    assert f"{report['vae_psnr_db']['all']:.1f} dB | no |" in card
    assert "| UNet and text encoder | 5,000 | 0.2 |" in card
    assert "](grid.png)" in card
    for source in SOURCES:
        assert source.artist in card
        assert source.licence_url in card
    assert "$" not in card
