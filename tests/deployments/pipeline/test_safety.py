from __future__ import annotations

import pytest

from core.errors import ModerationBlocked
from core.specs import Verdict
from deployments.pipeline.safety import Moderation


class Judge:
    """Blocks the pictures that hold a given byte."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, ...]] = []

    async def __call__(self, pictures: tuple[bytes, ...]) -> tuple[Verdict, ...]:
        self.asked.append(pictures)
        return tuple(Verdict(blocked=b"!" in picture, concepts=("gore",)) for picture in pictures)


async def test_harmless_pictures_pass() -> None:
    judge = Judge()
    await Moderation(judge).check([b"one", b"two"])
    assert judge.asked == [(b"one", b"two")]


async def test_one_blocked_picture_blocks_all_and_nothing_is_told_of_it() -> None:
    with pytest.raises(ModerationBlocked) as caught:
        await Moderation(Judge()).check([b"one", b"two!"])
    assert caught.value.status == 400
    assert "1 of 2" in caught.value.message
    assert "gore" not in caught.value.message


async def test_a_check_of_nothing_still_asks() -> None:
    judge = Judge()
    await Moderation(judge).check([])
    assert judge.asked == [()]
