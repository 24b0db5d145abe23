"""Threads that compute rows of a call on their own."""

from __future__ import annotations

import threading

import pytest
import torch

from deployments.engine.row_threads import by_rows, current_rows, parts_of


@pytest.fixture(autouse=True)
def _two_threads() -> object:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [(1, []), (2, [1, 1]), (3, []), (4, [2, 2]), (5, []), (7, [3, 4]), (16, [8, 8])],
)
def test_each_thread_gets_as_many_rows_or_all_share_the_call(num_rows: int, sizes: list[int]) -> None:
    with torch.inference_mode():
        parts = parts_of(num_rows)
    assert [part.stop - part.start for part in parts] == sizes
    rows = list(range(num_rows))
    assert not parts or [row for part in parts for row in rows[part]] == rows


def test_one_core_computes_all_and_so_do_calls_that_record_gradients() -> None:
    assert parts_of(4) == []
    torch.set_num_threads(1)
    with torch.inference_mode():
        assert parts_of(4) == []


def test_every_part_has_a_core_and_knows_its_rows() -> None:
    both = threading.Barrier(2)

    def call(part: slice) -> tuple[slice | None, int, bool, int]:
        both.wait()
        own = (current_rows(), torch.get_num_threads(), torch.is_inference_mode_enabled())
        return (*own, threading.get_ident())

    parts = [slice(0, 2), slice(2, 4)]
    for _ in range(2):
        seen = by_rows(call, parts)
        assert [each[:3] for each in seen] == [(part, 1, True) for part in parts]
        assert len({each[3] for each in seen} | {threading.get_ident()}) == 3
    assert current_rows() is None
    assert torch.get_num_threads() == 2


def test_a_fault_is_raised_once_none_is_at_work() -> None:
    ended: list[int] = []
    failed = threading.Event()

    def call(part: slice) -> None:
        if part.start == 0:
            failed.set()
            raise RuntimeError("the first")
        failed.wait()
        ended.append(part.start)

    with pytest.raises(RuntimeError, match="the first"):
        by_rows(call, [slice(0, 1), slice(1, 2)])
    assert ended == [1]
    assert by_rows(lambda _: current_rows(), [slice(0, 1)]) == [slice(0, 1)]
