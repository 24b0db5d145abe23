from __future__ import annotations

import json
import pickle
import zipfile
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from core.errors import InvalidRequest
from tests.adapter_files import small_adapter
from weights.adapters import container, read_adapter, write_kohya, write_peft
from weights.adapters.container import read_container, write_container

TENSORS = {"b": torch.arange(6.0).reshape(2, 3).half(), "a": torch.tensor(1.5), "c": torch.ones(2).bfloat16()}
VALID = write_peft(small_adapter())


def with_header(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def described(dtype: str, shape: list[Any], start: Any, stop: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    return file.getvalue()


def test_files_are_those_of_the_safetensors_library() -> None:
    tensors, metadata = read_container(save(TENSORS, {"key": "value"}))
    assert metadata == {"key": "value"}
    for read in (tensors, load(write_container(TENSORS, {"key": "value"}))):
        assert read.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)


def test_the_same_content_makes_the_same_bytes() -> None:
    turned = dict(reversed(TENSORS.items()))
    assert write_container(TENSORS, {"x": "1", "y": "2"}) == write_container(turned, {"y": "2", "x": "1"})


ONE = b"\0" * 4


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "unknown format"),
        (b"<!DOCTYPE html>" + b" " * 99, "web page"),
        (zipped(), "pickle"),
        (pickle.dumps({"lora": 1}, protocol=2), "pickle"),
        (pickle.dumps({"lora": 1}), "pickle"),
        (VALID[:40], "truncated"),
        (VALID[:-1], "truncated"),
        (VALID + b"\0", "tail"),
        (with_header(b"{" * 200), "cannot be read"),
        (with_header(b'{"a":' * 100_000), "cannot be read"),
        (with_header(b'{"a":\xff}'), "cannot be read"),
        (with_header({"a": []}), "cannot be read"),
        (with_header({"a": described("F32", [1], 0, "4")}, ONE), "cannot be read"),
        (with_header({"a": described("F32", [True], 0, 4)}, ONE), "cannot be read"),
        (with_header({"a": described("F32", [-1], 0, 4)}, ONE), "cannot be read"),
        (with_header({"a": described("F32", [1] * 9, 0, 4)}, ONE), "cannot be read"),
        (with_header({"a" * 501: described("F32", [1], 0, 4)}, ONE), "500 characters"),
        (with_header({"a": described("F8_E4M3", [4], 0, 4)}, ONE), "F8_E4M3"),
        (with_header({"a": described("F32", [2], 0, 4)}, ONE), "broken"),
        (with_header({"a": described("F32", [2**40, 2**40], 0, 4)}, ONE), "broken"),
        (with_header({"a": described("F32", [1], 4, 8)}, ONE * 2), "gaps"),
        (
            with_header({"a": described("F32", [1], 0, 4), "b": described("F32", [1], 0, 4)}, ONE),
            "overlap",
        ),
        (with_header({"a": described("F32", [1], 0, 4)}, ONE * 2), "tail"),
        (with_header({"a": described("F32", [0], 0, 0)}), "empty"),
        (with_header(b'{"a":' + json.dumps(described("F32", [1], 0, 4)).encode() + b',"a":1}', ONE), "twice"),
        (with_header({"__metadata__": [], "a": described("F32", [1], 0, 4)}, ONE), "metadata"),
        (save({"a": torch.tensor([1.0, float("nan")])}), "not finite"),
        (save({"a": torch.tensor([float("-inf")]).half()}), "not finite"),
    ],
)
def test_a_hostile_file_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        read_container(data)
    assert refused.value.field == "file"


@pytest.mark.parametrize(
    ("limit", "bound"), [("MAX_FILE_BYTES", 100), ("MAX_HEADER_BYTES", 50), ("MAX_TENSORS", 2)]
)
def test_limits_are_named(monkeypatch: pytest.MonkeyPatch, limit: str, bound: int) -> None:
    monkeypatch.setattr(container, limit, bound)
    with pytest.raises(InvalidRequest) as refused:
        read_container(write_container(TENSORS, {}))
    assert refused.value.limit == bound


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([VALID, write_kohya(small_adapter())]), st.data())
def test_whatever_is_done_to_a_file_it_is_read_or_refused(file: bytes, data: st.DataObject) -> None:
    changed = bytearray(file[: data.draw(st.integers(0, len(file)))] if data.draw(st.booleans()) else file)
    header_bytes = int.from_bytes(file[:8], "little") + 8
    for _ in range(data.draw(st.integers(0, 4))):
        if changed:
            place = data.draw(st.integers(0, min(len(changed), header_bytes) - 1))
            changed[place] = data.draw(st.integers(0, 255))
    with suppress(InvalidRequest):
        read_adapter(bytes(changed))
