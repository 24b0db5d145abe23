"""What a request may name: styles, models, samplers; what a problem's ``type`` means; and where it all is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastapi import APIRouter

from core.errors import InvalidRequest, LimnerError, NotFound
from core.types import ModelInfo, SamplerName
from serve_app import problems
from serve_app.adapter_schemas import ADAPTERS, JOBS
from serve_app.offer import find_model
from serve_app.openapi import problem_responses, summary_of
from serve_app.schemas import (
    Index,
    ModelEntry,
    ModelList,
    ProblemKind,
    SamplerEntry,
    SamplerList,
    StyleDefaults,
    StyleEntry,
    StyleList,
)
from serve_app.styles import Style

# Title, explanation, whether it adds noise at every step.
SAMPLERS: Mapping[SamplerName, tuple[str, str, bool]] = {
    SamplerName.DDIM: ("DDIM", "Deterministic and steady; the reference to compare others with.", False),
    SamplerName.EULER: ("Euler", "The simplest solver; smooth results from 20 steps on.", False),
    SamplerName.EULER_A: (
        "Euler ancestral",
        "Euler with fresh noise at every step: livelier, and never settles as steps are added.",
        True,
    ),
    SamplerName.DPMPP_2M: ("DPM++ 2M", "Second order; good pictures in 15 to 25 steps.", False),
    SamplerName.DPMPP_2M_KARRAS: (
        "DPM++ 2M Karras",
        "DPM++ 2M with more of its steps at low noise, for finer detail.",
        False,
    ),
    SamplerName.LCM: ("LCM", "4 to 8 steps with the few-step adapter; blurry without one.", True),
}
LINKS = {
    "text_to_image": "/v1/text-to-image",
    "image_to_image": "/v1/image-to-image",
    "inpaint": "/v1/inpaint",
    "gender_swap": "/v1/gender-swap",
    "upscale": "/v1/upscale",
    "mask": "/v1/mask",
    "adapters": ADAPTERS,
    "import_adapter": f"{ADAPTERS}/import",
    "jobs": JOBS,
    "styles": "/v1/styles",
    "models": "/v1/models",
    "samplers": "/v1/samplers",
    "problems": "/problems",
    "health": "/healthz",
    "ready": "/readyz",
    "documentation": "/docs",
    "openapi": "/openapi.json",
}


def build_router(models: Sequence[ModelInfo], styles: Sequence[Style], index: Index) -> APIRouter:
    """The catalogue of ``models`` and ``styles``, with ``index`` at the root."""
    router = APIRouter(tags=["catalogue"])

    @router.get("/", operation_id="get_index", summary="Find your way")
    async def get_index() -> Index:
        return index

    @router.get(
        "/v1/styles",
        operation_id="list_styles",
        summary="List the styles, as a model would draw them",
        responses=problem_responses(InvalidRequest),
    )
    async def list_styles(model: str | None = None) -> StyleList:
        """Several styles may be combined. One that is not `available` for the model is refused by name."""
        info = find_model(model, models)
        return StyleList(model=info.model_id, data=[_style(style, info.family) for style in styles])

    @router.get("/v1/models", operation_id="list_models", summary="List the models and their limits")
    async def list_models() -> ModelList:
        return ModelList(data=[ModelEntry.of(info, default=info is models[0]) for info in models])

    @router.get("/v1/samplers", operation_id="list_samplers", summary="List the samplers")
    async def list_samplers() -> SamplerList:
        entries = [
            SamplerEntry(id=name, title=title, description=description, stochastic=stochastic)
            for name, (title, description, stochastic) in SAMPLERS.items()
        ]
        return SamplerList(data=entries)

    return router


def build_problem_router() -> APIRouter:
    """The pages that the ``type`` of a problem leads to."""
    router = APIRouter(prefix="/problems", tags=["catalogue"])
    known = {kind.code: kind for kind in _family(LimnerError)}

    @router.get("", operation_id="list_problems", summary="List the kinds of problem")
    async def list_problems() -> list[ProblemKind]:
        return [_problem_kind(kind) for kind in known.values()]

    @router.get(
        "/{code}",
        operation_id="get_problem",
        summary="Explain a kind of problem",
        responses=problem_responses(NotFound),
    )
    async def get_problem(code: str) -> ProblemKind:
        if code not in known:
            raise NotFound("There is no such kind of problem.", field="code", limit=list(known))
        return _problem_kind(known[code])

    return router


def _style(style: Style, family: str) -> StyleEntry:
    recipe = style.families.get(family)
    brought = recipe.model_dump() if recipe else {}
    return StyleEntry(
        id=style.id,
        title=style.title,
        description=style.description,
        available=recipe is not None,
        prompt=brought.pop("prompt", None),
        negative_prompt=brought.pop("negative_prompt", None),
        defaults=StyleDefaults(**brought) if recipe else None,
    )


def _family(kind: type[LimnerError]) -> Iterator[type[LimnerError]]:
    yield kind
    for member in kind.__subclasses__():
        yield from _family(member)


def _problem_kind(kind: type[LimnerError]) -> ProblemKind:
    return ProblemKind(
        type=problems.type_of(kind.code),
        code=kind.code,
        title=kind.title,
        status=kind.status,
        retryable=kind.retryable,
        description=summary_of(kind),
    )
