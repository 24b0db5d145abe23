from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import InvalidRequest
from core.specs import Task
from deployments.pipeline.powerpaint.prompts import Layout, TaskPrompts
from deployments.pipeline.prompts import PromptEncoder
from deployments.pipeline.text import Prompt
from tests.powerpaint_files import build_v1_release, build_v2_release
from weights import powerpaint, registry
from weights.powerpaint import words_of

POOR = "worst quality, low quality, normal quality, bad quality, blurry"


@pytest.fixture(scope="module")
def releases(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return build_v1_release(folder / "v1", tiny_family), build_v2_release(folder / "v2", tiny_family)


@pytest.fixture
def plain(tiny_model_id: str) -> PromptEncoder:
    return PromptEncoder(*registry.load_text(tiny_model_id), cache_entries=16)


@pytest.fixture
def extended(releases: tuple[Path, Path], tiny_family: Path) -> PromptEncoder:
    return PromptEncoder(*powerpaint.load_v1_text(releases[0], tiny_family), cache_entries=16)


@pytest.fixture
def of_branch(releases: tuple[Path, Path], tiny_family: Path) -> PromptEncoder:
    return PromptEncoder(*powerpaint.load_v2_text(releases[1], tiny_family), cache_entries=16)


@pytest.fixture
def v1(extended: PromptEncoder) -> TaskPrompts:
    return TaskPrompts(extended)


@pytest.fixture
def v2(plain: PromptEncoder, of_branch: PromptEncoder) -> TaskPrompts:
    return TaskPrompts(plain, of_branch)


@pytest.mark.parametrize(
    ("task", "positive", "negative"),
    [
        (Task.TEXT_GUIDED, f"red cat {words_of('P_obj')}", f"dog, {POOR} {words_of('P_obj')}"),
        (Task.OBJECT_REMOVAL, f"empty scene blur red cat {words_of('P_ctxt')}", f"dog {words_of('P_obj')}"),
        (Task.OUTPAINTING, f"empty scene blur red cat {words_of('P_ctxt')}", f"dog {words_of('P_obj')}"),
        (Task.SHAPE_GUIDED, f"red cat {words_of('P_shape')}", f"dog, {POOR} {words_of('P_shape')}"),
    ],
)
async def test_v1_reads_words_and_task_in_one_prompt(
    v1: TaskPrompts, extended: PromptEncoder, task: Task, positive: str, negative: str
) -> None:
    told = await v1.encode(task, "red cat", "dog")
    expected, expected_negative = await extended.encode_pair(positive, negative)
    assert v1.layout is Layout.V1
    torch.testing.assert_close(told.positive, expected)
    torch.testing.assert_close(told.negative, expected_negative)


async def test_fitting_degree_mixes_shape_and_context(v1: TaskPrompts, extended: PromptEncoder) -> None:
    told = await v1.encode(Task.SHAPE_GUIDED, "cat", "", fitting_degree=0.3)
    shape, no_shape = await extended.encode_pair(
        f"cat {words_of('P_shape')}", f"{POOR} {words_of('P_shape')}"
    )
    context, no_context = await extended.encode_pair(
        f"cat {words_of('P_ctxt')}", f"{POOR} {words_of('P_ctxt')}"
    )
    assert no_shape is not None
    assert no_context is not None
    torch.testing.assert_close(told.positive, 0.3 * shape + 0.7 * context)
    torch.testing.assert_close(told.negative, 0.3 * no_shape + 0.7 * no_context)


@pytest.mark.parametrize(
    ("task", "words", "token", "negative_token"),
    [
        (Task.TEXT_GUIDED, "red cat", "P_obj", "P_obj"),
        (Task.OBJECT_REMOVAL, "red cat empty scene blur", "P_ctxt", "P_obj"),
        (Task.OUTPAINTING, "red cat empty scene blur", "P_ctxt", "P_obj"),
        (Task.SHAPE_GUIDED, "red cat", "P_shape", "P_shape"),
    ],
)
async def test_v2_tells_the_unet_the_words_and_the_branch_the_task(
    v2: TaskPrompts,
    plain: PromptEncoder,
    of_branch: PromptEncoder,
    task: Task,
    words: str,
    token: str,
    negative_token: str,
) -> None:
    told, of_task = await v2.encode(task, "red cat", "dog"), await v2.for_branch(task)
    expected = await plain.encode_pair(words, "dog")
    learned = of_branch.encode_batch([Prompt(words_of(token)), Prompt(words_of(negative_token))])
    assert v2.layout is Layout.V2
    for got, wanted in zip((*told[:2], *of_task[:2]), (*expected, *learned), strict=True):
        torch.testing.assert_close(got, wanted)


async def test_v2_mixes_the_branch_prompts_alone(v2: TaskPrompts, of_branch: PromptEncoder) -> None:
    told = await v2.for_branch(Task.SHAPE_GUIDED, fitting_degree=0.75)
    shape, context = of_branch.encode_batch([Prompt(words_of("P_shape")), Prompt(words_of("P_ctxt"))])
    torch.testing.assert_close(told.positive, 0.75 * shape + 0.25 * context)
    torch.testing.assert_close(told.negative, told.positive)
    loose, tight = [
        await v2.encode(Task.SHAPE_GUIDED, "cat", "", fitting_degree=degree) for degree in (0.75, 1.0)
    ]
    assert torch.equal(loose.positive, tight.positive)


@pytest.mark.parametrize("task", Task)
async def test_without_guidance_nothing_negative_is_encoded(
    v1: TaskPrompts, v2: TaskPrompts, task: Task
) -> None:
    for prompts in (v1, v2):
        assert (await prompts.encode(task, "cat", None, fitting_degree=0.5)).negative is None
    assert (await v2.for_branch(task, fitting_degree=0.5, guided=False)).negative is None


async def test_weights_hold_beside_a_task(v1: TaskPrompts) -> None:
    plain = await v1.encode(Task.TEXT_GUIDED, "a red cat", None)
    same = await v1.encode(Task.TEXT_GUIDED, "a (red)1.0001 cat", None)
    strong = await v1.encode(Task.TEXT_GUIDED, "a (red)1.5 cat", None)
    torch.testing.assert_close(same.positive, plain.positive, atol=1e-3, rtol=1e-3)
    assert (strong.positive - plain.positive).norm() > 0.1


async def test_a_long_prompt_keeps_its_task(v1: TaskPrompts) -> None:
    long = "red hair, blue cat, " * 16
    shape, context = [
        (await v1.encode(Task.SHAPE_GUIDED, long, "", fitting_degree=degree)).positive
        for degree in (1.0, 0.0)
    ]
    assert shape.shape == context.shape
    assert len(shape) > 77
    assert torch.equal(shape[:60], context[:60])
    assert not torch.equal(shape, context)


@pytest.mark.parametrize("layout", ["v1", "v2"])
async def test_a_blend_cannot_carry_a_task(v1: TaskPrompts, v2: TaskPrompts, layout: str) -> None:
    prompts = {"v1": v1, "v2": v2}[layout]
    with pytest.raises(InvalidRequest, match="blend") as refused:
        await prompts.encode(Task.OBJECT_REMOVAL, '("cat", "dog").blend(0.5, 0.5)', "")
    assert refused.value.field == "prompt"


async def test_a_faulty_negative_prompt_is_named(v1: TaskPrompts) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await v1.encode(Task.TEXT_GUIDED, "cat", '("cat", "dog").and()')
    assert refused.value.field == "negative_prompt"
