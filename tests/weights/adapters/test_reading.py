from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from core.errors import InvalidRequest
from core.training import MAX_RANK
from tests.adapter_files import small_adapter
from weights.adapters import (
    AdapterWeights,
    Fact,
    LoraLayer,
    read_adapter,
    reading,
    tensors_sha256,
    text_encoder_factors,
    unet_factors,
    write_kohya,
    write_peft,
)
from weights.adapters.reading import SETTINGS_KEY

PATH = "down_blocks.1.attentions.0.proj_in"
KOHYA = "lora_unet_down_blocks_1_attentions_0_proj_in"
DOWN, UP = torch.ones(2, 8), torch.ones(8, 2)


def peft(settings: dict[str, Any] | str = "", **others: torch.Tensor) -> bytes:
    tensors = {f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP, **others}
    text = settings if isinstance(settings, str) else json.dumps(settings)
    return save(tensors, {SETTINGS_KEY: text} if text else None)


def kohya(down: torch.Tensor = DOWN, up: torch.Tensor = UP, **others: torch.Tensor) -> bytes:
    tensors = {"lora_down.weight": down, "lora_up.weight": up, **others}
    return save({f"{KOHYA}.{side}": tensor for side, tensor in tensors.items()})


def layers() -> st.SearchStrategy[LoraLayer]:
    return st.builds(
        _layer,
        rank=st.integers(1, 5),
        kernel=st.sampled_from([None, 1, 3]),
        dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
        alpha=st.floats(1e-3, 1e3),
        seed=st.integers(0, 100),
    )


def _layer(rank: int, kernel: int | None, dtype: torch.dtype, alpha: float, seed: int) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    sides, ones = ((kernel, kernel), (1, 1)) if kernel else ((), ())
    down = torch.randn(rank, 6, *sides, generator=generator).to(dtype)
    return LoraLayer(down, torch.randn(4, rank, *ones, generator=generator).to(dtype), alpha)


ADAPTERS = st.builds(
    AdapterWeights,
    st.dictionaries(st.sampled_from([PATH, "conv_in", "mid_block.resnets.0.conv1"]), layers(), min_size=1),
    st.dictionaries(
        st.sampled_from(["encoder.layers.0.mlp.fc1", "encoder.layers.2.self_attn.q_proj"]), layers()
    ),
    st.just({Fact.BASE_MODEL.value: "mini", Fact.TRIGGER.value: "sks", Fact.STEPS.value: "300"}),
)


def same(first: AdapterWeights, second: AdapterWeights) -> bool:
    return all(
        one.keys() == other.keys()
        and all(
            one[path].alpha == other[path].alpha
            and one[path].down.dtype == other[path].down.dtype
            and torch.equal(one[path].down, other[path].down)
            and torch.equal(one[path].up, other[path].up)
            for path in one
        )
        for one, other in ((first.unet, second.unet), (first.text_encoder, second.text_encoder))
    )


@settings(max_examples=40, deadline=None)
@given(ADAPTERS)
def test_round_trips_are_exact(weights: AdapterWeights) -> None:
    for write in (write_peft, write_kohya):
        read = read_adapter(write(weights))
        assert same(read, weights)
        assert tensors_sha256(read) == tensors_sha256(weights)
        assert weights.metadata.items() <= read.metadata.items()
        assert write_peft(read) == write_peft(weights)


def test_metadata_tells_what_the_adapter_is() -> None:
    weights = AdapterWeights(
        {"a": _layer(2, None, torch.float32, 3.0, 0), "b": _layer(4, None, torch.float32, 8.0, 1)},
        {},
        {Fact.BASE_MODEL: "mini", Fact.TRIGGER: "sks", Fact.SUBJECT: "robot", Fact.STEPS: "300"},
    )
    data = write_kohya(weights)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert metadata[Fact.RANK] == metadata["ss_network_dim"] == "4"
    assert metadata[Fact.ALPHA] == metadata["ss_network_alpha"] == "8"
    assert metadata[Fact.SHA256] == tensors_sha256(weights)
    assert metadata["modelspec.trigger_phrase"] == "sks robot"
    assert (weights.rank, weights.alpha, weights.num_steps) == (4, 8.0, 300)


def test_the_hash_knows_values_alphas_and_names_but_no_layouts() -> None:
    layer = _layer(2, None, torch.float16, 3.0, 0)
    original = tensors_sha256(AdapterWeights({"a": layer}, {}))
    wider = LoraLayer(layer.down.float()[:, :, None, None], layer.up.float()[:, :, None, None], 3.0)
    assert tensors_sha256(AdapterWeights({"a": wider}, {})) == original
    others = [{"b": layer}, {"a": layer._replace(alpha=4.0)}, {"a": layer._replace(down=layer.down + 1)}]
    hashes = {tensors_sha256(AdapterWeights(unet, {})) for unet in others}
    assert len(hashes | {original, tensors_sha256(AdapterWeights({}, {"a": layer}))}) == 5


