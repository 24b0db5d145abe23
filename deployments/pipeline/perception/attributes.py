"""Zero-shot attributes: which of some phrases fits a picture best (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.errors import InvalidRequest
from deployments.pipeline.perception.network import Network
from deployments.pipeline.perception.views import Map, Pixels

Questions = Mapping[str, tuple[str, ...]]
Answers = dict[str, dict[str, float]]


class ZeroShot:
    """Compares views with phrases."""

    def __init__(self, network: Network) -> None:
        self.side = network.side
        self._network = network

    async def describe(self, views: Pixels, questions: Questions) -> list[Answers]:
        """For each view ``[n, side, side, 3]`` and question, the probability of each of its phrases.

        The probabilities of a question add up to 1: they tell its phrases apart and say nothing of others.

        Raises:
            InvalidRequest: for no question, or one without phrases.
        """
        if not questions or not all(questions.values()):
            raise InvalidRequest("Each question needs phrases to choose from.", field="questions")
        phrases = tuple(dict.fromkeys(phrase for choices in questions.values() for phrase in choices))
        logits = await self._network.logits(views, phrases)
        column = {phrase: index for index, phrase in enumerate(phrases)}
        return [
            {
                question: _told(choices, softmax(row[[column[phrase] for phrase in choices]]))
                for question, choices in questions.items()
            }
            for row in logits
        ]


def softmax(logits: Map) -> Map:
    """Softmax over the last axis."""
    raised: Map = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalized: Map = raised / raised.sum(axis=-1, keepdims=True)
    return normalized


def _told(phrases: tuple[str, ...], probabilities: Map) -> dict[str, float]:
    return {phrase: float(value) for phrase, value in zip(phrases, probabilities, strict=True)}
