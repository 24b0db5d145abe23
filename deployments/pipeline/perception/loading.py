"""What a model has for perception, put together. Knows the registry and the families; imports torch."""

from __future__ import annotations

from core.settings import PerceptionSettings, SafetySettings
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.checks import ConceptCheck, ZeroShotCheck
from deployments.pipeline.perception.doubts import Doubts
from deployments.pipeline.perception.faces import DrawnFaces, photo_faces
from deployments.pipeline.perception.families import facts_of
from deployments.pipeline.perception.masks import MaskFinder
from deployments.pipeline.perception.network import ClipSeg
from deployments.pipeline.perception.perceiver import Missing, Parts
from weights import registry
from weights.errors import NotInstalled
from weights.perception import load_perception
from weights.safety import load_safety

_NO_PHOTO_FACES = Missing("Faces on photographs are counted by a detector: pip install 'limner[faces]'.")


def load_parts(model_id: str, settings: PerceptionSettings, safety: SafetySettings, device: str) -> Parts:
    """The parts of ``model_id``, from its own folder or its family's companions; what it lacks is Missing.

    Raises :class:`weights.errors.BrokenWeights` for files that are there and are not the right ones.
    """
    facts = facts_of(registry.info(model_id).family)
    network = _network(model_id, settings, device)
    checker = _checker(model_id, settings, device)
    if isinstance(network, Missing):
        faces = network if facts.drawn_faces else photo_faces() or _NO_PHOTO_FACES
        return Parts(network, network, faces, checker or _no_check(network))
    zero_shot = ZeroShot(network)
    doubts = Doubts(zero_shot, facts.doubts) if facts.doubts else None
    masks = MaskFinder(network, empty_below=facts.empty_below, doubts=doubts)
    return Parts(
        masks,
        zero_shot,
        DrawnFaces(masks, zero_shot, facts.drawn_faces)
        if facts.drawn_faces
        else photo_faces() or _NO_PHOTO_FACES,
        checker or ZeroShotCheck(zero_shot, safety, facts.neutral),
    )


def _network(model_id: str, settings: PerceptionSettings, device: str) -> ClipSeg | Missing:
    try:
        tokenizer, model, preprocessing = load_perception(model_id)
    except NotInstalled as error:
        return Missing(error.message)
    return ClipSeg(tokenizer, model, preprocessing, device=device, max_batch=settings.max_batch)


def _checker(model_id: str, settings: PerceptionSettings, device: str) -> ConceptCheck | None:
    installed = load_safety(model_id)
    if installed is None:
        return None
    checker, preprocessing = installed
    return ConceptCheck(checker, preprocessing, device=device, max_batch=settings.max_batch)


def _no_check(network: Missing) -> Missing:
    return Missing(
        "Pictures cannot be checked without a safety checker or a CLIPSeg model; install one or switch the "
        f"check off (safety.enabled). {network.message}"
    )