def test_factors_hold_alpha_over_rank() -> None:
    weights = read_adapter(kohya(alpha=torch.tensor(3)))
    down, up = unet_factors(weights)[PATH]
    assert torch.equal(down, DOWN)
    assert torch.equal(up, UP * 1.5)
    assert text_encoder_factors(weights) == {}


def test_rank_stabilised_settings_become_an_alpha_of_the_same_effect() -> None:
    weights = read_adapter(peft({"unet.lora_alpha": 4, "unet.use_rslora": True}))
    assert weights.unet[PATH].alpha / 2 == pytest.approx(4 / math.sqrt(2))


@pytest.mark.parametrize("key", ["proj_in", f"^{PATH}$", PATH, r"attentions\.0\.proj_in"])
def test_alpha_patterns_end_a_layers_path(key: str) -> None:
    found = read_adapter(peft({"unet.lora_alpha": 4, "unet.alpha_pattern": {"oj_in": 9, key: 7, "x": 8}}))
    assert found.unet[PATH].alpha == 7.0


def test_steps_are_taken_from_kohya_and_captions_are_not() -> None:
    tensors = {f"{KOHYA}.lora_down.weight": DOWN, f"{KOHYA}.lora_up.weight": UP}
    weights = read_adapter(save(tensors, {"ss_steps": "1200", "ss_tag_frequency": '{"my address": 1}'}))
    assert weights.metadata == {Fact.STEPS: "1200"}
    assert weights.num_steps == 1200


A_WEIGHT = f"unet.{PATH}.lora_A.weight"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (save({"": DOWN}), "not a tensor of a LoRA"),
        (save({A_WEIGHT: DOWN}), "lacks its up"),
        (save({f"{KOHYA}.alpha": torch.tensor(1.0)}), "lacks its down and up"),
        (peft("", **{f"{KOHYA}.lora_down.weight": DOWN + 1}), "twice"),
        (kohya(alpha=torch.ones(2)), "2 values for alpha"),
        (kohya(alpha=torch.tensor(0.0)), "alpha 0"),
        (kohya(alpha=torch.tensor(-1.0)), "alpha -1"),
        (kohya(alpha=torch.tensor(1e9)), "alpha 1000000000"),
        (kohya(DOWN.long(), UP.long()), "int64"),
        (kohya(DOWN, torch.ones(8, 3)), "no LoRA"),
        (kohya(torch.ones(2, 8, 3), UP), "no LoRA"),
        (kohya(torch.ones(2, 8, 3, 3), torch.ones(8, 2, 3, 3)), "no LoRA"),
        (peft("{"), "cannot be read"),
        (peft("[]"), "cannot be read"),
        (peft({"unet.alpha_pattern": 3}), "cannot be read"),
        (peft({"unet.alpha_pattern": {"(a+)+$": 3}}), "regular expression"),
        (peft({"unet.alpha_pattern": {"proj_in": "3"}}), "not a number"),
        (peft({"unet.lora_alpha": True}), "not a number"),
        (peft({"unet.lora_alpha": 10**400}), "alpha inf"),
        (peft('{"unet.lora_alpha": NaN}'), "alpha"),
        (peft({"unet.use_dora": True}), "DoRA"),
        (peft({"unet.modules_to_save": ["conv_in"]}), "whole layers"),
        (peft({"unet.lora_bias": True}), "biases"),
    ],
)
def test_what_is_no_lora_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        read_adapter(data)
    assert refused.value.field == "file"


def test_the_highest_rank_is_named() -> None:
    read_adapter(kohya(torch.ones(MAX_RANK, 8), torch.ones(8, MAX_RANK)))
    with pytest.raises(InvalidRequest, match="rank 65") as refused:
        read_adapter(kohya(torch.ones(MAX_RANK + 1, 8), torch.ones(8, MAX_RANK + 1)))
    assert refused.value.limit == MAX_RANK


def test_the_number_of_layers_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LAYERS", 1)
    with pytest.raises(InvalidRequest, match="2 layers") as refused:
        read_adapter(write_peft(small_adapter()))
    assert refused.value.limit == 1


def test_a_file_without_layers_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no layers"):
        read_adapter((2).to_bytes(8, "little") + b"{}" + b"")
