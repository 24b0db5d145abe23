"""The faster layers compute what the layers they replace compute."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from deployments.engine.cpu_layers import (
    MixedGroupNorm,
    ShortAttention,
    attend,
    use_cpu_layers,
)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=40,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


@pytest.mark.parametrize("size", [8, 40], ids=["short sequences", "long sequences"])
def test_a_unet_predicts_the_same(unet: UNet2DConditionModel, size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, size, size, generator=generator)
    context = torch.randn(2, 7, 24, generator=generator)
    timestep = torch.tensor([10.0, 900.0])
    plain = copy.deepcopy(unet).to(torch.bfloat16).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    use_cpu_layers(fast)
    with torch.inference_mode():
        exact = unet(x, timestep, context).sample
        low = [model(x.bfloat16(), timestep, context.bfloat16()).sample.float() for model in (plain, fast)]
    errors = [float((output - exact).norm() / exact.norm()) for output in low]
    assert errors[1] <= 1.2 * errors[0] <= 0.06


@pytest.mark.parametrize("size", [8, 32], ids=["small map", "large map"])
def test_a_group_norm_normalizes_the_same(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 16, size, size, generator=generator).bfloat16()
    x = 3 * x.to(memory_format=torch.channels_last) + 1
    exact = nn.GroupNorm(4, 16)
    nn.init.normal_(exact.weight, generator=generator)
    nn.init.normal_(exact.bias, generator=generator)
    network: Any = nn.Sequential(copy.deepcopy(exact).bfloat16())
    use_cpu_layers(network)
    fast = network[0]
    assert type(fast) is MixedGroupNorm
    with torch.inference_mode():
        expected, actual = exact(x.float()), fast(x)
        activated = fast.activated(x)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(activated.float(), F.silu(expected), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(actual.float(), expected, rtol=1e-2, atol=1e-2)


def test_every_layer_is_switched_and_the_weights_keep_their_names(unet: UNet2DConditionModel) -> None:
    fast = copy.deepcopy(unet).to(torch.bfloat16)
    use_cpu_layers(fast)
    assert fast.state_dict().keys() == unet.state_dict().keys()
    assert not any(type(module) is nn.GroupNorm for module in fast.modules())
    assert {type(processor) for processor in fast.attn_processors.values()} == {ShortAttention}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("queries", "keys"), [(64, 64), (256, 256), (64, 77), (400, 400)], ids=["short", "in parts", "77", "long"]
)
def test_attention_is_that_of_pytorch(queries: int, keys: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(5, length, 32, generator=generator) for length in (queries, keys, keys))

    def by_head(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.view(5, -1, 4, 8).transpose(1, 2)

    expected = F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), scale=0.3)
    attended = attend(q.to(dtype), k.to(dtype), v.to(dtype), 4, 0.3).float()
    exact = dtype == torch.float32
    torch.testing.assert_close(
        attended,
        expected.transpose(1, 2).reshape(5, queries, 32),
        rtol=1e-4 if exact else 3e-2,
        atol=1e-5 if exact else 2e-2,
    )
