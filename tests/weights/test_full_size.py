"""A Stable Diffusion 1.5 file of full size: imported, loaded and run. Takes minutes and 5 GB of disk."""

from __future__ import annotations

import gc
import json
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.types import SamplerName
from deployments.engine.samplers import NoiseSchedule
from serve_app.cli import main
from tests.deployments.engine.scenes import alone, request
from tests.weights import ldm_checkpoint as ldm
from weights import convert, registry

pytestmark = pytest.mark.slow

_GIGABYTE = 1_000_000_000
_PARAMETERS = 859_520_964


def write_checkpoint(path: Path) -> int:
    """Every key of the family with normal values (standard deviation 0.02), written tensor by tensor."""
    names = {"unet": ("model.diffusion_model.", ldm.ldm_unet), "vae": ("first_stage_model.", ldm.ldm_vae)}
    shapes: dict[str, tuple[int, ...]] = {}
    for part, config in convert.family_configs(convert.SD15).items():
        prefix, rename = names.get(part, ("cond_stage_model.transformer.", str))
        for name, shape in convert.expected_shapes(part, config).items():
            shapes[prefix + rename(name)] = shape
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = generator.standard_normal(torch.Size(shape).numel(), dtype=np.float32)
            file.write((values * np.float32(0.02)).astype(np.float16).tobytes())
    return path.stat().st_size


class PeakMemory:
    """The most memory that this process held while watched, in bytes, beyond what it had before."""

    def __enter__(self) -> PeakMemory:
        self._before = self._resident()
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._resident() - self._before)

    def _resident(self) -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    yield tmp_path / "weights"
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()


def test_a_file_of_full_size_is_imported_and_draws(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "full.safetensors"
    assert write_checkpoint(source) > 2.1 * _GIGABYTE
    with PeakMemory() as importing:
        assert main(["weights", "import", str(source), "--name", "full"]) == 0
    source.unlink()
    assert main(["weights", "verify", "full"]) == 0
    assert "full: a base of family sd15" in capsys.readouterr().out
    info = registry.info("full")
    assert (info.family, info.default_size, info.size_multiple, info.max_clip_skip) == ("sd15", 512, 64, 11)

    with PeakMemory() as loading:
        unet = registry.load_unet("full", dtype=torch.float16)
        # The file is mapped; looking at every value brings it into memory.
        assert all(bool(torch.isfinite(parameter).all()) for parameter in unet.parameters())
    assert sum(parameter.numel() for parameter in unet.parameters()) == _PARAMETERS
    unet.to(torch.bfloat16, memory_format=torch.channels_last)
    schedule = NoiseSchedule.from_config(registry.scheduler_config("full"))
    tokenizer, encoder = registry.load_text("full")
    ids = tokenizer(
        ["a photo of a cat", ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    prompt, negative = encoder(ids.input_ids).last_hidden_state
    wanted = request(
        prompt_embeds=prompt,
        negative_embeds=negative,
        noise=torch.randn((4, 32, 32), generator=torch.Generator().manual_seed(0)),
        sampler=SamplerName.DPMPP_2M_KARRAS,
        num_inference_steps=2,
    )
    latents = alone(wanted, unet, schedule=schedule, dtype=torch.bfloat16)
    assert latents.shape == (4, 32, 32)
    assert torch.isfinite(latents).all()
    del unet
    gc.collect()

    vae = registry.load_vae("full")
    picture = vae.decode(latents[None] / vae.config.scaling_factor).sample
    assert picture.shape == (1, 3, 256, 256)
    assert torch.isfinite(picture).all()
    assert importing.peak < 0.5 * _GIGABYTE
    # One copy, of 1.7 GB.
    assert loading.peak < 2.2 * _GIGABYTE
    with capsys.disabled():
        print(f"\nimport peak {importing.peak / 1e9:.2f} GB, UNet load peak {loading.peak / 1e9:.2f} GB")
    assert main(["weights", "remove", "full"]) == 0
    assert not (weights / "full").exists()
