"""Finished pictures are checked before anybody sees them. Knows verdicts; not how they come about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from core.errors import ModerationBlocked
from core.specs import Verdict


class Moderation:
    """Asks ``moderate``, which is Perception's, about picture files, and refuses what it blocks."""

    def __init__(self, moderate: Callable[[tuple[bytes, ...]], Awaitable[Sequence[Verdict]]]) -> None:
        self._moderate = moderate

    async def check(self, pictures: Sequence[bytes]) -> None:
        """Return if every one of ``pictures`` (PNG, JPEG or WebP files) may be shown.

        Called without pictures it finds out whether any could be checked at all.

        Raises:
            ModerationBlocked: saying how many may not be shown, and nothing of what they show.
            MissingPart: when the deployment has nothing to check pictures with.
        """
        verdicts = await self._moderate(tuple(pictures))
        num_blocked = sum(verdict.blocked for verdict in verdicts)
        if num_blocked:
            what = (
                "The picture was" if len(pictures) == 1 else f"{num_blocked} of {len(pictures)} pictures were"
            )
            raise ModerationBlocked(f"{what} blocked by the safety check.")
