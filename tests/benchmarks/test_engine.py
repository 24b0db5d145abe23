"""The engine benchmark's command line and arithmetic; its timings are nobody's test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engine import compare, parse, psnr_db, summary, table
from benchmarks.sides import Pixels, Workload
from core.types import SamplerName


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model_index.json").write_text("{}")
    return tmp_path


class FakeSide:
    """A system whose stages take 1, ``denoise_s`` and 2 seconds of its clock."""

    def __init__(self, clock: "FakeClock", denoise_s: float) -> None:
        self._clock, self._denoise_s = clock, denoise_s

    def encode(self, prompts: Sequence[str]) -> Sequence[str]:
        self._clock.now += 1
        return prompts

    def denoise(self, embeddings: Any, seeds: Sequence[int]) -> Sequence[int]:
        self._clock.now += self._denoise_s * len(seeds)
        return seeds

    def decode(self, latents: Any) -> Sequence[Pixels]:
        self._clock.now += 2
        return [np.zeros((1, 1, 3), np.uint8) for _ in latents]


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_defaults_are_the_goal_of_the_project(model: Path) -> None:
    work = parse(["--model", str(model)])
    assert (work.steps, work.requests, work.sampler) == (20, (1, 2, 4, 8), SamplerName.DDIM)
    assert work.num_threads >= 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--steps", "0"], "must be 1 or more"),
        (["--sampler", "none"], "sampler"),
        (["--requests", "1", "-2"], "--requests"),
        (["--model", "nowhere"], "no model in nowhere"),
    ],
)
def test_refuses_bad_arguments(
    model: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--model", str(model), *arguments])
    assert complaint in capsys.readouterr().err


def test_compares_medians_of_each_stage(model: Path) -> None:
    clock = FakeClock()
    sides = {"engine": FakeSide(clock, 3), "pipeline": FakeSide(clock, 6)}
    parsed = parse(["--model", str(model), "--requests", "1", "2", "--repeats", "1"])
    work = Workload(**{**vars(parsed), "clock": clock})
    one, two = compare(sides, work)
    assert one["ms"]["engine"] == {"encode": 1_000, "denoise": 3_000, "decode": 2_000, "total": 6_000}
    assert one["speedup"]["pipeline"] == {"denoise": 2.0, "total": 1.5}
    assert two["speedup"]["pipeline"] == {"denoise": 2.0, "total": 1.67}
    assert "9000 (1.50x)" in table([one, two])


def test_medians_ignore_an_outlier() -> None:
    runs = [{"encode": 1.0, "denoise": ms, "decode": 1.0, "total": ms + 2} for ms in (10.0, 11.0, 900.0)]
    assert summary(1, {"engine": runs})["ms"]["engine"]["denoise"] == 11.0


def test_likeness_of_pictures() -> None:
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 51, np.uint8)
    assert psnr_db(black, black) == 99.0
    assert psnr_db(black, grey) == pytest.approx(13.98, abs=0.01)
