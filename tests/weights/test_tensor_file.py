from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weights.errors import RefusedWeights
from weights.tensor_file import read_tensors, write_float16

VALUES = {
    "b.weight": torch.linspace(-3, 3, 35).reshape(5, 7),
    "a.bias": torch.tensor([0.1, 60_000.0, -1e-7]),
    "scalar": torch.tensor(2.5),
}


def rewritten(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    save_file(tensors, folder / "in.safetensors")
    found = read_tensors(folder / "in.safetensors")
    write_float16(folder / "out.safetensors", found, {name: tensor.shape for name, tensor in found.items()})
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_is_written_as_torch_would_round_it(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: value.to(dtype) for name, value in VALUES.items()}
    written = rewritten(tensors, tmp_path)
    assert written.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(written[name], value.half())


def test_a_tensor_larger_than_a_chunk_arrives_whole(tmp_path: Path) -> None:
    values = torch.arange(9_000_000, dtype=torch.float32).remainder(2048)
    assert torch.equal(rewritten({"w": values}, tmp_path)["w"], values.half())


def test_a_header_says_names_types_and_shapes(tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / "in.safetensors")
    found = read_tensors(tmp_path / "in.safetensors")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "a.bias": ("F32", (3,)),
        "b.weight": ("F32", (5, 7)),
        "scalar": ("F32", ()),
    }


def test_values_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RefusedWeights, match=r"big\.weight has values beyond float16"):
        rewritten({"big.weight": torch.tensor([1.0, 70_000.0])}, tmp_path)


def test_integers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedWeights, match="steps is I64, not a float"):
        rewritten({"steps": torch.arange(3)}, tmp_path)


def saved_by_torch(path: Path, *, zipped: bool) -> None:
    torch.save(VALUES, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt", "renamed.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 2", "protocol 5"])
def test_a_pickle_is_refused_whatever_its_name(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind in ("zip", "legacy"):
        saved_by_torch(path, zipped=kind == "zip")
    else:
        path.write_bytes(pickle.dumps({"w": list(range(100))}, protocol=int(kind[-1])))
    with pytest.raises(RefusedWeights, match=f"{name} is refused: it is a pickle"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html><html><body>Not found</body></html>" * 3, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (b"", "unknown format"),
        (bytes(200), "unknown format"),
        ((20).to_bytes(8, "little") + b"{" + b"x" * 19, "header cannot be read"),
        ((2).to_bytes(8, "little") + b"{}" + b"more", "4 bytes follow"),
        ((200).to_bytes(8, "little") + b'{"w":', "truncated"),
        ((14).to_bytes(8, "little") + b'{"w":{"a":1}} ', "header cannot be read"),
    ],
)
def test_what_is_not_safetensors_is_refused_with_what_it_is(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedWeights, match=message):
        read_tensors(path)


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(VALUES, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(RefusedWeights, match=f"truncated: it has {len(whole) - 5} of {len(whole)} bytes"):
        read_tensors(path)


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(VALUES, path)
    path.write_bytes(path.read_bytes().replace(b'"shape":[5,7]', b'"shape":[5,9]'))
    with pytest.raises(RefusedWeights, match="header cannot be read"):
        read_tensors(path)
