"""Text through one CLIP encoder: tokens, layers, weights, long texts, adapters. Knows nothing of caches.

A plain prompt gives what ``encode_prompt`` of diffusers' pipelines gives, with its adapters what that gives
once they are loaded; a longer one is encoded in chunks of the encoder's context instead of being cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.errors import InvalidRequest
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.transfer import OwnStream
from deployments.pipeline.weighting import parse_weights

if TYPE_CHECKING:
    from compel.prompt_parser import Conjunction

MAX_CHUNKS = 8

# Ids and weights of adapters, sorted by id.
Stack = tuple[tuple[str, float], ...]


class Adaptation(NamedTuple):
    """Adapters that act while prompts are encoded, and their factors by id."""

    stack: Stack = ()
    factors: Mapping[str, LoraFactors] = MappingProxyType({})


NOT_ADAPTED = Adaptation()


class Prompt(NamedTuple):
    """A text, how many layers before the encoder's own are left out, and what adapts the others."""

    text: str
    clip_skip: int = 0
    adapters: Stack = ()


class Reading(NamedTuple):
    """What a family reads off its text encoder.

    ``layer`` counts from the end, 1 for the last one; its states are ``normed`` by the encoder's final norm.
    With ``pooled`` the projected state of the end token is read, too.
    """

    layer: int = 1
    normed: bool = True
    pooled: bool = False


