"""Members' requests: when they come and what they ask for."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.fleet.assumptions import gpu, load
from benchmarks.fleet.traffic import DAY_S, HOUR_S, Day, Mix, day, mean_alone_s, mean_full_s

GPU = gpu("h100")


def test_the_gpus_curve_meets_its_sources() -> None:
    assert GPU.cost.step_ms(GPU.key, 2) == pytest.approx(1_000 / 104.6, rel=0.001)
    rows_ms = GPU.cost.step_ms(GPU.key, 32) - GPU.cost.step_ms(GPU.key, 16)
    assert 16 * 0.803 / rows_ms * 1_000 == pytest.approx(0.45 * 660)
    assert mean_full_s(GPU) < mean_alone_s(GPU)


def test_the_same_seed_makes_the_same_traffic() -> None:
    def drawn(seed: int) -> list[tuple[float, str, int, int, frozenset[str]]]:
        requests = Mix(GPU, seed).arrivals(lambda _: 5.0, 0.0, 50.0)
        return [(each.at, each.user_id, each.num_steps, each.rows, each.adapters) for each in requests]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_shares_are_as_assumed() -> None:
    mix, number = Mix(GPU, 0), 20_000
    drawn = [mix.request(f"r{index}", 0.0) for index in range(number)]
    assert sum(each.rows == 1 for each in drawn) / number == pytest.approx(1 / 3, abs=0.02)
    # Text and inpainting take what was asked for: 30 steps are a third of their 70 %.
    assert sum(each.num_steps == 30 for each in drawn) / number == pytest.approx(0.7 / 3, abs=0.02)
    adapters = Counter(name for each in drawn for name in each.adapters)
    assert adapters.total() / number == pytest.approx(0.2, abs=0.02)
    assert adapters["a1"] > adapters["a2"] > adapters["a10"] > 0
    assert all(each.cost_rows == pytest.approx(each.rows * 1.1) for each in drawn if each.adapters)


def test_a_day_has_its_members_pictures() -> None:
    data, minute = load()["day"], 60.0
    traffic = day(flash=False)
    expected = sum(traffic(number * minute) * minute for number in range(1_440))
    assert expected == pytest.approx(data["members"] * data["pictures_per_member"], rel=0.01)
    assert day(0.1, flash=False)(HOUR_S) == pytest.approx(traffic(HOUR_S) / 10)


def test_nobody_expects_the_flash() -> None:
    traffic = Day(10.0, [1.0, 1.0], flash_at_s=100.0, flash_s=50.0, flash_factor=2.0)
    assert [traffic(at) for at in (99.0, 100.0, 149.0, 150.0)] == [10.0, 20.0, 20.0, 10.0]
    assert traffic.expected(120.0) == 10.0


def test_a_night_follows_a_day() -> None:
    traffic = day(flash=False)
    assert traffic(DAY_S + HOUR_S / 2) == pytest.approx(traffic(HOUR_S / 2))
    assert traffic(23.5 * HOUR_S) == pytest.approx((traffic(23 * HOUR_S) + traffic(24 * HOUR_S)) / 2)
