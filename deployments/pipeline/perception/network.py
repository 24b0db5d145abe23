"""One CLIPSeg network and its batches: where words are in square views, and how well they fit them.

CLIPSeg (Lüddecke and Ecker 2022) is a whole CLIP with a decoder that reads its vision tower, so masks and
zero-shot attributes come from the same forward pass. Knows tensors; not pictures, files or requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from core.errors import InvalidRequest
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.embedding_cache import EmbeddingCache
from deployments.pipeline.perception.views import Map, Pixels
from weights.perception import PreprocessFacts

# CLIP's own bound of its temperature.
_MAX_LOGIT_SCALE = 100.0
_CACHED_PHRASES = 1_024


class Network(Protocol):
    """Answers about square views ``[n, side, side, 3]`` of pictures. See :class:`ClipSeg`."""

    side: int

    async def masks(self, views: Pixels, phrases: tuple[str, ...]) -> Map: ...

    async def logits(self, views: Pixels, phrases: tuple[str, ...]) -> Map: ...

    def close(self) -> None: ...


class Wanted(StrEnum):
    """What is asked of views and phrases."""

    MASKS = "masks"
    LOGITS = "logits"


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Views ``[n, side, side, 3]`` and the phrases to look for in each."""

    wanted: Wanted
    views: Pixels
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the vision tower made of one view: the decoder's input ``[layers, 1 + patches, width]`` and the
    view's embedding ``[projection]``.
    """

    activations: torch.Tensor
    embedding: torch.Tensor


class ClipSeg:
    """The network of one replica. Questions that wait are answered together, in a thread of its own.

    ``max_batch`` bounds the questions answered together and the rows of a forward pass. What the tower
    made of the latest views is kept, up to ``cache_bytes``, for further words about the same picture.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        preprocessing: PreprocessFacts,
        *,
        device: str = "cpu",
        max_batch: int = 8,
        cache_bytes: int = 128 * 2**20,
    ) -> None:
        self.side = preprocessing.size
        self._tokenizer = tokenizer
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self._max_batch = max_batch
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        text = model.config.text_config
        self._max_tokens = min(int(tokenizer.model_max_length), int(text.max_position_embeddings))
        self._layers = [int(layer) + 1 for layer in model.extract_layers]
        self._phrases: EmbeddingCache[str, torch.Tensor] = EmbeddingCache(
            _CACHED_PHRASES * int(model.config.projection_dim) * 4
        )
        self._activations: EmbeddingCache[bytes, torch.Tensor] = EmbeddingCache(cache_bytes)
        self._embeddings: EmbeddingCache[bytes, torch.Tensor] = EmbeddingCache(2**20)
        self._batcher: Batcher[Question, Map] = Batcher(self.answer_batch, max_batch, name="clipseg")

    async def masks(self, views: Pixels, phrases: tuple[str, ...]) -> Map:
        """Probabilities ``[n, phrases, side, side]`` that a pixel of a view belongs to a phrase.

        Raises :class:`InvalidRequest` for a phrase over the text tower's context.
        """
        return await self._batcher.submit(Question(Wanted.MASKS, views, phrases))

    async def logits(self, views: Pixels, phrases: tuple[str, ...]) -> Map:
        """How well the phrases fit the views, ``[n, phrases]``: CLIP's scaled cosine similarities."""
        return await self._batcher.submit(Question(Wanted.LOGITS, views, phrases))

    def close(self) -> None:
        self._batcher.close()

    @torch.inference_mode()
    def answer_batch(self, questions: Sequence[Question]) -> list[Map]:
        """Answers in the order of ``questions``, each as it would be alone."""
        phrases = self._read(phrase for question in questions for phrase in question.phrases)
        views = {_digest(view): view for question in questions for view in question.views}
        seen = self._see(views)
        answers: list[Map | None] = []
        rows: list[tuple[_Seen, torch.Tensor]] = []
        for question in questions:
            pictures = [seen[_digest(view)] for view in question.views]
            words = [phrases[phrase] for phrase in question.phrases]
            if question.wanted is Wanted.LOGITS:
                answers.append(self._similarities(pictures, words))
            else:
                answers.append(None)
                rows += [(picture, word) for picture in pictures for word in words]
        found = self._segment(rows)
        finished: list[Map] = []
        for question, answer in zip(questions, answers, strict=True):
            if answer is None:
                num = len(question.views) * len(question.phrases)
                shape = (len(question.views), len(question.phrases), *found.shape[1:])
                answer, found = found[:num].reshape(shape), found[num:]
            finished.append(answer)
        return finished

    def _read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        """Text embeddings ``[projection]``, not normalized, by phrase."""
        embeddings: dict[str, torch.Tensor] = {}
        unknown: list[str] = []
        for phrase in dict.fromkeys(wanted):
            cached = self._phrases.get(phrase)
            if cached is None:
                unknown.append(phrase)
            else:
                embeddings[phrase] = cached
        if unknown:
            ids = self._tokenizer(unknown).input_ids
            if max(map(len, ids)) > self._max_tokens:
                raise InvalidRequest(
                    f"A description is over {self._max_tokens} tokens.", field="words", limit=self._max_tokens
                )
            tokens = self._tokenizer(
                unknown, padding="max_length", max_length=self._max_tokens, return_tensors="pt"
            ).to(self._device)
            features = self._model.clip.get_text_features(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            for phrase, embedding in zip(unknown, features, strict=True):
                embeddings[phrase] = embedding
                self._phrases.put(phrase, embedding.clone())
        return embeddings

    def _see(self, views: dict[bytes, Pixels]) -> dict[bytes, _Seen]:
        """What the vision tower makes of views ``[side, side, 3]``, by their digests."""
        seen: dict[bytes, _Seen] = {}
        unknown: list[bytes] = []
        for digest in views:
            activations, embedding = self._activations.get(digest), self._embeddings.get(digest)
            if activations is None or embedding is None:
                unknown.append(digest)
            else:
                seen[digest] = _Seen(activations, embedding)
        for start in range(0, len(unknown), self._max_batch):
            digests = unknown[start : start + self._max_batch]
            for digest, one in zip(
                digests, self._look(np.stack([views[digest] for digest in digests])), strict=True
            ):
                seen[digest] = one
                self._activations.put(digest, one.activations)
                self._embeddings.put(digest, one.embedding)
        return seen

    def _look(self, pixels: Pixels) -> list[_Seen]:
        shown = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 255
        output = self._model.clip.vision_model(
            (shown - self._mean) / self._std, output_hidden_states=True, interpolate_pos_encoding=True
        )
        activations = torch.stack([output.hidden_states[layer] for layer in self._layers], 1)
        embeddings = self._model.clip.visual_projection(output.pooler_output)
        # Cloned, so that a kept view does not hold on to its whole batch.
        return [
            _Seen(one.clone(), embedding.clone())
            for one, embedding in zip(activations, embeddings, strict=True)
        ]

    def _similarities(self, seen: Sequence[_Seen], words: Sequence[torch.Tensor]) -> Map:
        pictures = F.normalize(torch.stack([one.embedding for one in seen]), dim=-1)
        scale = self._model.clip.logit_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        logits: Map = (scale * pictures @ F.normalize(torch.stack(list(words)), dim=-1).T).cpu().numpy()
        return logits

    def _segment(self, rows: Sequence[tuple[_Seen, torch.Tensor]]) -> Map:
        """Probabilities ``[rows, side, side]`` of pairs of a view and a phrase."""
        maps = []
        for start in range(0, len(rows), self._max_batch):
            chunk = rows[start : start + self._max_batch]
            activations = torch.stack([seen.activations for seen, _ in chunk], 1)
            conditions = torch.stack([phrase for _, phrase in chunk])
            maps.append(self._model.decoder(tuple(activations), conditions).logits.sigmoid().cpu())
        return torch.cat(maps).numpy() if maps else np.zeros((0, self.side, self.side), np.float32)


def _digest(view: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(view).data, digest_size=16).digest()
