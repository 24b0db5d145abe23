"""The data set: the same bytes for the same seeds, resumable, and apart from the held-out seeds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from weights.recipe import dataset, scenes
from weights.recipe.dataset import Plan
from weights.recipe.scenes import HELD_OUT_SEED

PLAN = Plan(num=7, first_seed=40, chunk=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    dataset.build(folder, PLAN)
    return folder


def _bytes(folder: Path) -> tuple[bytes, bytes]:
    return (folder / dataset.PICTURES).read_bytes(), (folder / dataset.RECORDS).read_bytes()


def test_load_gives_pictures_and_records_in_the_order_of_seeds(built: Path) -> None:
    pictures, records = dataset.load(built)

    assert pictures.shape == (7, 128, 128, 3)
    assert pictures.dtype == np.uint8
    assert [record.seed for record in records] == list(range(40, 47))
    for picture, record in zip(pictures, records, strict=True):
        scene = scenes.draw(record.seed)
        assert record.labels() == scene.labels()
        assert (picture == np.asarray(dataset.render(scene))).all()


def test_the_same_plan_gives_the_same_bytes_with_any_chunk(built: Path, tmp_path: Path) -> None:
    dataset.build(tmp_path, Plan(num=7, first_seed=40, chunk=2))

    assert _bytes(tmp_path) == _bytes(built)


def test_workers_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    dataset.build(tmp_path, PLAN, workers=2)

    assert _bytes(tmp_path) == _bytes(built)


def test_finished_chunks_are_kept_and_the_others_rendered(built: Path, tmp_path: Path) -> None:
    dataset.prepare(tmp_path, PLAN)
    dataset.render_chunk(tmp_path, PLAN, 3)
    part = np.lib.format.open_memmap(next(tmp_path.glob("*.partial")), mode="r+")
    part[4] = 77
    part.flush()

    dataset.build(tmp_path, PLAN)

    pictures, records = dataset.load(tmp_path)
    expected, expected_records = dataset.load(built)
    assert (pictures[4] == 77).all()
    others = [0, 1, 2, 3, 5, 6]
    assert (pictures[others] == expected[others]).all()
    assert records == expected_records
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.PICTURES, dataset.RECORDS]


def test_an_unfinished_data_set_is_not_loaded(tmp_path: Path) -> None:
    dataset.prepare(tmp_path, PLAN)
    dataset.render_chunk(tmp_path, PLAN, 0)

    with pytest.raises(FileNotFoundError):
        dataset.load(tmp_path)


def test_a_finished_data_set_is_left_alone(built: Path) -> None:
    before = (built / dataset.PICTURES).stat().st_mtime_ns

    dataset.build(built, PLAN)

    assert (built / dataset.PICTURES).stat().st_mtime_ns == before


def test_a_folder_of_another_plan_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other pictures"):
        dataset.build(built, Plan(num=8, first_seed=40))

    dataset.prepare(tmp_path, PLAN)
    with pytest.raises(ValueError, match="another data set"):
        dataset.build(tmp_path, Plan(num=7, first_seed=41, chunk=3))


def test_a_range_across_the_held_out_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out"):
        Plan(num=11, first_seed=HELD_OUT_SEED - 10)

    assert Plan(num=10, first_seed=HELD_OUT_SEED - 10).num == 10
    assert Plan(num=10, first_seed=HELD_OUT_SEED).first_seed == HELD_OUT_SEED


@pytest.mark.parametrize("wrong", [{"num": 0}, {"first_seed": -1}, {"chunk": 0}])
def test_a_senseless_plan_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Plan(**{"num": 1, "first_seed": 0, "chunk": 1, **wrong})


def test_command_line_renders_a_data_set(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["dataset", "--out", str(tmp_path), "--num", "7", "--first-seed", "40", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", arguments)

    dataset.main()

    assert _bytes(tmp_path) == _bytes(built)