class Encoded(NamedTuple):
    """Hidden states ``[tokens, width]``, and the pooled embedding ``[width]`` if it is read."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.states.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


class TextReader:
    """A tokenizer and its text encoder, in which ``num_slots`` adapters act at a time."""

    def __init__(self, tokenizer: Any, text_encoder: Any, reading: Reading, num_slots: int) -> None:
        self._tokenizer = tokenizer
        self.network = text_encoder
        self._reading = reading
        # One with a projection has the layers one level deeper.
        layers = getattr(text_encoder, "text_model", text_encoder)
        self._norm = layers.final_layer_norm
        self._num_slots = num_slots
        self.slots = LoraSlots(layers, num_slots)
        self._stream = OwnStream(text_encoder.device)
        self.context_tokens = int(tokenizer.model_max_length)
        self.max_clip_skip = int(text_encoder.config.num_hidden_layers) - reading.layer

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors]) -> list[Encoded]:
        """``prompts`` in their order: one forward for all that are plain and short, whatever their adapters,
        as long as these have slots together. Raises :class:`InvalidRequest`."""
        with self._stream():
            return self._read(prompts, factors)

    def _read(self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors]) -> list[Encoded]:
        encoded: dict[Prompt, Encoded] = {}
        plain: list[Prompt] = []
        for prompt in dict.fromkeys(prompts):
            weighted = parse_weights(prompt.text)
            num_tokens = len(self._tokenizer(prompt.text).input_ids)
            self._check_length(num_tokens)
            if weighted is None and num_tokens <= self.context_tokens:
                plain.append(prompt)
            else:
                encoded[prompt] = self._read_chunks(prompt, weighted, factors)
        for group in _groups(plain, self._num_slots):
            encoded.update(zip(group, self._read_plain(group, factors), strict=True))
        return [encoded[prompt] for prompt in prompts]

    def called(
        self,
        tokens: torch.Tensor,
        rows: Sequence[Prompt],
        factors: Mapping[str, LoraFactors],
        attention_mask: torch.Tensor | None = None,
    ) -> Any:
        """The encoder's output for ``tokens``, whose rows are adapted as those of ``rows`` are."""
        layer = self._reading.layer + max(prompt.clip_skip for prompt in rows)
        inner = layer > 1 or not self._reading.normed
        with self.slots.acting(self.slots.rows([prompt.adapters for prompt in rows], factors)):
            return self.network(tokens, attention_mask, output_hidden_states=inner)

    def states(self, output: Any, clip_skip: int) -> torch.Tensor:
        """Hidden states ``[batch, tokens, width]`` of the layer that is read, or ``clip_skip`` before."""
        layer = self._reading.layer + clip_skip
        if layer == 1 and self._reading.normed:
            states: torch.Tensor = output.last_hidden_state
        else:
            states = output.hidden_states[-layer]
            states = self._norm(states) if self._reading.normed else states
        return states

    def _read_plain(self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors]) -> list[Encoded]:
        tokens = self._tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=self.context_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.network.device)
        output = self.called(tokens, prompts, factors)
        return [
            Encoded(
                _finished(self.states(output, prompt.clip_skip)[row]),
                _finished(output.text_embeds[row]) if self._reading.pooled else None,
            )
            for row, prompt in enumerate(prompts)
        ]

    def _read_chunks(
        self, prompt: Prompt, weighted: Conjunction | None, factors: Mapping[str, LoraFactors]
    ) -> Encoded:
        # Only prompts that are weighted or long need it, and it takes long to import.
        from compel import Compel, EmbeddingsProvider

        encoder = _SkippingEncoder(self, prompt, factors)
        try:
            if weighted is None:
                provider = EmbeddingsProvider(self._tokenizer, encoder, truncate=False)
                states = provider.get_embeddings_for_weighted_prompt_fragments([[prompt.text]], [[1.0]])
            else:
                compel = Compel(self._tokenizer, encoder, truncate_long_prompts=False)
                states, _ = compel.build_conditioning_tensor_for_conjunction(weighted)
            pooled = self._pooled(prompt, weighted, factors) if self._reading.pooled else None
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # compel has no errors of its own for contradictory input (two texts blended by three weights).
            raise InvalidRequest("The prompt's weights cannot be applied.", field="prompt") from error
        self._check_length(states.shape[1])
        if not all(torch.isfinite(each).all() for each in (states, pooled) if each is not None):
            raise InvalidRequest("The prompt's weights are out of range.", field="prompt")
        return Encoded(_finished(states[0]), pooled)

    def _pooled(
        self, prompt: Prompt, weighted: Conjunction | None, factors: Mapping[str, LoraFactors]
    ) -> torch.Tensor:
        """One token alone is pooled, so words have no weights here, and of a long text the first chunk is
        read; the texts of a blend or a conjunction are averaged by their weights."""
        shares = [(prompt.text, 1.0)]
        if weighted is not None:
            from deployments.pipeline.weighting_grammar import plain_texts

            shares = plain_texts(weighted)
        pooled = []
        for text, share in shares:
            (encoded,) = self._read_plain([prompt._replace(text=text)], factors)
            assert encoded.pooled is not None, "this encoder's is read"
            pooled.append(encoded.pooled * share)
        return torch.stack(pooled).sum(0)

    def _check_length(self, num_tokens: int) -> None:
        limit = MAX_CHUNKS * self.context_tokens
        if num_tokens > limit:
            raise InvalidRequest(f"The prompt is over {limit} tokens.", field="prompt", limit=limit)


class _SkippingEncoder:
    """The text encoder as compel calls it, its layers already skipped (compel's own modes fail) and
    adapted as ``prompt`` wants it, every row alike."""

    def __init__(self, reader: TextReader, prompt: Prompt, factors: Mapping[str, LoraFactors]) -> None:
        self._reader = reader
        self._prompt = prompt
        self._factors = factors
        self.device = reader.network.device
        self.dtype = reader.network.dtype

    def __call__(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object
    ) -> SimpleNamespace:
        output = self._reader.called(tokens, [self._prompt] * len(tokens), self._factors, attention_mask)
        return SimpleNamespace(last_hidden_state=self._reader.states(output, self._prompt.clip_skip))


def _groups(prompts: Sequence[Prompt], num_slots: int) -> Iterator[list[Prompt]]:
    """``prompts`` in their order, in as few groups as their adapters have slots for."""
    group: list[Prompt] = []
    together: set[str] = set()
    for prompt in prompts:
        names = {name for name, _ in prompt.adapters}
        if len(together | names) > num_slots:
            yield group
            group, together = [], set()
        group.append(prompt)
        together |= names
    if group:
        yield group


def _finished(states: torch.Tensor) -> torch.Tensor:
    return states.float().cpu().contiguous()
