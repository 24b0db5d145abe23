"""Whether what words name is in a picture at all, asked before its mask is believed.

A mask network that looks for glasses finds eyes where there are none; asked about the whole picture it
knows better. Knows which words of a family to doubt (``families.toml``); nothing of pixels.
"""

from __future__ import annotations

from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.families import DoubtFacts
from deployments.pipeline.perception.views import Pixels


class Doubts:
    """Compares views with phrases for a thing and for its absence."""

    def __init__(self, zero_shot: ZeroShot, facts: tuple[DoubtFacts, ...]) -> None:
        self._zero_shot = zero_shot
        self._of_word = {word: doubt for doubt in facts for word in doubt.words}

    async def there(self, views: Pixels, phrases: tuple[str, ...]) -> list[bool]:
        """For each phrase whether one of the views ``[n, side, side, 3]`` is likelier to show it than not.

        A phrase is doubted if it is one of the family's words or ends in one ("dark glasses").
        """
        doubted = {phrase: self._of_word.get(phrase.split()[-1]) for phrase in phrases}
        questions = {
            phrase: (*doubt.present, *doubt.absent) for phrase, doubt in doubted.items() if doubt is not None
        }
        if not questions:
            return [True] * len(phrases)
        answers = await self._zero_shot.describe(views, questions)

        def likely(phrase: str, doubt: DoubtFacts) -> bool:
            return any(sum(answer[phrase][said] for said in doubt.present) >= 0.5 for answer in answers)

        return [doubt is None or likely(phrase, doubt) for phrase, doubt in doubted.items()]
